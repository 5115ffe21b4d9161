"""A Glow of MNIST by two objectives, and pictures of its samples and imputations.

    python benchmarks/ebflow_glow.py --data-dir DIR --objective dsm --time-budget 1500
    python benchmarks/ebflow_glow.py --data-dir DIR --objective ml --time-budget 1500

Two levels of six steps with 64 hidden channels behind a whitening. The points are logits of
dequantised pixels; `dsm` sees them whitened, with noise of a standard deviation of 0.4 there. The
kept model has the best exact NLL of 500 validation digits. Samples come from twenty latents, as
they are and multiplied by 0.8, a temperature as Kingma and Dhariwal (2018) have it. Imputed halves
are draws of `flowebm.samplers.impute_rows`. Pictures go to `docs/images`.
"""

import argparse
import json
from datetime import date
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np

from flowebm.data import LogitPixels, load_images
from flowebm.models import glow_ebflow
from flowebm.samplers import impute_rows
from flowebm.training import EBFlowOptions, fit_ebflow
from flowebm.training.driver import Callbacks

IMAGES = Path(__file__).parents[1] / "docs" / "images"
RESULTS = Path(__file__).parent / "results"

SHAPE = (1, 28, 28)
SIGMA = 0.4
N_VALIDATION = 500

#: Of the latents that samples come from.
TEMPERATURES = (1.0, 0.8)

#: Steps of the chains that fill the lower halves.
N_IMPUTATION = 500


def fit(pixels, objective: str, time_budget: float):
    """The fitted model and its history."""

    def show(stage, row, total):
        print(
            f"{row['iteration']}/{total}  {row['seconds']:.0f} s  NLL {row['nll']:.1f}", flush=True
        )

    return fit_ebflow(
        jax.random.key(0),
        glow_ebflow(jax.random.key(1), SHAPE, n_steps=6, width=64, whiten=True),
        pixels[N_VALIDATION:],
        validation=pixels[:N_VALIDATION],
        preprocessing=LogitPixels(SHAPE, smoothness=0.5),
        noise=True,
        options=EBFlowOptions(
            objective=objective,
            sigma=SIGMA,
            learning_rate=5e-4,
            batch_size=64,
            clip=100.0,
        ),
        max_steps=100_000,
        time_budget=time_budget,
        callbacks=Callbacks(on_block=[show]),
    )


def page(path: Path, rows) -> None:
    """Rows of images of values 0 to 256, as one picture."""
    lines = [np.concatenate([np.pad(x.reshape(28, 28), 1) for x in row], axis=1) for row in rows]
    picture = np.kron(np.concatenate(lines), np.ones((2, 2)))
    matplotlib.image.imsave(path, picture, cmap="gray", vmin=0, vmax=256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, help="folder of MNIST's files")
    parser.add_argument("--objective", choices=("dsm", "ml"), default="dsm")
    parser.add_argument("--time-budget", type=float, default=1_500.0, help="seconds of training")
    parser.add_argument("--images", type=Path, default=IMAGES, help="folder of the pictures")
    arguments = parser.parse_args()

    pixels = load_images("mnist", arguments.data_dir, part="all").pixels[:9_000]
    result = fit(pixels, arguments.objective, arguments.time_budget)
    model, logit = result.model, LogitPixels(SHAPE, smoothness=0.5)
    latents = jax.random.normal(jax.random.key(2), (20, *model.latent.shape))
    latents = jnp.concatenate([temperature * latents for temperature in TEMPERATURES])
    digits = logit.inverse_rows(eqx.filter_jit(jax.vmap(model.from_latent))(latents))
    name = f"glow_{arguments.objective}"
    page(arguments.images / f"{name}_samples.png", digits.reshape(4, 10, *SHAPE))

    held_out = pixels[:10].astype(float)
    rows = held_out.copy()
    rows[:, :, 14:] = np.nan
    imputed = impute_rows(
        jax.random.key(3), model, model, logit, rows, n_draws=3, n_steps=N_IMPUTATION
    )
    shown = [held_out, np.where(np.isnan(rows), 128.0, rows), *imputed.draws]
    page(arguments.images / f"{name}_imputation.png", np.asarray(shown))

    RESULTS.mkdir(exist_ok=True)
    record = {
        "date": date.today().isoformat(),
        "iterations": result.history[-1]["iteration"],
        "seconds": result.history[-1]["seconds"],
        "validation_nll": [row["nll"] for row in result.history],
        "stop_reason": result.stop_reason,
    }
    (RESULTS / f"ebflow_{name}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

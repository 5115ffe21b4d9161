"""A Glow of MNIST by two objectives, and pictures of its samples and imputations.

    python benchmarks/ebflow_glow.py --data-dir DIR --objective dsm --time-budget 560
    python benchmarks/ebflow_glow.py --data-dir DIR --objective ml --time-budget 560

Two levels of six steps with 64 hidden channels. The points are logits of dequantised pixels, where
paper and ink are 11 apart, and get noise of a standard deviation of 3 there. `dsm` learns the
density of the noised digits by its score, `ml` the same density by its likelihood, from points
with the same noise. A sample of it is denoised in one step by the model's own score, to the mean
of the digits given it (Tweedie's formula),

    E[x | y] = y - sigma^2 grad E(y).

Imputed halves are Langevin chains on the missing pixels, from a sample's, and are denoised alike.
The kept model has the best exact NLL of noised validation points. Pictures go to `docs/images`.
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

from flowebm.data import LogitPixels, dequantise, load_images
from flowebm.models import glow_ebflow
from flowebm.objectives import dsm, ml
from flowebm.training import ScoreMatchingOptions, fit_score_matching
from flowebm.training.driver import Observers

IMAGES = Path(__file__).parents[1] / "docs" / "images"
RESULTS = Path(__file__).parent / "results"

SHAPE = (1, 28, 28)
SIGMA = 3.0
N_VALIDATION = 500


def objective_of(name: str):
    """Denoising score matching, or maximum likelihood of points with the same noise."""
    if name == "dsm":
        return dsm(SIGMA)
    likelihood = ml()

    def noised(model, x, key):
        noise_key, key = jax.random.split(key)
        return likelihood(model, x + SIGMA * jax.random.normal(noise_key, x.shape), key)

    return noised


def fit(points, objective: str, time_budget: float):
    """The fitted model and its history."""
    noise = np.random.default_rng(1).normal(size=points[:N_VALIDATION].shape)

    def show(stage, row, total):
        print(
            f"{row['iteration']}/{total}  {row['seconds']:.0f} s  NLL {row['nll']:.1f}", flush=True
        )

    return fit_score_matching(
        jax.random.key(0),
        glow_ebflow(jax.random.key(1), SHAPE, n_steps=6, width=64),
        points[N_VALIDATION:],
        validation=points[:N_VALIDATION] + SIGMA * noise,
        objective=objective_of(objective),
        options=ScoreMatchingOptions(batch_size=32, learning_rate=2e-3, average_decay=0.995),
        max_steps=100_000,
        time_budget=time_budget,
        observers=Observers(on_block=[show]),
    )


@eqx.filter_jit
def denoised(model, points):
    """The mean of the digits given noised ones."""
    return points - SIGMA**2 * jax.vmap(jax.grad(model.energy))(points)


@eqx.filter_jit
def imputed(key, model, observed, missing, n_steps: int = 3_000, step: float = 0.5):
    """Noised digits whose missing entries are moved by Langevin steps, observed entries held."""
    start_key, key = jax.random.split(key)
    starts = jax.vmap(model.from_latent)(
        jax.random.normal(start_key, (len(observed), *model.latent.shape))
    )
    points = jnp.where(missing, starts, observed)

    def move(points, key):
        noise = jax.random.normal(key, points.shape)
        gradient = jax.vmap(jax.grad(model.energy))(points)
        moved = points - 0.5 * step**2 * gradient + step * noise
        return jnp.where(missing, moved, points), None

    return jax.lax.scan(move, points, jax.random.split(key, n_steps))[0]


def page(path: Path, rows) -> None:
    """Rows of images of values 0 to 256, as one picture."""
    lines = [np.concatenate([np.pad(x.reshape(28, 28), 1) for x in row], axis=1) for row in rows]
    picture = np.kron(np.concatenate(lines), np.ones((2, 2)))
    matplotlib.image.imsave(path, picture, cmap="gray", vmin=0, vmax=256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, help="folder of MNIST's files")
    parser.add_argument("--objective", choices=("dsm", "ml"), default="dsm")
    parser.add_argument("--time-budget", type=float, default=3_000.0, help="seconds of training")
    parser.add_argument("--images", type=Path, default=IMAGES, help="folder of the pictures")
    arguments = parser.parse_args()

    pixels = load_images("mnist", arguments.data_dir, part="all").pixels[:9_000]
    logit = LogitPixels(SHAPE)
    to_pixels = jax.jit(jax.vmap(logit.inverse))
    points = np.asarray(jax.vmap(logit.transform)(jnp.asarray(dequantise(0, pixels), float)))
    result = fit(points, arguments.objective, arguments.time_budget)
    model = result.model

    latents = jax.random.normal(jax.random.key(2), (40, *model.latent.shape))
    samples = eqx.filter_jit(jax.vmap(model.from_latent))(latents)
    digits = np.asarray(to_pixels(denoised(model, samples)))
    name = f"glow_{arguments.objective}"
    page(arguments.images / f"{name}_samples.png", digits.reshape(4, 10, *SHAPE))

    held_out = jnp.asarray(points[:10])
    missing = jnp.zeros(SHAPE, bool).at[:, 14:].set(True)
    observed = held_out + SIGMA * jax.random.normal(jax.random.key(3), held_out.shape)
    shown = [to_pixels(held_out), jnp.where(missing, 128.0, to_pixels(held_out))]
    for key in range(3):
        filled = denoised(model, imputed(jax.random.key(10 + key), model, observed, missing))
        # What was observed was observed without noise.
        shown.append(jnp.where(missing, to_pixels(filled), to_pixels(held_out)))
    page(arguments.images / f"{name}_imputation.png", np.asarray(shown))

    RESULTS.mkdir(exist_ok=True)
    record = {
        "date": date.today().isoformat(),
        "iterations": result.history[-1]["iteration"],
        "seconds": result.history[-1]["seconds"],
        "validation_nll_of_noised_points": [row["nll"] for row in result.history],
        "stop_reason": result.stop_reason,
    }
    (RESULTS / f"ebflow_{name}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

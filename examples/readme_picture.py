"""The README's picture: data, persistent contrastive divergence (PCD) and flowebm side by side.

    python examples/readme_picture.py

Both models start as the same Gaussian, with the same network. One is fitted as `FlowEBM()` and
`flowebm train` do it; the other by persistent chains without a flow, for as many seconds. Weights
are the models' own, by quadrature.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from flowebm import Architecture, fit_joint, fit_persistent
from flowebm.data import Standardise, load_dataset
from flowebm.models import PreprocessedModel, build
from flowebm.report import density_comparison, save_figure

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "readme.png"

#: Half the side of the square that is integrated over, and its cells along a side.
REACH, CELLS = 20.0, 1200


def normalised(model, mode):
    """The model's log-density of rows, and its mass in each mode, by quadrature."""
    log_density = jax.jit(
        lambda rows: jax.lax.map(model.unnormalized_log_prob, rows, batch_size=20_000)
    )
    width = 2 * REACH / CELLS
    axis = -REACH + width * (np.arange(CELLS) + 0.5)
    grid = jnp.asarray(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2), float)
    values = np.asarray(log_density(grid), np.float64)
    log_z = np.logaddexp.reduce(values) + 2 * np.log(width)
    mass = np.exp(values - log_z) * width**2
    weights = np.bincount(np.asarray(jax.vmap(mode)(grid)), mass, minlength=4)
    return lambda rows: np.asarray(log_density(jnp.asarray(rows, float))) - log_z, weights


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max-steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=PICTURE)
    options = parser.parse_args()

    dataset = load_dataset("mixture")
    mode = dataset.target.mode
    standardise = Standardise.fit(dataset.values)
    rows = jnp.asarray(standardise.transform_rows(dataset.values), float)
    parts = build(Architecture(), (2,), data=rows, key=jax.random.key(0))
    key = jax.random.key(1)
    started = time.monotonic()
    joint = fit_joint(key, parts.model, rows, max_steps=options.max_steps)
    seconds = time.monotonic() - started
    persistent = fit_persistent(key, parts.model, rows, max_steps=10**6, time_budget=seconds)

    shares = np.bincount(np.asarray(jax.vmap(mode)(dataset.values)), minlength=4) / len(rows)
    panels = [("20,000 points", dataset.values, shares)]
    for name, result in (("PCD's model", persistent), ("flowebm's model", joint)):
        model = PreprocessedModel(result.model, standardise)
        panels.append((name, *normalised(model, mode)))
        chains = standardise.inverse_rows(np.asarray(result.chains, np.float64))
        on_chains = np.bincount(np.asarray(jax.vmap(mode)(chains)), minlength=4) / len(chains)
        steps = result.history[-1]["iteration"]
        print(f"{name}: {steps} steps, weights of its chains {np.round(on_chains, 3)}")
    for name, _, weights in panels:
        print(f"{name}: weights {np.round(weights, 4)}")
    print(f"{seconds:.0f} s for each fit, compilation included")
    figure = density_comparison(
        panels, bounds=((-6.5, 6.5), (-6.5, 6.5)), modes=dataset.target.means
    )
    save_figure(figure, options.out, dpi=160)


if __name__ == "__main__":
    main()

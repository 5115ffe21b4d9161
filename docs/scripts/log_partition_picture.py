"""The guide's picture of log Z: estimates with their errors, and k̂, where the truth is known.

    python docs/scripts/log_partition_picture.py

The model is a standard normal in ten dimensions, log Z = 0; proposals are normals of other widths.
"""

import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flowjax.distributions import Normal

from flowebm import EstimateWarning, log_partition
from flowebm.report import save_figure
from flowebm.report.plots.figure import BLUE, VERMILION

PICTURE = Path(__file__).parents[1] / "images" / "log_partition.png"

DIMENSION, DRAWS, KEYS = 10, 5_000, 20
WIDTHS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4, 1.7, 2.0)


def log_density(x):
    """The standard normal's, normalised: log Z is 0."""
    return -0.5 * jnp.sum(x**2) - 0.5 * DIMENSION * jnp.log(2 * jnp.pi)


def estimates(width):
    """Estimates of log Z under independent keys."""
    proposal = Normal(jnp.zeros(DIMENSION), width * jnp.ones(DIMENSION))
    keys = jax.random.split(jax.random.key(0), KEYS)
    return [log_partition(key, log_density, proposal, n=DRAWS) for key in keys]


def main():
    figure, (above, below) = plt.subplots(
        2, sharex=True, figsize=(7, 5), height_ratios=(2, 1), layout="constrained"
    )
    warnings.simplefilter("ignore", EstimateWarning)
    for place, width in enumerate(WIDTHS):
        of_keys = estimates(width)
        values, errors, khats = (
            np.array([getattr(e, name) for e in of_keys]) for name in ("value", "stderr", "khat")
        )
        hits = (np.abs(values) < 1.96 * errors).sum()
        print(
            f"width {width}: log Z {np.median(values):+.3f} ± {np.median(errors):.3f}, "
            f"95% intervals with the truth {hits}/{KEYS}, k̂ {np.median(khats):+.2f}, "
            f"effective draws {np.median([e.ess for e in of_keys]):.0f}"
        )
        shifts = place + np.linspace(-0.3, 0.3, KEYS)
        colour = VERMILION if np.median(khats) > 0.7 else BLUE
        above.errorbar(shifts, values, 1.96 * errors, fmt=".", ms=3, lw=0.8, color=colour)
        below.plot(shifts, khats, ".", ms=3, color=colour)
    above.axhline(0, color="black", lw=0.8)
    above.set_ylabel("log Z, 95% intervals\n(truth: 0), nats")
    below.axhline(0.7, color="black", lw=0.8, ls="--")
    below.set_ylabel("Pareto k̂")
    below.set_xticks(range(len(WIDTHS)), [f"{width:g}" for width in WIDTHS])
    below.set_xlabel("standard deviation of the proposal; the model's is 1")
    save_figure(figure, PICTURE, dpi=120)


if __name__ == "__main__":
    main()

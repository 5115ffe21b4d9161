"""The guide's picture of what score matching cannot see: the weights of separated modes.

    python docs/scripts/score_matching_picture.py

Two mixtures of the same two normals, in other proportions: their densities, their scores, and
both divergences of the second from the first, by quadrature.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from flowebm.report import save_figure
from flowebm.report.plots.figure import BLUE, VERMILION, new_figure, style

PICTURE = Path(__file__).parents[1] / "images" / "score_matching.png"

CENTRE = 4.0
RIGHT_WEIGHTS = (0.5, 0.1)


def log_density(x, right):
    """A mixture of normals at -4 and 4, with this much mass in the right one."""
    left = jnp.log1p(-right) + norm.logpdf(x, -CENTRE)
    return jnp.logaddexp(left, jnp.log(right) + norm.logpdf(x, CENTRE))


def main():
    jax.config.update("jax_enable_x64", True)
    grid = jnp.linspace(-12, 12, 20_001)
    step = grid[1] - grid[0]
    logs = [jax.vmap(log_density, (0, None))(grid, right) for right in RIGHT_WEIGHTS]
    scores = [jax.vmap(jax.grad(log_density), (0, None))(grid, right) for right in RIGHT_WEIGHTS]
    truth = jnp.exp(logs[0])
    kl = step * jnp.sum(truth * (logs[0] - logs[1]))
    fisher = step * jnp.sum(truth * jnp.square(scores[0] - scores[1]))
    spread = step * jnp.sum(truth * jnp.square(scores[0]))
    print(f"KL divergence {kl:.3f} nats; Fisher divergence {fisher:.4f}, of E|s|² = {spread:.3f}")

    figure = new_figure(7, 2.6)
    axes = figure.subplots(1, 2)
    shown = np.abs(grid) < 8
    for right, log, score, colour, line in zip(
        RIGHT_WEIGHTS, logs, scores, (BLUE, VERMILION), ("-", "--"), strict=True
    ):
        label = f"weights {1 - right:g} and {right:g}"
        axes[0].plot(grid[shown], jnp.exp(log)[shown], line, color=colour, label=label)
        axes[1].plot(grid[shown], score[shown], line, color=colour)
    style(axes[0], title="density", xlabel="x")
    style(axes[1], title="score", xlabel="x")
    axes[0].legend(frameon=False, fontsize=9, loc="upper right")
    save_figure(figure, PICTURE, dpi=120)


if __name__ == "__main__":
    main()

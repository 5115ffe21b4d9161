"""The guide's picture of the directions that joint training finds, among 16 coordinates.

    python docs/scripts/joint_picture.py

The mixture of four modes in 16 dimensions, turned at random: its points in two coordinates as they
come, the relevance of its directions, and the points along the two that are found. About a minute.
"""

from pathlib import Path

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from flowebm import Architecture, JointOptions, fit_joint
from flowebm.data import Standardise, load_dataset
from flowebm.models import build
from flowebm.report import save_figure
from flowebm.report.plots.figure import BLUE, GREY, INK, new_figure, style

PICTURE = Path(__file__).parents[1] / "images" / "joint.png"

N, N_VALIDATION, N_SHOWN = 20_000, 2_000, 1_500


def main():
    # Turned, so that no coordinate shows the modes by itself.
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((16, 16)))
    values = load_dataset("mixture", n=N, dim=16, seed=0).values @ turn
    points = jnp.asarray(Standardise.fit(values).transform_rows(values), float)
    train, validation = points[N_VALIDATION:], points[:N_VALIDATION]
    model = build(Architecture(), (16,), data=train, key=jr.key(0)).model
    options = JointOptions(most_networks=0, tilt_steps=0)
    fit = fit_joint(jr.key(0), model, train, validation=validation, options=options)
    if fit.relevance is None or fit.active is None:
        raise SystemExit("No active subspace was found.")
    relevance, stderr, found = fit.relevance.relevance, fit.relevance.stderr, fit.active
    inactive = float(jnp.max(relevance[found:]))
    print(
        f"{found} directions of {relevance.size}: relevance "
        f"{float(relevance[0]):.2f} and {float(relevance[1]):.2f}, the others up to {inactive:.3f}"
    )

    figure = new_figure(8.5, 2.8)
    axes = figure.subplots(1, 3)
    along = np.stack([fit.relevance.change.inverse(x) for x in validation[:N_SHOWN]])
    for side, shown, title, name in (
        (axes[0], validation[:N_SHOWN], "two coordinates", "x"),
        (axes[2], along, "the two directions found", "z"),
    ):
        side.plot(*shown[:, :2].T, ".", color=INK, markersize=1.5, alpha=0.5)
        style(side, title=title, xlabel=f"${name}_1$", ylabel=f"${name}_2$")
    numbers = np.arange(1, relevance.size + 1)
    colours = [BLUE] * found + [GREY] * (relevance.size - found)
    axes[1].bar(numbers, relevance, color=colours, yerr=3.7 * stderr, ecolor=INK)
    style(axes[1], title="relevance", xlabel="direction")
    save_figure(figure, PICTURE, dpi=120)


if __name__ == "__main__":
    main()

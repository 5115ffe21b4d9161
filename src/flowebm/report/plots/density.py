"""A density over two coordinates, with the regions that hold its mass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from flowebm.report.plots.cells import (
    Bounds,
    LogDensityRows,
    cell_centres,
    density_on_grid,
    mass_levels,
)
from flowebm.report.plots.density_image import add_colour_bar, density_norm, draw_density, halo
from flowebm.report.plots.figure import INK, TICK_SIZE, VERMILION, new_figure, style
from flowebm.report.plots.points import axis_name, check_names, pairs

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def density_2d(
    log_prob: LogDensityRows,
    bounds: Bounds,
    points: ArrayLike | None = None,
    *,
    names: Sequence[str] = ("$x_1$", "$x_2$"),
    title: str = "",
    grid: int = 200,
) -> Figure:
    """A density over two coordinates, with the regions of 50 % and 95 % of its mass.

    Args:
        log_prob: Normalised log-density of many points, (m, 2) to (m,), in nats.
        bounds: Intervals of the two coordinates, in their units.
        points: Points to draw on top, shape (n, 2).
        names: Names of the coordinates, with their units.
        title: Title.
        grid: Cells of the grid along each coordinate.

    Returns:
        The figure. A region that does not fit into the bounds is not outlined.

    Raises:
        ValueError: If the bounds are not finite and rising, or the log-density does not give
            one value a point.
    """
    field = density_on_grid(log_prob, bounds, grid)
    names = check_names(names, 2)
    figure = new_figure(4.8, 4.2)
    axes = figure.subplots()
    finite = field[np.isfinite(field)]
    highest = float(finite.max()) if finite.size else 0.0
    image = draw_density(axes, field, bounds, density_norm(highest))
    if points is not None:
        table = pairs(points, "points")
        size = float(np.clip(3000 / len(table), 0.8, 9))
        axes.plot(
            *table.T, linestyle="none", marker=".", markersize=size, color=INK, alpha=0.35, mew=0
        )
    area = np.prod([(high - low) / grid for low, high in bounds])
    levels = mass_levels(field * area, (0.5, 0.95))
    if levels:
        contours = axes.contour(
            *cell_centres(bounds, grid, grid),
            np.nan_to_num(field),
            levels=[level / area for _, level in levels],
            colors=VERMILION,
            linewidths=1.3,
        )
        labels = dict(zip(contours.levels, [f"{p:.0%}" for p, _ in levels], strict=True))
        axes.clabel(contours, fmt=labels, fontsize=TICK_SIZE)
        for text in contours.labelTexts:
            text.set_path_effects([halo()])
    style(axes, title=title, xlabel=axis_name(names[0]), ylabel=axis_name(names[1]))
    axes.set(xlim=bounds[0], ylim=bounds[1])
    add_colour_bar(figure, image, [axes])
    return figure

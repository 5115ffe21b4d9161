"""Densities over two coordinates side by side, on one colour scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from flowebm.refusal import Refused
from flowebm.report.plots.cells import (
    Bounds,
    LogDensityRows,
    density_on_grid,
    histogram_density,
)
from flowebm.report.plots.density_image import add_colour_bar, density_norm, draw_density, halo
from flowebm.report.plots.figure import INK, TICK_SIZE, new_figure, style
from flowebm.report.plots.points import axis_name, check_names, column_range, pairs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class DensityPanel(NamedTuple):
    """One panel of a comparison.

    Attributes:
        title: What it shows.
        density: Points of shape (n, 2), or a normalised log-density of many points, (m, 2) to
            (m,), in nats.
        weights: Mass of each mode, shape (K,), or `None`.
    """

    title: str
    density: ArrayLike | LogDensityRows
    weights: ArrayLike | None = None


def density_comparison(
    panels: Sequence[DensityPanel | tuple[Any, ...]],
    *,
    bounds: Bounds | None = None,
    names: Sequence[str] = ("$x_1$", "$x_2$"),
    modes: ArrayLike | None = None,
    grid: int = 200,
    columns: int = 3,
) -> Figure:
    r"""Densities over two coordinates side by side, all on one colour scale.

    Points become a histogram, counts / (n · area of a cell), where n includes the points out
    of view; a log-density becomes $e^{\log p}$ as it is. Nothing is rescaled: mass that a
    model has elsewhere, or too much of, is seen.

    Args:
        panels: What to show: `DensityPanel`s, or tuples (title, density) and (title, density,
            weights).
        bounds: Intervals of the two coordinates, in their units; those of the points if not
            given.
        names: Names of the coordinates, with their units.
        modes: Centres of the modes, shape (K, 2), where panels' weights are written.
        grid: Cells of a log-density's grid along each coordinate.
        columns: Panels in a row.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no panel, points are not of two coordinates, weights have no
            `modes` to stand at, or there are neither points nor `bounds`.
    """
    panels = [DensityPanel(*parts) for parts in panels]  # type: ignore[arg-type]
    if not panels:
        raise Refused("A density comparison needs at least one panel.")
    centres = None if modes is None else np.asarray(modes, float)
    for panel in panels:
        _check_weights(panel, centres)
    names = check_names(names, 2)
    points = [None if callable(p.density) else pairs(p.density, p.title) for p in panels]
    if bounds is None:
        tables = [table for table in points if table is not None]
        if not tables:
            raise Refused("Without points among the panels, give the `bounds` to draw in.")
        bounds = (
            column_range(*[table[:, 0] for table in tables]),
            column_range(*[table[:, 1] for table in tables]),
        )
    fields = [
        histogram_density(table, bounds)
        if table is not None
        else density_on_grid(panel.density, bounds, grid)  # type: ignore[arg-type]
        for panel, table in zip(panels, points, strict=True)
    ]
    finite = [field[np.isfinite(field)] for field in fields]
    highest = max((float(field.max()) for field in finite if field.size), default=0.0)
    norm = density_norm(highest)

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(0.9 + 2.35 * columns, 0.35 + 2.45 * rows, compress=True)
    cells = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    images = []
    for index, (axes, panel, field) in enumerate(zip(cells, panels, fields, strict=False)):
        images.append(draw_density(axes, field, bounds, norm))
        below = index + columns >= len(panels)
        style(
            axes,
            title=panel.title,
            xlabel=axis_name(names[0]) if below else "",
            ylabel=axis_name(names[1]) if index % columns == 0 else "",
        )
        axes.tick_params(labelbottom=below)
        if panel.weights is not None and centres is not None:
            _write_weights(axes, centres, np.asarray(panel.weights, float), bounds)
    for axes in cells[len(panels) :]:
        axes.remove()
    add_colour_bar(figure, images[0], list(cells[: len(panels)]))
    return figure


def _check_weights(panel: DensityPanel, centres: np.ndarray | None) -> None:
    if panel.weights is None:
        return
    shape = np.shape(panel.weights)
    if centres is None or centres.ndim != 2 or centres.shape[1] != 2 or shape != centres.shape[:1]:
        got = "none" if centres is None else f"an array of shape {centres.shape}"
        raise Refused(
            f"Panel {panel.title!r} has weights of shape {shape}; give `modes` of shape (K, 2) "
            f"with one centre a weight (got {got})."
        )


def _write_weights(axes: Axes, centres: np.ndarray, weights: np.ndarray, bounds: Bounds) -> None:
    low, high = bounds[1]
    for centre, weight in zip(centres, weights, strict=True):
        # Above its mode, or below where the frame leaves no room above.
        up = centre[1] + 0.25 * (high - low) < high
        axes.annotate(
            f"{weight:.3f}" if np.isfinite(weight) else "?",
            centre,
            xytext=(0, 17 if up else -17),
            textcoords="offset points",
            ha="center",
            va="bottom" if up else "top",
            fontsize=TICK_SIZE,
            color=INK,
            path_effects=[halo()],
        )

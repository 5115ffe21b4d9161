"""Densities over two coordinates: one, or several side by side on one colour scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from flowebm.report.plots.figure import INK, LABEL_SIZE, TICK_SIZE, VERMILION, new_figure, style
from flowebm.report.plots.points import (
    axis_name,
    check_names,
    column_range,
    finite_rows,
    mass_levels,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.patheffects import AbstractPathEffect

Bounds = tuple[tuple[float, float], tuple[float, float]]
LogDensityRows = Callable[[Any], Any]

#: Densities are shown by their square root: a mode of a tenth of the mass is then visible.
COLOUR_EXPONENT = 0.5


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
    from matplotlib.colors import PowerNorm

    panels = [DensityPanel(*parts) for parts in panels]  # type: ignore[arg-type]
    if not panels:
        raise ValueError("A density comparison needs at least one panel.")
    centres = None if modes is None else np.asarray(modes, float)
    for panel in panels:
        _check_weights(panel, centres)
    names = check_names(names, 2)
    points = [None if callable(p.density) else _pairs(p.density, p.title) for p in panels]
    if bounds is None:
        tables = [table for table in points if table is not None]
        if not tables:
            raise ValueError("Without points among the panels, give the `bounds` to draw in.")
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
    highest = max((float(field.max()) for field in finite if field.size), default=0.0) or 1.0
    norm = PowerNorm(COLOUR_EXPONENT, vmin=0.0, vmax=highest)

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(0.9 + 2.35 * columns, 0.35 + 2.45 * rows, compress=True)
    cells = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    images = []
    for index, (axes, panel, field) in enumerate(zip(cells, panels, fields, strict=False)):
        images.append(_draw(axes, field, bounds, norm))
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
    _colour_bar(figure, images[0], list(cells[: len(panels)]))
    return figure


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
    from matplotlib.colors import PowerNorm

    field = density_on_grid(log_prob, bounds, grid)
    names = check_names(names, 2)
    figure = new_figure(4.8, 4.2)
    axes = figure.subplots()
    finite = field[np.isfinite(field)]
    highest = float(finite.max()) if finite.size else 0.0
    image = _draw(axes, field, bounds, PowerNorm(COLOUR_EXPONENT, vmin=0, vmax=highest or 1.0))
    if points is not None:
        table = _pairs(points, "points")
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
            text.set_path_effects([_halo()])
    style(axes, title=title, xlabel=axis_name(names[0]), ylabel=axis_name(names[1]))
    axes.set(xlim=bounds[0], ylim=bounds[1])
    _colour_bar(figure, image, [axes])
    return figure


def cell_centres(
    bounds: Bounds, n_first: int, n_second: int
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """Centres of the cells of a grid along either coordinate."""
    centres = []
    for (low, high), n in zip(bounds, (n_first, n_second), strict=True):
        if not (np.isfinite([low, high]).all() and low < high):
            raise ValueError(f"Bounds must be finite and rising; got {low} to {high}.")
        edges = np.linspace(low, high, n + 1)
        centres.append((edges[1:] + edges[:-1]) / 2)
    return centres[0], centres[1]


def density_on_grid(
    log_density: LogDensityRows, bounds: Bounds, grid: int
) -> Float[np.ndarray, "grid grid"]:
    """The density at the cells' centres, rows along the second coordinate; NaN is kept."""
    mesh = np.meshgrid(*cell_centres(bounds, grid, grid))
    rows = np.stack([axis.ravel() for axis in mesh], axis=1)
    log_prob = np.asarray(log_density(rows), float)
    if log_prob.shape != (rows.shape[0],):
        raise ValueError(
            f"The log-density gave shape {log_prob.shape} for points of shape {rows.shape}; it "
            "must give one value a point (`jax.vmap` makes it so)."
        )
    with np.errstate(over="ignore"):
        return np.exp(log_prob).reshape(grid, grid)


def histogram_density(
    points: Float[np.ndarray, "n 2"], bounds: Bounds, bins: int | None = None
) -> Float[np.ndarray, "bins bins"]:
    """Counts / (n · area of a cell), rows along the second coordinate; n counts all points."""
    if bins is None:
        bins = int(np.clip(np.sqrt(len(points)) / 1.6, 12, 90))
    counts, *_ = np.histogram2d(*points.T, bins=bins, range=bounds)
    area = np.prod([(high - low) / bins for low, high in bounds])
    return counts.T / (len(points) * area)


def _pairs(points: ArrayLike, what: str) -> Float[np.ndarray, "n 2"]:
    table = finite_rows(points, f"points of {what!r}")
    if table.shape[1] != 2:
        raise ValueError(f"The points of {what!r} have {table.shape[1]} coordinates; give two.")
    return table


def _check_weights(panel: DensityPanel, centres: np.ndarray | None) -> None:
    if panel.weights is None:
        return
    shape = np.shape(panel.weights)
    if centres is None or centres.ndim != 2 or centres.shape[1] != 2 or shape != centres.shape[:1]:
        got = "none" if centres is None else f"an array of shape {centres.shape}"
        raise ValueError(
            f"Panel {panel.title!r} has weights of shape {shape}; give `modes` of shape (K, 2) "
            f"with one centre a weight (got {got})."
        )


def _draw(axes: Axes, field: np.ndarray, bounds: Bounds, norm: Normalize) -> AxesImage:
    from matplotlib import colormaps

    image = axes.imshow(
        np.ma.masked_invalid(field),
        origin="lower",
        extent=(*bounds[0], *bounds[1]),
        aspect="auto",
        cmap=colormaps["Blues"].with_extremes(bad="#d9b3b3"),
        norm=norm,
    )
    axes.set_box_aspect(1)
    axes.locator_params(nbins=4)
    return image


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
            path_effects=[_halo()],
        )


def _halo() -> AbstractPathEffect:
    from matplotlib.patheffects import withStroke

    return withStroke(linewidth=2.5, foreground="white")


def _colour_bar(figure: Figure, image: AxesImage, axes: list[Axes]) -> None:
    from matplotlib.ticker import MaxNLocator

    bar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02, aspect=25, ticks=MaxNLocator(5))
    bar.set_label("density (per unit area)", fontsize=LABEL_SIZE)
    bar.ax.tick_params(labelsize=TICK_SIZE)
    bar.outline.set_visible(False)  # type: ignore[operator]

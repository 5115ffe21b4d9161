"""Data and samples of a model against each other: marginals and pairs of columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from flowebm.refusal import Refused
from flowebm.report.plots.cells import cell_centres, histogram_density, mass_levels
from flowebm.report.plots.figure import (
    BLUE,
    GREY,
    LABEL_SIZE,
    TICK_SIZE,
    TITLE_SIZE,
    move_offset_to_label,
    new_figure,
    style,
)
from flowebm.report.plots.points import (
    axis_name,
    check_names,
    column_range,
    finite_rows,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Masses of the highest-density regions drawn for pairs.
REGIONS = (0.5, 0.95)
#: Points under which a pair is shown as points: contours of so few are those of the noise.
FEW = 300

Range = tuple[float, float]


def data_against_samples(
    data: ArrayLike, samples: ArrayLike, names: Sequence[str], max_columns: int = 6
) -> Figure:
    """Histograms of each column, and the regions of 50 % and 95 % of the mass of each pair.

    Data are grey areas, samples blue lines. With more than `max_columns` columns, those are
    shown where the model is worst: those of the greatest Kolmogorov distance between data and
    samples, which no choice of units changes.

    Args:
        data: Points, one a row, shape (n, d).
        samples: The model's samples, shape (m, d).
        names: Names of the columns, with their units.
        max_columns: Columns shown at most.

    Returns:
        The figure. Rows with a number that is not finite are left out; its title says how
        many samples that concerned.

    Raises:
        ValueError: If the widths or the number of names differ, or there is no finite row.
    """
    rows, draws = finite_rows(data, "data"), finite_rows(samples, "samples")
    if rows.shape[1] != draws.shape[1]:
        raise Refused(
            f"The data have {rows.shape[1]} columns and the samples {draws.shape[1]}; they must "
            "agree."
        )
    if max_columns < 1:
        raise Refused(f"At least one column must be shown; got max_columns={max_columns}.")
    labels = check_names(names, rows.shape[1])
    distances = [kolmogorov_distance(a, b) for a, b in zip(rows.T, draws.T, strict=True)]
    shown = np.sort(np.argsort(distances, kind="stable")[::-1][:max_columns])
    ranges = [column_range(rows[:, j], draws[:, j]) for j in shown]

    number = len(shown)
    if number == 1:
        figure = new_figure(5.2, 3.4)
    else:
        side = {2: 2.5, 3: 2.0}.get(number, 1.5)
        figure = new_figure(0.5 + side * number, 0.8 + side * number)
    grid = figure.subplots(number, number, squeeze=False, sharex="col")
    for i, j in np.ndindex(number, number):
        axes: Axes = grid[i, j]  # type: ignore[assignment]
        row, column = shown[i], shown[j]
        if j > i:
            axes.remove()
            continue
        if i == j:
            _marginal(axes, rows[:, row], draws[:, row], ranges[i])
            density = "density (per unit)" if number == 1 else "density"
            ylabel = density if i == 0 else ""
        else:
            pair = [column, row]
            _pair(axes, rows[:, pair], draws[:, pair], (ranges[j], ranges[i]))
            ylabel = axis_name(labels[row], 18) if j == 0 else ""
        bottom = i == number - 1
        xlabel = axis_name(labels[column], 40 if number == 1 else 18) if bottom else ""
        style(axes, xlabel=xlabel, ylabel=ylabel)
        axes.locator_params(nbins=3 if number > 1 else 6)
        axes.ticklabel_format(scilimits=(-3, 4), useMathText=True)
        if number > 1:
            # A marginal's height is read against its neighbour's, not in numbers.
            axes.tick_params(labelbottom=bottom, left=i != j, labelleft=j == 0 and i != j)
            axes.spines["left"].set_visible(i != j)
        # Last: ticks' visibility is also that of the offset.
        move_offset_to_label(axes.xaxis)
        if i != j or number == 1:
            move_offset_to_label(axes.yaxis)
    title = _title(number, rows.shape[1], len(np.asarray(samples)) - len(draws))
    figure.suptitle(title, fontsize=TITLE_SIZE if number > 3 else LABEL_SIZE)
    _legend(figure, len(rows), len(draws), below=0.4 if title else 0.05)
    return figure


def kolmogorov_distance(first: Float[np.ndarray, " n"], second: Float[np.ndarray, " m"]) -> float:
    r"""The greatest distance between two empirical distribution functions.

    $\sup_x |F_n(x) - G_m(x)|$, from 0 to 1.
    """
    from scipy.stats import ks_2samp

    return float(ks_2samp(first, second, method="asymp").statistic)  # type: ignore[attr-defined]


def _marginal(axes: Axes, data: np.ndarray, samples: np.ndarray, span: Range) -> None:
    bins = int(np.clip(np.sqrt(min(len(data), len(samples))) / 1.2, 10, 60))
    edges = np.linspace(*span, bins + 1)
    for values, look in (
        (data, {"color": GREY, "alpha": 0.6, "fill": True}),
        (samples, {"color": BLUE, "linewidth": 1.4}),
    ):
        # Values out of view count too, so that what is drawn is the density.
        counts, _ = np.histogram(values, edges)
        axes.stairs(counts / (len(values) * np.diff(edges)), edges, **look)
    axes.set_xlim(span)
    axes.set_ylim(bottom=0)


def _pair(axes: Axes, data: np.ndarray, samples: np.ndarray, bounds: tuple[Range, Range]) -> None:
    # One grid and one smoothing for both: they widen the regions of both alike.
    bins = int(np.clip(min(len(data), len(samples)) ** 0.5 / 2, 16, 50))
    centres = cell_centres(bounds, bins, bins)
    mass, levels = _regions(data, bounds, bins)
    if levels:
        top = max(float(mass.max()), levels[-1]) * 1.01
        greys = ["#d0d0d0", "#a0a0a0"][-len(levels) :]
        axes.contourf(*centres, mass, levels=[*levels, top], colors=greys)
    else:
        axes.plot(*data.T, linestyle="none", marker="o", markersize=3.5, color=GREY, mew=0)
    mass, levels = _regions(samples, bounds, bins)
    if levels:
        axes.contour(*centres, mass, levels=levels, colors=BLUE, linewidths=1.1)
    else:
        axes.plot(*samples.T, linestyle="none", marker="+", markersize=5, color=BLUE, mew=0.9)
    axes.set(xlim=bounds[0], ylim=bounds[1])


def _regions(
    points: np.ndarray, bounds: tuple[Range, Range], bins: int
) -> tuple[np.ndarray, list[float]]:
    """Mass of each cell, smoothed, and the levels of `REGIONS`; none for few points."""
    from scipy.ndimage import gaussian_filter

    cell = float(np.prod([(high - low) / bins for low, high in bounds]))
    mass = gaussian_filter(histogram_density(points, bounds, bins) * cell, 0.8)
    levels = [level for _, level in mass_levels(mass, REGIONS)] if len(points) >= FEW else []
    return mass, levels


def _legend(figure: Figure, n_data: int, n_samples: int, below: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(color=GREY, alpha=0.6, label=f"data ({n_data:,})"),
        Line2D([], [], color=BLUE, label=f"samples ({n_samples:,})"),
    ]
    if len(figure.axes) == 1:
        figure.axes[0].legend(handles=handles, frameon=False, fontsize=TICK_SIZE)
        return
    figure.legend(
        handles=handles,
        frameon=False,
        fontsize=LABEL_SIZE,
        loc="upper right",
        bbox_to_anchor=(1, 1 - below / figure.get_figheight()),
    )


def _title(shown: int, columns: int, not_finite: int) -> str:
    parts = []
    if shown < columns:
        parts.append(f"{shown} of {columns} columns: those that differ most")
    if not_finite:
        parts.append(f"samples not finite, left out: {not_finite:,}")
    return "; ".join(parts)

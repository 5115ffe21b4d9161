"""How a run went: validation NLL, acceptances and log-normaliser over the iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from flowebm.refusal import Refused
from flowebm.report.plots.figure import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    TICK_SIZE,
    VERMILION,
    new_figure,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STAGE_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE)

#: Quantities of the middle panel, all between 0 and 1: key, name, colour, line style.
FRACTIONS = (
    ("ess", "ESS / draws", BLUE, "-"),
    ("global_acceptance", "global acceptance", VERMILION, "--"),
    ("local_acceptance", "local acceptance", GREEN, ":"),
)


class _Stage:
    """The rows of one stage, with iterations that go on from the stage before."""

    def __init__(self, name: str, rows: list[Mapping[str, Any]], offset: float):
        self.name, self.rows, self.offset = name, rows, offset
        iterations = self.column("iteration")
        numbered = np.where(np.isfinite(iterations), iterations, np.arange(len(rows)))
        self.iteration = offset + numbered
        self.end = float(self.iteration.max())

    def column(self, key: str) -> Float[np.ndarray, " rows"]:
        """One number a row; NaN where the row has none."""
        return np.array([np.nan if (v := row.get(key)) is None else v for row in self.rows], float)


def training_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Validation NLL with its error over the iterations, and below it what tells why.

    The panels are the validation NLL (nats a point; the band is one standard error either
    side), the effective sample size and the acceptances (fractions), and the log-normaliser
    (nats). Stages follow one another on the axis of iterations. Rows without a number are
    passed over, and panels without any number are left out. Where a few values at a run's
    start would hide the rest, the NLL's axis is cut and a note says so.

    Args:
        history: Rows of metrics with the keys `stage`, `iteration`, `nll`, `nll_stderr`, `ess`,
            `global_acceptance`, `local_acceptance`, `log_partition` and
            `log_partition_stderr`, each of which may be missing, `None` or NaN.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no row.
    """
    if not history:
        raise Refused("The history has no rows to plot; train for at least one block.")
    stages: list[_Stage] = []
    for name, rows in groupby(history, key=lambda row: str(row.get("stage") or "training")):
        stages.append(_Stage(name, list(rows), stages[-1].end if stages else 0.0))

    def has(*keys: str) -> bool:
        return any(np.isfinite(stage.column(key)).any() for stage in stages for key in keys)

    panels = [_draw_nll]
    heights = [2.4]
    if has(*[key for key, *_ in FRACTIONS]):
        panels.append(_draw_fractions)
        heights.append(1.7)
    if has("log_partition"):
        panels.append(_draw_log_partition)
        heights.append(1.5)
    figure = new_figure(6.4, 0.7 + sum(heights))
    every_axes = figure.subplots(
        len(panels), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    for axes, draw in zip(every_axes, panels, strict=True):
        draw(axes, stages)
        axes.margins(x=0.02)
        axes.grid(axis="y", color=GREY, alpha=0.3, linewidth=0.6)
        for stage in stages[1:]:
            axes.axvline(stage.offset, color=GREY, linewidth=0.9, zorder=0)
    every_axes[-1].set_xlabel("iteration", fontsize=every_axes[-1].yaxis.label.get_size())
    figure.align_ylabels(every_axes)
    return figure


def _draw_nll(axes: Axes, stages: list[_Stage]) -> None:
    for index, stage in enumerate(stages):
        nll, stderr = stage.column("nll"), stage.column("nll_stderr")
        if not np.isfinite(nll).any():
            continue
        best = int(np.nanargmin(np.where(np.isfinite(nll), nll, np.nan)))
        error = f" ± {stderr[best]:.3f}" if np.isfinite(stderr[best]) else ""
        _line(
            axes,
            stage.iteration,
            nll,
            stderr,
            color=STAGE_COLOURS[index % len(STAGE_COLOURS)],
            label=f"{stage.name}: lowest {nll[best]:.3f}{error}",
        )
    style(axes, ylabel="validation NLL (nats)")
    if axes.lines:
        _legend(axes, columns=1 if len(stages) > 2 else 2)
        _cut_start(axes, np.concatenate([stage.column("nll") for stage in stages]))
    else:
        axes.text(0.5, 0.5, "no finite value", ha="center", va="center", transform=axes.transAxes)


def _draw_fractions(axes: Axes, stages: list[_Stage]) -> None:
    for key, name, colour, dashes in FRACTIONS:
        label = name
        for stage in stages:
            values = stage.column(key)
            if np.isfinite(values).any():
                _line(axes, stage.iteration, values, color=colour, linestyle=dashes, label=label)
                label = "_one entry a quantity"
    style(axes, ylabel="fraction")
    axes.set_ylim(-0.03, 1.03)
    _legend(axes, columns=3)


def _draw_log_partition(axes: Axes, stages: list[_Stage]) -> None:
    for index, stage in enumerate(stages):
        values = stage.column("log_partition")
        if np.isfinite(values).any():
            _line(
                axes,
                stage.iteration,
                values,
                stage.column("log_partition_stderr"),
                color=STAGE_COLOURS[index % len(STAGE_COLOURS)],
            )
    style(axes, ylabel="log Z (nats)")


def _line(
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
    stderr: np.ndarray | None = None,
    *,
    color: str,
    **line: Any,
) -> None:
    # A gap between rows would hide points whose neighbours have no number.
    shown = np.isfinite(y)
    x, y = x[shown], y[shown]
    marker = "o" if len(x) < 4 else None
    axes.plot(x, y, color=color, linewidth=1.5, marker=marker, markersize=4, **line)
    if stderr is not None and np.isfinite(stderr[shown]).any():
        error = np.where(np.isfinite(stderr[shown]), stderr[shown], 0.0)
        axes.fill_between(x, y - error, y + error, color=color, alpha=0.25, linewidth=0)


def _legend(axes: Axes, columns: int) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        frameon=False,
        fontsize=TICK_SIZE,
        borderaxespad=0.2,
        handlelength=1.8,
        columnspacing=1.2,
    )


def _cut_start(axes: Axes, nll: np.ndarray) -> None:
    values = nll[np.isfinite(nll)]
    lowest, usual, highest = values.min(), np.quantile(values, 0.9), values.max()
    if len(values) < 10 or highest - lowest <= 4 * (usual - lowest) or usual == lowest:
        return
    top = lowest + 1.4 * (usual - lowest)
    axes.set_ylim(lowest - 0.1 * (top - lowest), top)
    axes.text(
        0.99,
        0.96,
        f"{(values > top).sum()} of {len(values)} values above, up to {highest:.4g}",
        ha="right",
        va="top",
        transform=axes.transAxes,
        fontsize=TICK_SIZE,
    )

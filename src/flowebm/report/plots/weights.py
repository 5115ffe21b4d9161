"""The weights of modes, true and fitted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from flowebm.evaluation import total_variation
from flowebm.refusal import Refused
from flowebm.report.plots.figure import BLUE, GREY, INK, TICK_SIZE, new_figure, style
from flowebm.report.plots.points import axis_name, check_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def mode_weight_bars(
    true: ArrayLike,
    fitted: ArrayLike,
    stderr: ArrayLike | None = None,
    *,
    names: Sequence[str] | None = None,
    of: tuple[str, str] = ("mode", "true"),
) -> Figure:
    """The true and the fitted weight of each mode as bars, side by side.

    Args:
        true: True weights, shape (K,).
        fitted: The model's weights, shape (K,).
        stderr: Standard errors of the fitted weights, shape (K,); drawn as two either side.
        names: Names of the modes; their numbers from 1 if not given.
        of: What has the weights, and what the first of them are called.

    Returns:
        The figure; its title has the total variation between the two.

    Raises:
        ValueError: If the shapes differ.
    """
    truth, model = np.asarray(true, float), np.asarray(fitted, float)
    error = None if stderr is None else np.asarray(stderr, float)
    if truth.ndim != 1 or truth.shape != model.shape or truth.size == 0:
        raise Refused(
            f"True and fitted weights must be vectors of one length; got shapes {truth.shape} "
            f"and {model.shape}."
        )
    if error is not None and error.shape != model.shape:
        raise Refused(
            f"Standard errors of shape {error.shape} do not fit weights of shape {model.shape}."
        )
    number = truth.size
    labels = [str(k + 1) for k in range(number)] if names is None else check_names(names, number)
    place = np.arange(number)
    figure = new_figure(float(np.clip(1.4 + 1.1 * number, 4.2, 9)), 3.2)
    axes = figure.subplots()
    axes.bar(place - 0.2, truth, 0.38, color=GREY, label=of[1])
    label = "model" if error is None else "model ± 2 standard errors"
    axes.bar(place + 0.2, model, 0.38, color=BLUE, label=label)
    if error is not None:
        axes.errorbar(
            place + 0.2, model, 2 * error, fmt="none", ecolor=INK, elinewidth=1.2, capsize=3
        )
    if number <= 8:
        tops = model if error is None else model + 2 * np.nan_to_num(error)
        for side, values, heights in ((-0.2, truth, truth), (0.2, model, tops)):
            for x, value, height in zip(place, values, heights, strict=True):
                if np.isfinite(value):
                    axes.annotate(
                        f"{value:.3f}",
                        (x + side, height),
                        xytext=(0, 2),
                        textcoords="offset points",
                        ha="center",
                        va="bottom",
                        fontsize=TICK_SIZE - 0.5,
                    )
    axes.set_xticks(place, [axis_name(name) for name in labels])
    distance = total_variation(truth, model)  # type: ignore[arg-type]
    style(
        axes,
        title=f"total variation {distance:.4f}",
        xlabel=of[0],
        ylabel="weight (probability)",
    )
    # Room above all bars, for their numbers and for the legend.
    axes.margins(y=0.3)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=TICK_SIZE, loc="upper right", ncols=2)
    return figure

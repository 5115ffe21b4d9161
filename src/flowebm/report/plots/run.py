"""The plots of a run, written into its directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from flowebm.report.plots.cells import LogDensityRows
from flowebm.report.plots.density_comparison import density_comparison
from flowebm.report.plots.figure import save_figure
from flowebm.report.plots.images import image_grid
from flowebm.report.plots.marginals import data_against_samples
from flowebm.report.plots.training import training_curves
from flowebm.report.plots.weights import mode_weight_bars

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Images of a page.
PAGE = 64


def save_run_plots(
    directory: str | Path,
    *,
    data: ArrayLike,
    samples: ArrayLike,
    history: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    log_prob: LogDensityRows | None = None,
    shape: tuple[int, ...] | None = None,
    true_weights: ArrayLike | None = None,
    fitted_weights: ArrayLike | None = None,
    fitted_weights_stderr: ArrayLike | None = None,
    class_shares: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write the plots that apply to a run as `plots/*.png` in its directory.

    These are `training.png` (with a history), `density.png` (two columns and a log-density),
    `marginals.png` (tables), `data_images.png` and `sample_images.png` (images), and
    `mode_weights.png` (true and fitted weights) and `class_shares.png` (labels).

    Args:
        directory: The run directory.
        data: Points in their own units, one a row, or images.
        samples: The model's samples, likewise.
        history: Rows of metrics, as `training_curves` takes them.
        names: Names of the columns, with their units; not used for images.
        log_prob: Normalised log-density of many points in the data's units, (m, 2) to (m,).
        shape: Shape of one point; images are (height, width) or (1 or 3, height, width).
        true_weights: True weights of the modes, shape (K,).
        fitted_weights: The model's weights, shape (K,).
        fitted_weights_stderr: Their standard errors, shape (K,).
        class_shares: Shares of classes, as `evaluation.json` has them.

    Returns:
        The files written.

    Raises:
        ValueError: If the inputs do not fit one another.
    """
    points, draws = np.asarray(data, float), np.asarray(samples, float)
    figures: dict[str, Figure] = {}
    if history:
        figures["training"] = training_curves(history)
    if shape is not None and len(shape) > 1:
        # The data's own grey scale serves for both pages, which can then be compared.
        scale = (float(np.nanmin(points)), float(np.nanmax(points)))
        if not scale[0] < scale[1]:
            scale = (scale[0] - 0.5, scale[0] + 0.5)
        for name, title, images in (("data", "data", points), ("sample", "samples", draws)):
            page = images.reshape(-1, *shape)[:PAGE]
            figures[f"{name}_images"] = image_grid(page, value_range=scale, title=title)
    else:
        figures["marginals"] = data_against_samples(points, draws, names)
        if log_prob is not None and points.ndim == 2 and points.shape[1] == 2:
            panels = [("data", points), ("model", log_prob), ("model's samples", draws)]
            figures["density"] = density_comparison(panels, names=names)
    if true_weights is not None and fitted_weights is not None:
        figures["mode_weights"] = mode_weight_bars(
            true_weights, fitted_weights, fitted_weights_stderr
        )
    if class_shares is not None:
        figures["class_shares"] = mode_weight_bars(
            class_shares["data"],
            class_shares["model"],
            class_shares["model_stderr"],
            names=class_shares["classes"],
            of=("class", "data"),
        )
    folder = Path(directory) / "plots"
    return [save_figure(figure, folder / f"{name}.png") for name, figure in figures.items()]

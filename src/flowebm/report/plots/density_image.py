"""A density as a picture: colours, colour bar, and text that stays readable on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowebm.report.plots.cells import Bounds
from flowebm.report.plots.figure import LABEL_SIZE, TICK_SIZE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.patheffects import AbstractPathEffect

#: Densities are shown by their square root: a mode of a tenth of the mass is then visible.
COLOUR_EXPONENT = 0.5


def density_norm(highest: float) -> Normalize:
    """The colour scale from zero to the highest density."""
    from matplotlib.colors import PowerNorm

    return PowerNorm(COLOUR_EXPONENT, vmin=0.0, vmax=highest or 1.0)


def draw_density(axes: Axes, field: np.ndarray, bounds: Bounds, norm: Normalize) -> AxesImage:
    """Paint a density; cells without a number are pink."""
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


def halo() -> AbstractPathEffect:
    """White around letters, for text on top of a picture."""
    from matplotlib.patheffects import withStroke

    return withStroke(linewidth=2.5, foreground="white")


def add_colour_bar(figure: Figure, image: AxesImage, axes: list[Axes]) -> None:
    """Put the colour scale beside axes."""
    from matplotlib.ticker import MaxNLocator

    bar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02, aspect=25, ticks=MaxNLocator(5))
    bar.set_label("density (per unit area)", fontsize=LABEL_SIZE)
    bar.ax.tick_params(labelsize=TICK_SIZE)
    bar.outline.set_visible(False)  # type: ignore[operator]

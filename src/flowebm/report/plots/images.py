"""Images on a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from flowebm.refusal import Refused
from flowebm.report.plots.figure import TITLE_SIZE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Pixels that are not a number: a colour that no grey image has.
NOT_A_NUMBER = (0.84, 0.37, 0.0)


def image_grid(
    images: ArrayLike,
    columns: int | None = None,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    title: str = "",
) -> Figure:
    """A page of images, row by row in their order.

    Args:
        images: Shape (n, height, width), or (n, channels, height, width) with 1 or 3 channels.
        columns: Images in a row; a square page if not given.
        value_range: Values shown as black and as white (or full colour); others are clipped.
        title: Title.

    Returns:
        The figure. Pixels that are NaN are orange.

    Raises:
        ValueError: If the shape is not that of images, there is none, or the range does not
            rise.
    """
    page = mosaic(images, columns, value_range)
    height, width = page.shape[:2]
    inches = 6.4
    # Long pages stay narrower than wide ones: one page, one look.
    scale = inches / max(width, height)
    figure = new_figure(width * scale, height * scale + (0.35 if title else 0.0))
    axes = figure.subplots()
    axes.imshow(page, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=TITLE_SIZE)
    return figure


def mosaic(
    images: ArrayLike, columns: int | None, value_range: tuple[float, float]
) -> Float[np.ndarray, "height width 3"]:
    """Images side by side in one, one pixel of white between them; values from 0 to 1."""
    stack = np.asarray(images, float)
    if stack.ndim == 3:
        stack = stack[:, None]
    if stack.ndim != 4 or stack.shape[1] not in (1, 3) or 0 in stack.shape:
        raise Refused(
            f"Images must have shape (n, height, width) or (n, 1 or 3, height, width); got "
            f"{np.shape(images)}."
        )
    low, high = value_range
    if not low < high:
        raise Refused(f"The range of values must rise; got {low} to {high}.")
    number, _, height, width = stack.shape
    if columns is None:
        columns = int(np.ceil(np.sqrt(number)))
    if columns < 1:
        raise Refused(f"A page of images needs at least one column; got {columns}.")
    columns = min(columns, number)
    rows = -(-number // columns)
    colours = np.clip((stack - low) / (high - low), 0, 1).transpose(0, 2, 3, 1)
    colours = np.broadcast_to(colours, (number, height, width, 3)).copy()
    colours[np.isnan(colours).any(axis=-1)] = NOT_A_NUMBER
    page = np.ones((rows * (height + 1) - 1, columns * (width + 1) - 1, 3))
    for index, image in enumerate(colours):
        row, column = divmod(index, columns)
        top, left = row * (height + 1), column * (width + 1)
        page[top : top + height, left : left + width] = image
    return page

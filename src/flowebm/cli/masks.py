"""Parts of an image that `flowebm impute` takes as missing."""

import re

import numpy as np
from jaxtyping import Bool

from flowebm.refusal import Refused

#: A box in pixels.
BOX = re.compile(r"(\d+),(\d+),(\d+),(\d+)")


def masked(mask: str, shape: tuple[int, ...]) -> Bool[np.ndarray, "..."]:
    """Where a mask takes an image as missing.

    Args:
        mask: Its name, or a box as `TOP,LEFT,HEIGHT,WIDTH` in pixels.
        shape: Shape of an image, (channels, height, width).

    Raises:
        ValueError: If the shape is not that of an image, or the mask none of it.
    """
    if len(shape) != 3:
        raise Refused(
            f"--mask {mask} hides a part of images, and this run is of tables: leave --mask out, "
            "and leave the entries to be imputed empty."
        )
    _, height, width = shape
    named = {
        "left": (slice(None), slice(0, width // 2)),
        "right": (slice(None), slice(width - width // 2, None)),
        "top": (slice(0, height // 2), slice(None)),
        "bottom": (slice(height - height // 2, None), slice(None)),
        "center": (
            slice(height // 4, height - height // 4),
            slice(width // 4, width - width // 4),
        ),
    }
    box = BOX.fullmatch(mask)
    if mask in named:
        rows, columns = named[mask]
    elif box:
        top, left, high, wide = map(int, box.groups())
        if not (high and wide and top + high <= height and left + wide <= width):
            raise Refused(
                f"--mask {mask} is no box of images of {height}×{width} pixels: TOP and HEIGHT "
                "must add up to no more than the height, LEFT and WIDTH to no more than the width."
            )
        rows, columns = slice(top, top + high), slice(left, left + wide)
    else:
        raise Refused(
            f"--mask must be {', '.join(named)}, or a box as TOP,LEFT,HEIGHT,WIDTH in pixels; got "
            f"{mask}."
        )
    hidden = np.zeros(shape, bool)
    hidden[:, rows, columns] = True
    return hidden

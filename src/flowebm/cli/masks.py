"""Parts of an image that `flowebm impute` takes as missing."""

from typing import Literal

import numpy as np
from jaxtyping import Bool

from flowebm.refusal import Refused

Mask = Literal["left", "right", "top", "bottom", "center"]


def masked(mask: Mask, shape: tuple[int, ...]) -> Bool[np.ndarray, "..."]:
    """Where a mask takes an image as missing.

    Args:
        mask: Its name.
        shape: Shape of an image, (channels, height, width).

    Raises:
        ValueError: If the shape is not that of an image.
    """
    if len(shape) != 3:
        raise Refused(
            f"--mask {mask} hides a part of images, and this run is of tables: leave --mask out, "
            "and leave the entries to be imputed empty."
        )
    _, height, width = shape
    rows, columns = {
        "left": (slice(None), slice(0, width // 2)),
        "right": (slice(None), slice(width - width // 2, None)),
        "top": (slice(0, height // 2), slice(None)),
        "bottom": (slice(height - height // 2, None), slice(None)),
        "center": (
            slice(height // 4, height - height // 4),
            slice(width // 4, width - width // 4),
        ),
    }[mask]
    hidden = np.zeros(shape, bool)
    hidden[:, rows, columns] = True
    return hidden

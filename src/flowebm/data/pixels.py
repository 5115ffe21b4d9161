"""Arrays of numbers as pixels."""

import numpy as np
from jaxtyping import UInt8

from flowebm.refusal import Refused

_CHANNELS = (1, 3)


def as_pixels(array: np.ndarray, where: str) -> UInt8[np.ndarray, "n c h w"]:
    """Images in any usual form as whole-number pixels, channels first.

    Args:
        array: Whole numbers from 0 to 255 of any type, shape `(n, h, w)`, `(n, h, w, c)` or
            `(n, c, h, w)` with 1 or 3 channels.
        where: What the messages call the array.

    Raises:
        ValueError: With one sentence, if the shape or a value is not that of images.
    """
    if array.size == 0:
        raise Refused(f"There are no pixels in {where} (shape {array.shape}): give an image.")
    return np.ascontiguousarray(_bytes(_channels_first(array, where), where))


def _channels_first(array, where):
    first, last = (array.ndim == 4 and array.shape[axis] in _CHANNELS for axis in (1, -1))
    if array.ndim == 3:
        return array[:, None]
    if first and not last:
        return array
    if last and not first:
        return np.moveaxis(array, -1, 1)
    if first and last:
        advice = "both its second and its last axis may be the channels, drop one of them"
    else:
        advice = "give one image a row, with 1 or 3 channels"
    raise Refused(
        f"Expected images of shape (n, h, w), (n, h, w, c) or (n, c, h, w) in {where}, got "
        f"{array.shape}: {advice}."
    )


def _bytes(array, where):
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "fiub":
        raise Refused(
            f"The pixels in {where} are of type {array.dtype}: give whole numbers from 0 to 255."
        )
    # Written so that it is true of a value that is not a number.
    bad = ~((array >= 0) & (array <= 255))
    if array.dtype.kind == "f":
        bad |= array != np.floor(array)
    if bad.any():
        place = np.unravel_index(np.argmax(bad), bad.shape)
        value = array[place]
        advice = (
            "multiply by 255 and round"
            if array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1
            else "give whole numbers from 0 to 255"
        )
        raise Refused(
            f"Image {place[0] + 1} in {where} has a pixel of {value:g}, where pixels are whole "
            f"numbers from 0 to 255: {advice}."
        )
    return array.astype(np.uint8)

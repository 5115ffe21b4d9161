"""Images as whole-number pixels."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one size, as their files have them.

    Attributes:
        name: The name of the set, or the path.
        pixels: The pixels, 0 to 255, shape `(n, c, h, w)` with 1 channel (grey) or 3 (red, green,
            blue).
        labels: The class of each image, shape `(n,)`, or None where a file of them is missing.
        class_names: The names of the classes 0, 1, ..., or None where they are not known.
    """

    name: str
    pixels: UInt8[np.ndarray, "n c h w"]
    labels: Int[np.ndarray, " n"] | None = None
    class_names: tuple[str, ...] | None = None

"""A correlation along an axis in few multiplications, by Fourier transforms in real numbers."""

import numpy as np


def fourier_correlation(
    length: int, taps: int, *, circular: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Matrices $A, B, G$ with $A\,(G k \odot B x) = y$, $y_i = \sum_a k_a\, x_{i + a - r}$.

    $B$ and $G$ hold the rows of discrete Fourier transforms, $A$ those of the inverse. Of each
    complex product $(k' + i k'')(x' + i x'')$ there are the three real ones that suffice,
    $k'(x' + x'')$, $(k'' - k')\,x'$ and $(k' + k'')\,x''$, so that a period of $n$ takes about
    $\tfrac32 n$ products instead of $n$ for each tap; where $k_a$ and $x_i$ are matrices and rows,
    products are all the work. Fourier's points are the well-conditioned ones: rounding is that of
    the sum itself, which it is not at the rational points of small filters.

    Args:
        length: Entries $x_0, \dots$ and $y_0, \dots$.
        taps: Number of taps, odd, $2 r + 1$.
        circular: Whether $x$ is periodic. It is zero outside otherwise, and the period is
            `length + r`.

    Returns:
        $A$ `(length, m)`, $B$ `(m, length)` and $G$ `(m, taps)`, in double precision.

    Source: Winograd (1980), *Arithmetic Complexity of Computations*, for correlations as bilinear
    forms; the three products are Gauss's.
    """
    radius = taps // 2
    period = length if circular else length + radius
    places, offsets = np.arange(length), np.arange(taps) - radius
    forms = []
    for frequency in range(period // 2 + 1):
        angles = 2 * np.pi * frequency * places / period
        cosines, sines = np.cos(angles), np.sin(angles)
        turns = 2 * np.pi * frequency * offsets / period
        real, imaginary = np.cos(turns), np.sin(turns)
        if frequency == 0 or 2 * frequency == period:
            forms.append((cosines / period, cosines, real))
            continue
        forms += [
            (2 / period * (cosines - sines), cosines - sines, real),
            (-2 / period * sines, cosines, imaginary - real),
            (-2 / period * cosines, -sines, real + imaginary),
        ]
    backward, forward, kernels = map(np.stack, zip(*forms, strict=True))
    return backward.T, forward, kernels

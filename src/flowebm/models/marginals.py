"""Columns one by one towards a normal distribution, by monotone splines."""

from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flowjax.bijections import AbstractBijection
from jaxtyping import Array, Float, Scalar

from flowebm.models.batches import on_device
from flowebm.models.recipe import register
from flowebm.refusal import Refused

#: Knots of a column's spline: about as many as the cube root of the rows, of few numbers that
#: programs are compiled for.
KNOTS = np.array([4, 8, 12])

#: Rows beyond the outermost knots on either side, at least.
ROWS_BEYOND = 20

#: Least distance of two knots, in units of the normal scores between them. A pile of equal values
#: has less, and would have slopes without bound.
LEAST_DISTANCE = 0.01


@register
class Marginals(AbstractBijection):
    r"""Monotone rational-quadratic splines $z_i = f_i(x_i)$, straight lines outside their knots.

    Slopes are continuous everywhere. For transforms that are fitted to quantiles and stay as they
    are (`paramax.non_trainable`).

    Args:
        x: Knots of each column, rising; shape `(d, knots)`.
        z: Their images, rising.
        slopes: Slopes there, positive.

    Raises:
        ValueError: If the shapes differ.

    Source: Gregory and Delbourgo (1982), *Piecewise rational quadratic interpolation to monotonic
    data*.
    """

    x: Float[Array, "d knots"]
    z: Float[Array, "d knots"]
    slopes: Float[Array, "d knots"]
    cond_shape: ClassVar[None] = None

    # Written out because type checkers take the abstract attributes for the first fields.
    def __init__(self, x: Array, z: Array, slopes: Array):
        self.x = x
        self.z = z
        self.slopes = slopes

    def __check_init__(self):
        if len({leaf.shape for leaf in jax.tree.leaves((self.x, self.z, self.slopes))}) > 1:
            raise Refused("Knots, images and slopes must have one shape.")

    @property
    def shape(self) -> tuple[int, ...]:
        # Wrapped where it is not trained.
        return jax.tree.leaves(self.x)[0].shape[:1]

    def transform_and_log_det(self, x: Array, condition: Array | None = None):
        z, log_slope = jax.vmap(_spline)(x, self.x, self.z, self.slopes)
        return z, log_slope.sum()

    def inverse_and_log_det(self, y: Array, condition: Array | None = None):
        x = jax.vmap(_inverse)(y, self.x, self.z, self.slopes)
        return x, -jax.vmap(_spline)(x, self.x, self.z, self.slopes)[1].sum()

    def transform_rows(
        self, points: Float[np.ndarray, "n d"]
    ) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
        """`transform_and_log_det` of many points in double precision on the host.

        Entries that are NaN stay so, and add nothing to the logarithm.
        """
        z, log_det = np.empty(points.shape), np.zeros(len(points))
        for j, (knots, images, slopes) in enumerate(self._on_host()):
            column = points[:, j]
            z[:, j], log_slope = _spline(column, knots, images, slopes, _bin_of_rows, np)
            log_det += np.where(np.isnan(column), 0.0, log_slope)
        return z, log_det

    def inverse_rows(self, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """`inverse` of many points in double precision on the host."""
        x = np.empty(points.shape)
        for j, (knots, images, slopes) in enumerate(self._on_host()):
            x[:, j] = _inverse(points[:, j], knots, images, slopes, _bin_of_rows, np)
        return x

    def _on_host(self) -> Iterator[tuple[np.ndarray, ...]]:
        """Knots, images and slopes of every column."""
        arrays = (jax.tree.leaves(part)[0] for part in (self.x, self.z, self.slopes))
        return zip(*(np.asarray(array, np.float64) for array in arrays), strict=True)


def _bin(value: Scalar, ends: Array, x: Array, z: Array, slopes: Array):
    """Both ends of the bin that a value lies in, among `ends`."""
    k = jnp.sum(value > ends[1:-1])
    return (jax.lax.dynamic_slice(values, (k,), (2,)) for values in (x, z, slopes))


def _bin_of_rows(values: np.ndarray, ends: np.ndarray, x, z, slopes):
    """Both ends of the bin that each of many values lies in."""
    k = np.searchsorted(ends[1:-1], values)
    return ((knots[k], knots[k + 1]) for knots in (x, z, slopes))


def _spline(value, x, z, slopes, find_bin=_bin, numpy: Any = jnp):
    """The spline at a value, and the logarithm of its slope; at many with NumPy."""
    inside = numpy.clip(value, x[0], x[-1])
    (x0, x1), (z0, z1), (d0, d1) = find_bin(inside, x, x, z, slopes)
    mean_slope = (z1 - z0) / (x1 - x0)
    xi = (inside - x0) / (x1 - x0)
    between = xi * (1 - xi)
    denominator = mean_slope + (d0 + d1 - 2 * mean_slope) * between
    y = z0 + (z1 - z0) * (mean_slope * xi**2 + d0 * between) / denominator
    numerator = d1 * xi**2 + 2 * mean_slope * between + d0 * (1 - xi) ** 2
    slope = mean_slope**2 * numerator / denominator**2
    # At the outermost knots this slope is that of the line beyond.
    return y + (value - inside) * slope, numpy.log(slope)


def _inverse(value, x, z, slopes, find_bin=_bin, numpy: Any = jnp):
    inside = numpy.clip(value, z[0], z[-1])
    (x0, x1), (z0, z1), (d0, d1) = find_bin(inside, z, x, z, slopes)
    mean_slope = (z1 - z0) / (x1 - x0)
    term = (inside - z0) * (d0 + d1 - 2 * mean_slope)
    a = (z1 - z0) * (mean_slope - d0) + term
    b = (z1 - z0) * d0 - term
    c = -mean_slope * (inside - z0)
    xi = 2 * c / (-b - numpy.sqrt(numpy.maximum(b**2 - 4 * a * c, 0.0)))
    beyond = (value - inside) / numpy.where(value > inside, slopes[-1], slopes[0])
    return x0 + xi * (x1 - x0) + beyond


def fit_marginals(
    points: Float[np.ndarray, "n d"], fixed: tuple[bool, ...] | None = None
) -> Marginals:
    """Splines through the columns' quantiles at even normal scores.

    Args:
        points: Points, one a row.
        fixed: Columns that stay as they are, as circular ones must; none by default.

    Returns:
        The transform of points.

    Source: Fritsch and Butland (1984), *A method for constructing local monotone piecewise cubic
    interpolants*, for the slopes.
    """
    from scipy.stats import norm

    points = np.asarray(points, np.float64)
    n, d = points.shape
    knots = int(KNOTS[np.argmin(np.abs(np.log(KNOTS) - np.log(n) / 3))])
    beyond = min(ROWS_BEYOND / n, 0.1)
    scores = np.linspace(norm.ppf(beyond), -norm.ppf(beyond), knots)
    quantiles = np.quantile(points, norm.cdf(scores), axis=0)
    columns = []
    for j in range(d):
        x, z = _apart(quantiles[:, j], scores)
        if len(x) < 3 or (fixed is not None and fixed[j]):
            x = z = np.linspace(-1.0, 1.0, knots)
        # Columns with piles of equal values have fewer knots: others between them change nothing
        # but the array's shape.
        while len(x) < knots:
            widest = int(np.argmax(np.diff(x)))
            x = np.insert(x, widest + 1, x[widest : widest + 2].mean())
            z = np.insert(z, widest + 1, z[widest : widest + 2].mean())
        columns.append((x, z, _slopes(x, z)))
    return Marginals(*(on_device(np.stack(part)) for part in zip(*columns, strict=True)))


def _apart(x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The knots without those that lie too close to the one before."""
    kept = [0]
    for i in range(1, len(x)):
        if x[i] - x[kept[-1]] > LEAST_DISTANCE * (z[i] - z[kept[-1]]):
            kept.append(i)
    return x[kept], z[kept]


def _slopes(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Weighted harmonic means of the slopes on either side of a knot."""
    widths = np.diff(x)
    secants = np.diff(z) / widths
    left, right = 2 * widths[1:] + widths[:-1], widths[1:] + 2 * widths[:-1]
    inner = (left + right) / (left / secants[:-1] + right / secants[1:])
    return np.concatenate([secants[:1], inner, secants[-1:]])

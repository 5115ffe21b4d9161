"""What a user asks `flowebm.sample` for, checked at the door."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flowjax.bijections import AbstractBijection, Chain, Identity, Invert
from flowjax.distributions import AbstractDistribution, Transformed
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree, Scalar

from flowebm.models.bounds import Rotation, bounds_bijection
from flowebm.models.elliptical_mixture import EllipticalMixture
from flowebm.models.triangular_map import TriangularMap
from flowebm.models.unconstrained import UnconstrainedDensity
from flowebm.models.wide_start import WideStart
from flowebm.refusal import Refused

#: Standard deviation, in coordinates where a half-Cauchy density is normal, of a start beyond one
#: bound: a twentieth of it is further than 30 scales away, another nearer than a thirtieth of one.
ONE_BOUND_SCALE = 1.2

#: Widths of the start around given points, in units of theirs, and the weights of these widths.
POINTS_SCALES, POINTS_WEIGHTS = (1.0, 2.0, 5.0), (0.5, 0.35, 0.15)


class StartPoints(NamedTuple):
    """Many points to start from, such as draws of a prior.

    Attributes:
        points: A pytree like one point's, whose leaves have a leading axis of points.
    """

    points: PyTree[ArrayLike]


class SamplingTarget(NamedTuple):
    """A density over all of space, and where to look for it.

    Attributes:
        model: The density of unconstrained coordinates.
        start: The density that exploration starts from, in the same coordinates.
        centre: A point, of shape `(d,)`.
        scale: How far the start reaches in each coordinate.
        points: Further points that were given, one a row.
        names: What the coordinates are called.
        bounded: Which of them have two bounds.
        periodic: Which of them are circular.
        is_numpy: Whether the function is evaluated outside JAX, without gradients.
    """

    model: UnconstrainedDensity
    start: AbstractDistribution
    centre: Float[Array, " d"]
    scale: Float[Array, " d"]
    points: Float[Array, "n d"]
    names: list[str]
    bounded: Bool[np.ndarray, " d"]
    periodic: Bool[np.ndarray, " d"]
    is_numpy: bool


def sampling_target(
    log_density: Callable[[Any], Scalar],
    initial: int | PyTree[ArrayLike] | AbstractDistribution | StartPoints,
    bounds: tuple[PyTree[ArrayLike], PyTree[ArrayLike]] | None,
    bijection: AbstractBijection | None,
    *,
    periodic: PyTree[ArrayLike] | None = None,
    initial_scale: float = 10.0,
) -> SamplingTarget:
    """The density over all of space, and where exploration starts.

    Args:
        log_density: Maps one point to its log-density up to a constant.
        initial: One point, the number of coordinates, points or a density.
        bounds: Lower and upper bounds, or `None`.
        bijection: A bijection from all of space to points as vectors, or `None`.
        periodic: Which parameters are circular, between their two bounds.
        initial_scale: Scale of the start where there are no bounds.

    Returns:
        The density and its start.

    Raises:
        TypeError: If `log_density` is no function or returns no real number.
        ValueError: If the inputs do not fit each other, or the density is not a number at the
            initial point.
    """
    if not callable(log_density):
        raise TypeError(
            f"log_density must be a function of one point; got {type(log_density).__name__}."
        )
    if bounds is not None and bijection is not None:
        raise Refused("Give bounds or a bijection, not both.")
    if isinstance(initial, AbstractDistribution):
        return _from_density(log_density, initial, bounds, bijection, periodic)
    if not isinstance(initial, StartPoints) and getattr(initial, "ndim", 0) == 2:
        initial = StartPoints(initial)
    given = None
    if isinstance(initial, StartPoints):
        many = _floating(initial.points)
        given = jax.vmap(lambda point: ravel_pytree(point)[0])(many)
        if not given.shape[0] or not bool(jnp.all(jnp.isfinite(given))):
            raise Refused("The initial points are not finite, or there are none.")
        initial = jax.tree.map(lambda leaf: leaf[0], many)
    dimension = _dimension(initial)
    point = jnp.zeros(dimension) if dimension is not None else _floating(initial)
    flat, unravel = ravel_pytree(point)
    if not flat.size:
        raise Refused("The initial point has no coordinates.")
    if not bool(jnp.all(jnp.isfinite(flat))):
        raise Refused("The initial point is not finite: give finite numbers.")
    anchor = None if dimension is not None else flat
    transform, has_low, has_high, circular = _bijection(
        point, flat.size, bounds, bijection, periodic, anchor
    )
    if dimension is not None:
        centre = jnp.zeros(flat.size)
    else:
        centre = transform.inverse(flat)
        if not bool(jnp.all(jnp.isfinite(centre))):
            raise Refused(
                "The initial point is not strictly inside the bounds (or outside of what the "
                "bijection reaches): move it inside."
            )
    log_density, is_numpy = _checked(log_density, unravel(transform.transform(centre)))
    bounded = has_low | has_high
    scale = jnp.where(bounded, ONE_BOUND_SCALE, initial_scale)
    scale = jnp.where(has_low & has_high, 1.0, scale)
    if given is None:
        # Uniform between two bounds, wherever the point is.
        middle = jnp.where(bounded, 0.0, centre)
        start = WideStart(middle, scale, jnp.asarray(bounded))
        points = centre[None]
    else:
        points = jax.vmap(transform.inverse)(given)
        points = points[jnp.all(jnp.isfinite(points), axis=1)]
        if not points.shape[0]:
            raise Refused("None of the initial points is strictly inside the bounds.")
        start = _around(points, scale)
        scale = jnp.maximum(points.std(axis=0), 1e-3 * scale)
    return SamplingTarget(
        model=UnconstrainedDensity(log_density, unravel, transform),
        start=start,
        centre=centre,
        scale=scale,
        points=points,
        names=_names(point),
        bounded=np.asarray(has_low & has_high),
        periodic=circular,
        is_numpy=is_numpy,
    )


def _from_density(log_density, initial, bounds, bijection, periodic) -> SamplingTarget:
    """A start from a density over points as vectors."""
    if len(initial.shape) != 1 or initial.cond_shape is not None:
        raise Refused(
            "A density to start from must be unconditional and over vectors of shape (d,); its "
            f"points have shape {tuple(initial.shape)}."
        )
    draws = initial.sample(jax.random.key(0), (256,))
    base = sampling_target(log_density, draws, bounds, bijection, periodic=periodic)
    start = Transformed(initial, Invert(base.model.bijection)) if bounds or bijection else initial
    return base._replace(start=start)


def _around(points: Array, scale: Array) -> EllipticalMixture:
    """Normals of several widths with the points' mean and covariance, as far as these tell."""
    n, d = points.shape
    covariance = jnp.cov(points.T, bias=True).reshape(d, d) if n > 1 else jnp.zeros((d, d))
    # Few points know little of the covariance: what they do not, the given scale is for.
    weak = scale**2 * (1.0 if n < 2 else 1e-4 if n > 2 * d else 0.1)
    factor = jnp.linalg.cholesky(covariance + jnp.diag(weak))
    return EllipticalMixture(
        jnp.asarray(POINTS_WEIGHTS),
        jnp.broadcast_to(points.mean(axis=0), (len(POINTS_SCALES), d)),
        jnp.asarray(POINTS_SCALES)[:, None, None] * factor,
        tail_fraction=0.1,
        tail_scale=3.0,
    )


def _names(point: PyTree[Array]) -> list[str]:
    """`x[0]`, `rate`, `weights[2]`: what a user calls each coordinate."""
    names = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(point):
        name = jax.tree_util.keystr(path, simple=True, separator=".") or "x"
        places = np.ndindex(leaf.shape)
        names += [f"{name}[{', '.join(map(str, place))}]" if place else name for place in places]
    return names


def _dimension(initial: Any) -> int | None:
    """The number of coordinates where that is what was given."""
    if isinstance(initial, bool):
        raise TypeError("The initial point must be an array, a pytree of arrays or a number.")
    if not isinstance(initial, int | np.integer):
        return None
    if initial < 1:
        raise Refused(f"The number of coordinates must be 1 or more; got {initial}.")
    return int(initial)


def _floating(initial: PyTree[ArrayLike]) -> PyTree[Array]:
    try:
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, float), initial)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "The initial point must be an array or a pytree of arrays of numbers, or the number "
            f"of coordinates; got {type(initial).__name__}."
        ) from error


def _bijection(
    point: PyTree[Array],
    dimension: int,
    bounds: tuple[PyTree[ArrayLike], PyTree[ArrayLike]] | None,
    bijection: AbstractBijection | None,
    periodic: PyTree[ArrayLike] | None,
    anchor: Array | None,
) -> tuple[AbstractBijection, np.ndarray, np.ndarray, np.ndarray]:
    """The bijection, and which coordinates have a lower bound, an upper one, a period."""
    none = np.zeros(dimension, bool)
    if bijection is not None:
        if tuple(bijection.shape) != (dimension,) or bijection.cond_shape is not None:
            raise Refused(
                f"The bijection must be unconditional and of shape ({dimension},), the shape of "
                f"the point as a vector; its shape is {tuple(bijection.shape)}."
            )
        return bijection, none, none, none
    if bounds is None:
        if periodic is not None:
            raise Refused("Circular parameters need two bounds: give bounds beside periodic.")
        return Identity((dimension,)), none, none, none
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise Refused("bounds must be a pair (lower, upper).")
    lower, upper = (_flat_bound(bound, point) for bound in bounds)
    transform = bounds_bijection(lower, upper, dimension)
    low, high = (np.broadcast_to(np.asarray(b, float), (dimension,)) for b in (lower, upper))
    has_low, has_high = np.isfinite(low), np.isfinite(high)
    if anchor is not None:
        # Beyond one bound the scale is that of the point.
        away = np.abs(np.asarray(anchor) - np.where(has_low, low, np.where(has_high, high, 0)))
        away = np.where((has_low ^ has_high) & (away > 0), away, 1.0)
        transform = bounds_bijection(lower, upper, dimension, away)
    if periodic is None:
        return transform, has_low, has_high, none
    circular = np.broadcast_to(np.asarray(_flat_bound(periodic, point)) > 0, (dimension,))
    if np.any(circular & ~(has_low & has_high)):
        wrong = int(np.argmax(circular & ~(has_low & has_high)))
        raise Refused(f"Coordinate {wrong} is circular and has not two finite bounds.")
    rotation = Rotation(np.where(circular, low, 0.0), np.where(circular, high - low, np.inf))
    return Chain([transform, rotation]), has_low, has_high, circular


def straightened(target: SamplingTarget, fitted: TriangularMap) -> SamplingTarget:
    """The same target in the coordinates of a triangular map."""
    model = target.model
    bijection = Chain([fitted, model.bijection])
    return target._replace(
        model=UnconstrainedDensity(model.log_density, model.unravel, bijection),
        start=Transformed(target.start, Invert(fitted)),
        bounded=np.zeros_like(target.bounded),
    )


def turned(target: SamplingTarget, x: Array, weights: np.ndarray) -> SamplingTarget:
    """The same target with the seam of each circular coordinate where the mass is least.

    Args:
        target: The target.
        x: Points of the user's space as vectors, one a row.
        weights: Their weights.
    """
    if not target.periodic.any():
        return target
    assert isinstance(target.model.bijection, Chain)
    *_, rotation = target.model.bijection.bijections
    assert isinstance(rotation, Rotation)
    shift = np.array(rotation.shift)
    for i in np.flatnonzero(target.periodic):
        width = float(rotation.width[i])
        places = np.mod((np.asarray(x[:, i]) - float(rotation.low[i])) / width, 1.0)
        mass, edges = np.histogram(places, bins=48, range=(0, 1), weights=weights)
        # Over three bins: one may be empty by chance.
        smooth = mass + np.roll(mass, 1) + np.roll(mass, -1)
        shift[i] = width * (edges[np.argmin(smooth)] + 0.5 / 48)
    model = eqx.tree_at(
        lambda m: m.bijection.bijections[-1].shift, target.model, jnp.asarray(shift, float)
    )
    return target._replace(model=model)


def _flat_bound(bound: PyTree[ArrayLike], point: PyTree[Array]) -> ArrayLike:
    """A bound for the point's vector: from one a leaf, or from one array."""
    structure = jax.tree.structure(point)
    if structure.num_leaves > 1 and jax.tree.structure(bound) == structure:
        bound = jax.tree.map(lambda b, p: jnp.broadcast_to(b, p.shape), bound, point)
        return ravel_pytree(bound)[0]
    try:
        return np.ravel(np.asarray(bound, float)) if np.ndim(bound) else float(bound)
    except (TypeError, ValueError) as error:
        raise Refused(
            "A bound must be one number, an array, or a pytree of the initial point's "
            f"structure; got {bound!r}."
        ) from error


def _checked(log_density: Callable[[Any], Scalar], point: PyTree[Array]):
    """The function as JAX can trace it, and whether it is one of NumPy."""
    shapes = jax.tree.map(lambda leaf: leaf.shape, point)
    is_numpy = False
    try:
        value = jax.eval_shape(log_density, point)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
        log_density, is_numpy = _outside_jax(log_density, point), True
        value = jax.eval_shape(log_density, point)
    except Exception as error:
        raise Refused(
            f"log_density cannot be traced by JAX at a point of shape {shapes}: "
            f"{type(error).__name__}: {error}. It must take one point and use jax.numpy."
        ) from error
    if not isinstance(value, jax.ShapeDtypeStruct):
        raise TypeError(
            f"log_density must return one real number; it returns a {type(value).__name__}."
        )
    if value.shape != ():
        raise Refused(
            f"log_density must return one number for one point; it returns an array of shape "
            f"{value.shape} for a point of shape {shapes}: sum over it, or vmap outside."
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"log_density must return a real number; it returns {value.dtype}.")
    number = float(jax.jit(log_density)(point))
    if np.isnan(number) or number == np.inf:
        raise Refused(
            f"log_density is {number} at the initial point: give a point where it is a number, or "
            "the bounds of the parameters."
        )
    return log_density, is_numpy


def _outside_jax(log_density: Callable[[Any], Any], point: PyTree[Array]):
    """A function of NumPy arrays as one that JAX calls back, a batch of points at a time."""
    host_point = jax.tree.map(np.asarray, point)
    try:
        number = np.asarray(log_density(host_point))
    except Exception as error:
        raise Refused(
            "log_density can neither be traced by JAX nor be called with NumPy arrays: "
            f"{type(error).__name__}: {error}. It must take one point and use jax.numpy or numpy."
        ) from error
    if number.shape != () or not np.issubdtype(number.dtype, np.floating):
        raise TypeError(
            "log_density must return one real number; with NumPy arrays it returns an array of "
            f"shape {number.shape} and type {number.dtype}."
        )

    def many(points):
        leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, points))
        n_axes = leaves[0].ndim - jax.tree.leaves(host_point)[0].ndim
        batch = leaves[0].shape[:n_axes]
        rows = [leaf.reshape(-1, *leaf.shape[n_axes:]) for leaf in leaves]
        values = [
            log_density(jax.tree.unflatten(structure, [leaf[i] for leaf in rows]))
            for i in range(len(rows[0]))
        ]
        return np.asarray(values, np.float32).reshape(batch)

    def called_back(x):
        result = jax.ShapeDtypeStruct((), jnp.float32)
        return jax.pure_callback(many, result, x, vmap_method="broadcast_all")

    return called_back

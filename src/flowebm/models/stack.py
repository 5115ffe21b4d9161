"""A stack of densities: their mixture in shares that held-out points choose."""

from collections.abc import Sequence
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
from flowjax.bijections import Invert
from flowjax.distributions import AbstractDistribution, Transformed
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Scalar

from flowebm.models.batches import SIZES, in_batches, on_device
from flowebm.models.gaussian_mixture import GaussianMixture
from flowebm.models.marginals import Marginals
from flowebm.models.random_start import seed_of
from flowebm.models.recipe import register
from flowebm.refusal import Refused

#: Rows that NumPy takes at once.
AT_ONCE = SIZES[0]


@register
class Stack(AbstractDistribution):
    r"""$p(x) = \sum_j s_j\, q_j(x)$ of densities that were fitted apart.

    It is normalised, sampled as easily as its parts are, and covers what any of them covers.

    Args:
        components: The densities $q_j$, over points of one shape.
        log_shares: $\log s_j$, adding up to one.

    Raises:
        ValueError: If there are no components, or they differ in shape or in number from the
            shares.

    Source: Smyth and Wolpert (1999), *Linearly combining density estimators via stacking*.
    """

    components: tuple[AbstractDistribution, ...]
    log_shares: Float[Array, " components"]
    cond_shape = None

    # Written out because type checkers take the abstract attributes for the first fields.
    def __init__(self, components: Sequence[AbstractDistribution], log_shares: Array):
        self.components = tuple(components)
        self.log_shares = log_shares

    def __check_init__(self):
        if not self.components or len(self.components) != jax.tree.leaves(self.log_shares)[0].size:
            raise Refused("A stack needs as many shares as components, and one at least.")
        if len({component.shape for component in self.components}) != 1:
            raise Refused("The components of a stack must be over points of one shape.")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.components[0].shape

    def _log_prob(self, x: Array, condition: Array | None = None) -> Scalar:
        of_each = jnp.stack([component._log_prob(x) for component in self.components])
        return jax.nn.logsumexp(self.log_shares + of_each)

    def _sample(self, key: PRNGKeyArray, condition: Array | None = None) -> Array:
        choice_key, *keys = jr.split(key, len(self.components) + 1)
        of_each = [c._sample(k) for c, k in zip(self.components, keys, strict=True)]
        return jnp.stack(of_each)[jr.categorical(choice_key, self.log_shares)]

    def draw(self, key: PRNGKeyArray, n: int) -> Float[Array, "n *shape"]:
        """Independent draws, of which each costs one draw of one component.

        Args:
            key: Random key.
            n: Number of draws.

        Returns:
            Points, one a row, in random order.
        """
        # One by one, so that no program is compiled for their number.
        keys = [jr.fold_in(key, i) for i in range(1, len(self.components) + 1)]
        seed = seed_of(key)
        shares = np.exp(np.asarray(paramax.unwrap(self.log_shares), np.float64))
        counts = np.random.default_rng(seed).multinomial(n, shares / shares.sum())
        parts = [
            draw_batches(k, component, int(count))
            for k, component, count in zip(keys, self.components, counts, strict=True)
            if count
        ]
        order = np.random.default_rng(seed + 1).permutation(n)
        return on_device(np.concatenate(parts)[order])


def draw(key: PRNGKeyArray, density: AbstractDistribution, n: int) -> Float[Array, "n *shape"]:
    """Independent draws of a density, some thousands at a time.

    Args:
        key: Random key.
        density: The distribution.
        n: Number of draws.

    Returns:
        Points, one a row.
    """
    if isinstance(density, Stack):
        return density.draw(key, n)
    return on_device(draw_batches(key, density, n))


def draw_batches(
    key: PRNGKeyArray, density: AbstractDistribution, n: int
) -> Float[np.ndarray, "n *shape"]:
    """Independent draws of a density, some thousands at a time.

    Args:
        key: Random key.
        density: The distribution.
        n: Number of draws.

    Returns:
        Points, one a row.
    """
    # One program a component serves any number of draws: of images, which are dear, fewer.
    closed = closed_form(density)
    if closed is not None:
        mixture, marginals = closed
        z = mixture.draw_rows(np.random.default_rng(seed_of(key)), n)
        return z if marginals is None else marginals.inverse_rows(z)
    at_once = SIZES[len(density.shape) == 3]
    keys = (jr.fold_in(key, i) for i in range(-(-n // at_once)))
    return np.concatenate([np.asarray(_draws(k, density, at_once)) for k in keys])[:n]


@eqx.filter_jit
def _draws(key: PRNGKeyArray, density: AbstractDistribution, n: int) -> Array:
    return paramax.unwrap(density).sample(key, (n,))


def log_probs(
    density: AbstractDistribution, points: Float[ArrayLike, "m *shape"]
) -> Float[np.ndarray, " m"]:
    """The log-density of every point, nats.

    Of a stack each component has a program of its own, whatever it is stacked with.

    Args:
        density: The distribution.
        points: One a row.

    Returns:
        In double precision.
    """
    if isinstance(density, Stack):
        log_shares = np.asarray(paramax.unwrap(density.log_shares), np.float64)
        of_each = np.stack([log_probs(component, points) for component in density.components])
        return np.logaddexp.reduce(log_shares[:, None] + of_each, axis=0)
    closed = closed_form(density)
    if closed is None:
        return in_batches(partial(_log_probs, density), points).astype(np.float64)
    mixture, marginals = closed
    rows, parts = np.asarray(points, np.float64), []
    # Of a mixture of a hundred Gaussians all points at once could take gigabytes.
    for start in range(0, max(1, len(rows)), AT_ONCE):
        z, log_det = rows[start : start + AT_ONCE], 0.0
        if marginals is not None:
            z, log_det = marginals.transform_rows(z)
        parts.append(mixture.log_prob_rows(z) + log_det)
    return np.concatenate(parts)


def closed_form(density: AbstractDistribution) -> tuple[GaussianMixture, Marginals | None] | None:
    """A mixture of Gaussians, of points or of their marginal transforms: NumPy computes both.

    Args:
        density: Any density.

    Returns:
        The mixture, and the transforms, if there are any; `None` of another density.
    """
    if isinstance(density, GaussianMixture):
        return density, None
    if isinstance(density, Transformed) and isinstance(density.base_dist, GaussianMixture):
        inverse = density.bijection
        if isinstance(inverse, Invert) and isinstance(inverse.bijection, Marginals):
            return density.base_dist, inverse.bijection
    return None


@eqx.filter_jit
def _log_probs(
    density: AbstractDistribution, points: Float[Array, "m *shape"]
) -> Float[Array, " m"]:
    # Of a mixture of a hundred Gaussians all points at once would take gigabytes.
    return jax.lax.map(density.log_prob, points, batch_size=min(points.shape[0], 512))

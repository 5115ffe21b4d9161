"""Mixtures of Gaussians, and flows that are mixed with one."""

from math import prod

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from flowjax.distributions import AbstractDistribution, VmapMixture
from jaxtyping import Array, Float

from flowebm.models.bases import gaussian_of
from flowebm.models.defensive import DefensiveMixture


def gaussian_mixture_of(
    weights: Float[Array, " k"],
    means: Float[Array, "k d"],
    covariances: Float[Array, "k d d"],
    shape: tuple[int, ...],
) -> VmapMixture:
    r"""The mixture $\sum_j w_j\, \mathcal N(x; \mu_j, \Sigma_j)$.

    Args:
        weights: $w_j$, positive; they need not add up to one.
        means: $\mu_j$, flattened.
        covariances: $\Sigma_j$, of full rank.
        shape: Shape of one point.

    Returns:
        A distribution over points.

    Source: McLachlan and Peel (2000), *Finite mixture models*, chapter 3.
    """
    parts = [gaussian_of(*part, shape) for part in zip(means, covariances, strict=True)]
    # Built one by one: made under `vmap`, their functions would hold its tracers.
    arrays, static = eqx.partition(parts, eqx.is_array)
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays)
    return VmapMixture(eqx.combine(together, static[0]), weights)


def standard_mixture(components: int, shape: tuple[int, ...]) -> VmapMixture:
    """A mixture of standard normals, into which saved arrays are read.

    Args:
        components: Gaussians of the mixture.
        shape: Shape of one point.

    Returns:
        A distribution over points.
    """
    size = prod(shape)
    covariances = jnp.broadcast_to(jnp.eye(size), (components, size, size))
    means = jnp.zeros((components, size))
    return gaussian_mixture_of(jnp.ones(components), means, covariances, shape)


def stacked(
    flow: AbstractDistribution, mixture: AbstractDistribution, fraction: float
) -> DefensiveMixture:
    r"""A flow and a mixture of Gaussians, $(1 - s)\, q(x) + s \sum_j w_j \mathcal N_j(x)$.

    Where rows are few, each errs where the other need not, and the two together are closer to
    the data than either.

    Args:
        flow: $q$.
        mixture: The mixture, which is not trained any further.
        fraction: Its share $s$, inside (0, 1).

    Returns:
        The density of the two, over points of the same shape.

    Raises:
        ValueError: If the shapes differ or the share is not inside (0, 1).

    Source: Smyth and Wolpert (1999), *Linearly combining density estimators via stacking*.
    """
    return DefensiveMixture(flow, paramax.non_trainable(mixture), fraction)

"""Which directions of the data hold more than a Gaussian, judged on held-out points."""

from collections.abc import Callable
from math import prod

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from flowjax.distributions import Transformed
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar

from flowebm.models.linear_change import LinearChange

#: Standard deviation of the noise that makes scores smooth, in whitened coordinates.
SMOOTHING = 0.2

#: Points whose scores are evaluated at once.
AT_ONCE = 1000

#: Standard errors above zero from which a direction counts as relevant: of 100 inactive directions
#: in 100 fits about one is taken in, which costs nothing.
SIGNIFICANCE = 3.7


#: Relevance below which a direction is left to the Gaussian: that costs at most half of it in nats.
NEGLIGIBLE = 0.02


class Relevance(eqx.Module):
    r"""Directions of whitened space, ordered by how far from Gaussian a density is along them.

    Attributes:
        change: From coordinates along the directions to points, $x = L V z + m$: in $z$ the
            Gaussian is standard normal, and the first coordinates are the most relevant.
        relevance: $\lambda_i$ (nats per whitened unit squared), as estimated below.
        stderr: Their standard errors.

    Source: Zahm et al. (2022); `relevant_directions` has the equations.
    """

    change: LinearChange
    relevance: Float[Array, " d"]
    stderr: Float[Array, " d"]

    @property
    def n_relevant(self) -> Int[Array, ""]:
        """Leading directions up to the last whose relevance is significant and not negligible."""
        counts = self.relevance > jnp.maximum(NEGLIGIBLE, SIGNIFICANCE * self.stderr)
        return jnp.max(jnp.where(counts, jnp.arange(counts.size) + 1, 0))


@eqx.filter_jit
def relevant_directions(
    key: PRNGKeyArray,
    log_density: Callable[[Array], Scalar],
    gaussian: Transformed,
    points: Float[Array, "n *shape"],
    held_out: Float[Array, "m *shape"],
) -> Relevance:
    r"""Find the directions along which a fitted density, rightly, differs from a Gaussian.

    In whitened coordinates $z = L^{-1}(x - m)$ of the Gaussian $b$, let $q$ be the fitted
    density and $g = \nabla_z \log(q / b)$. Directions are the eigenvectors of
    $\mathbb E[g g^\top]$ over `points`: the leading ones span the smallest subspace on which
    $q / b$ depends. What a density has memorised shows up there too, so each direction is judged
    on held-out points by its product with the *true* $g^* = \nabla_z \log(p / b)$, which Stein's
    identity gives without knowing $p$:

    $$\lambda_i = \mathbb E_p[g_i g_i^*] = \mathbb E_p[z_i g_i - \partial_i g_i].$$

    Memorised noise has mean zero; half the sum of $\lambda_i$ over directions that are left out
    bounds the KL divergence that this costs where $q = p$. Both expectations are those of
    points with a little normal noise $\sigma\xi$ added, for which the identity reads
    $\mathbb E[g_i(\tilde z)(\tilde z_i / (1 + \sigma^2) - \xi_i / \sigma)]$: splines have
    kinks in their log-derivatives, where $\partial_i g_i$ misses what is essential. Antithetic
    pairs $\pm\xi$ keep its variance small.

    Args:
        key: Random key of the noise.
        log_density: $\log q$ of one point, up to a constant.
        gaussian: $b$, an affine transform of a standard normal (`gaussian_base`).
        points: Points, one a row, from which the directions are found; those of the fit will do.
        held_out: Points that took no part in the fit.

    Returns:
        The directions with their relevance.

    Source: Zahm et al. (2022), *Certified dimension reduction in nonlinear Bayesian inverse
    problems*, section 2, for the matrix and the bound; Hyvärinen (2005) for the identity.
    """
    shape, size = points.shape[1:], prod(points.shape[1:])
    restore = gaussian.bijection.transform
    # An affine map is its Jacobian and where it takes zero.
    factor = jax.jacfwd(lambda z: restore(z.reshape(shape)).ravel())(jnp.zeros(size))
    offset = restore(jnp.zeros(shape)).ravel()
    whiten = jax.vmap(lambda x: gaussian.bijection.inverse(x).ravel())

    def log_ratio(z):
        return log_density((factor @ z + offset).reshape(shape)) + 0.5 * z @ z

    z, noise = whiten(held_out), jr.normal(key, (held_out.shape[0], size))
    above, below = z + SMOOTHING * noise, z - SMOOTHING * noise
    # In one loop of whole batches, because the gradient of a flow takes seconds to compile.
    parts = whiten(points), above, below
    everywhere = jnp.concatenate(parts)
    n = everywhere.shape[0]
    at_once = min(AT_ONCE, n)
    padded = jnp.pad(everywhere, ((0, -n % at_once), (0, 0)))
    scores = jax.lax.map(jax.grad(log_ratio), padded, batch_size=at_once)[:n]
    at_points, at_above, at_below = jnp.split(
        scores, (points.shape[0], points.shape[0] + held_out.shape[0])
    )
    # Ascending eigenvalues, so the last direction is the first.
    second_moment = at_points.T @ at_points / points.shape[0]
    directions = jnp.linalg.eigh(second_moment)[1][:, ::-1]
    at_above, at_below = at_above @ directions, at_below @ directions
    products = 0.5 * (at_above * (above @ directions) + at_below * (below @ directions)) / (
        1 + SMOOTHING**2
    ) - (at_above - at_below) * (noise @ directions) / (2 * SMOOTHING)
    stderr = jnp.std(products, axis=0) / jnp.sqrt(products.shape[0])
    change = LinearChange(
        factor @ directions,
        directions.T @ jnp.linalg.inv(factor),
        jnp.linalg.slogdet(factor)[1],
        offset,
        shape,
    )
    return Relevance(change, jnp.mean(products, axis=0), stderr)

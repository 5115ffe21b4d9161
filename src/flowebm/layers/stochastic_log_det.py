"""Log-determinants of linear layers too large to factorise."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from flowebm.layers.layer import AbstractConstantJacobianLayer
from flowebm.refusal import Refused


class LogDetEstimate(NamedTuple):
    """An estimate of a log-determinant, with its errors.

    Attributes:
        value: The estimate, in nats.
        standard_error: Its standard error from the random probes.
        truncation: By how much it changed when the number of steps doubled: an indication of
            the bias of stopping after finitely many, which the standard error does not contain.
    """

    value: Scalar
    standard_error: Scalar
    truncation: Scalar


def stochastic_log_det(
    key: PRNGKeyArray,
    layer: AbstractConstantJacobianLayer,
    *,
    n_probes: int = 16,
    n_steps: int = 32,
) -> LogDetEstimate:
    r"""Stochastic Lanczos quadrature of $\log|\det A|$, $A$ the layer's matrix.

    $$\log|\det A| = \tfrac12 \mathrm{tr} \log A^T A
      = \mathbb E_v\left[\tfrac12 v^T \log(A^T A)\, v\right], \qquad v \text{ Rademacher},$$

    each term by Lanczos quadrature: $2 k n$ products with $A$ and $A^T$ for $k$ steps and
    $n$ probes, where a factorisation costs $O(D^3)$. The matrix is never formed.

    Args:
        key: PRNG key.
        layer: The layer.
        n_probes: Number of random vectors $n$, at least 2.
        n_steps: Number of Lanczos steps $k$; ill-conditioned layers need more.

    Returns:
        The estimate, its standard error and an indication of its truncation, in nats.

    Raises:
        ValueError: If there are fewer than two probes or steps.

    Source: Ubaru, Chen, Saad (2017), *Fast estimation of tr(f(A)) via stochastic Lanczos
    quadrature*.
    """
    if n_probes < 2 or n_steps < 2:
        raise Refused(
            "stochastic_log_det needs at least two probes and two steps; got "
            f"n_probes={n_probes} and n_steps={n_steps}."
        )
    dtype = jax.eval_shape(layer.log_det).dtype
    probes = jax.random.rademacher(key, (n_probes, *layer.shape), dtype)
    n_steps = min(n_steps, probes[0].size)
    values, halves = jax.vmap(lambda v: lanczos_quadrature(layer, v, n_steps))(probes)
    return LogDetEstimate(
        jnp.mean(values),
        jnp.std(values, ddof=1) / jnp.sqrt(n_probes),
        jnp.abs(jnp.mean(values - halves)),
    )


def lanczos_quadrature(
    layer: AbstractConstantJacobianLayer, probe: Float[Array, "*shape"], n_steps: int
) -> tuple[Scalar, Scalar]:
    r"""$\tfrac12 v^T \log(A^T A)\, v$ after all of the steps, and after half of them.

    Golub-Kahan bidiagonalisation of $A$ with full reorthogonalisation, started at $v$. Its
    bidiagonal $B$ has $B^T B$ equal to the Lanczos matrix of $A^T A$, without squaring the
    condition number. With as many steps as $v$ has entries the value is exact.

    Args:
        layer: The layer.
        probe: $v$.
        n_steps: Number of steps, at most the number of entries of $v$.

    Returns:
        The two values, in nats.
    """
    origin = jnp.zeros(layer.shape, probe.dtype)
    _, product = jax.linearize(layer.forward, origin)
    transpose = jax.linear_transpose(product, origin)

    def multiply(v):
        return product(v.reshape(layer.shape)).ravel()

    def multiply_transposed(u):
        return transpose(u.reshape(layer.out_shape))[0].ravel()

    def orthogonal_unit(vector, basis, scale):
        # Twice is enough: one pass leaves rounding errors of the size of the cancellation.
        for _ in range(2):
            vector = vector - basis.T @ (basis @ vector)
        length = jnp.linalg.norm(vector)
        # When the Krylov space is exhausted, what is left is rounding error.
        alive = length > 100 * jnp.finfo(vector.dtype).eps * scale
        return jnp.where(alive, vector / jnp.where(alive, length, 1), 0), alive * length

    def step(state, i):
        v, right, left = state
        right = right.at[i].set(v)
        image = multiply(v)
        u, diagonal = orthogonal_unit(image, left, jnp.linalg.norm(image))
        left = left.at[i].set(u)
        image = multiply_transposed(u)
        v, above = orthogonal_unit(image, right, jnp.linalg.norm(image))
        # An exhausted space carries no weight; a 1 keeps its logarithm finite.
        return (v, right, left), (jnp.where(diagonal > 0, diagonal, 1), above)

    start = probe.ravel() / jnp.linalg.norm(probe)
    bases = jnp.zeros((n_steps, probe.size), probe.dtype)
    _, (diagonal, above) = jax.lax.scan(step, (start, bases, bases), jnp.arange(n_steps))

    def quadrature(k):
        bidiagonal = jnp.diag(diagonal[:k]) + jnp.diag(above[: k - 1], 1)
        _, singular_values, right = jnp.linalg.svd(bidiagonal)
        return jnp.sum(probe**2) * jnp.sum(right[:, 0] ** 2 * jnp.log(singular_values))

    return quadrature(n_steps), quadrature(max(1, n_steps // 2))

"""Base densities fitted to data in closed form."""

import jax.numpy as jnp
from flowjax.bijections import Invert, Reshape, TriangularAffine
from flowjax.distributions import StandardNormal, Transformed
from jaxtyping import Array, Float


def gaussian_base(data: Float[Array, "n *shape"], *, inflation: float = 1.0) -> Transformed:
    r"""The Gaussian fitted to data, $b = \mathcal N(\hat\mu, c\,\hat\Sigma)$.

    The covariance is shrunk by Ledoit and Wolf's optimal amount, so that it is of full rank
    also where there are more coordinates than points; a base that is too wide or too narrow in
    idle directions would cost the tilt its effort (`methods.md`, section 4).

    The density is evaluated through the inverse Cholesky factor, a matrix product rather
    than a triangular solve for each point; draws, which are rarer, pay the solve.

    Args:
        data: Points, one a row.
        inflation: The factor $c \geq 1$ on the covariance, for a wide base.

    Returns:
        A distribution over points, whose parameters are trainable until they are wrapped by
        `paramax.non_trainable`.

    Raises:
        ValueError: If there are fewer than two points.

    Source: Ledoit and Wolf (2004), *A well-conditioned estimator for large-dimensional
    covariance matrices*.
    """
    from sklearn.covariance import ledoit_wolf

    if data.shape[0] < 2:
        raise ValueError(f"A Gaussian base needs at least 2 points; got {data.shape[0]}.")
    shape = data.shape[1:]
    rows = jnp.asarray(data).reshape(data.shape[0], -1)
    mean = rows.mean(axis=0)
    covariance = jnp.asarray(ledoit_wolf(rows)[0] * inflation, rows.dtype)
    factor = jnp.linalg.cholesky(covariance)
    whitening = jnp.linalg.inv(factor)  # lower triangular, as the factor is
    whiten = TriangularAffine(-whitening @ mean, jnp.tril(whitening))
    return Transformed(StandardNormal(shape), Invert(Reshape(whiten, shape)))

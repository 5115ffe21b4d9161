"""Base densities fitted to data in closed form."""

from math import prod
from typing import Any

import equinox as eqx
import jax
import numpy as np
from flowjax.bijections import Invert, Reshape, TriangularAffine
from flowjax.distributions import AbstractDistribution, StandardNormal
from jaxtyping import Array, ArrayLike, Float

from flowebm.models.batches import on_device
from flowebm.models.flows import Flow
from flowebm.models.gaussian_mixture import GaussianMixture, gaussian_mixture_of
from flowebm.models.recipe import builder
from flowebm.models.shared_static import share_static
from flowebm.refusal import Refused


def gaussian_base(
    data: Float[ArrayLike, "n *shape"] | None,
    shape: tuple[int, ...] | None = None,
    *,
    inflation: float = 1.0,
) -> Flow:
    r"""The Gaussian fitted to data, $b = \mathcal N(\hat\mu, c\,\hat\Sigma)$.

    A base that is too wide or too narrow in inactive directions would cost the tilt its effort.
    The covariance is shrunk by Ledoit and Wolf's optimal amount, so
    that it is of full rank also where there are more coordinates than points. The density is
    evaluated through the inverse Cholesky factor, a matrix product rather than a triangular
    solve for each point; draws, which are rarer, pay the solve.

    Args:
        data: Points, one a row; without them the Gaussian is standard.
        shape: Shape of one point; the data's by default.
        inflation: The factor $c \geq 1$ on the covariance, for a wide base.

    Returns:
        A distribution over points, whose parameters are trainable until they are wrapped by
        `paramax.non_trainable`.

    Raises:
        ValueError: If there are fewer than two points, or neither data nor shape.

    Source: Ledoit and Wolf (2004), *A well-conditioned estimator for large-dimensional
    covariance matrices*.
    """
    if shape is None:
        if data is None:
            raise Refused("A Gaussian base needs data to fit, or the shape of a point.")
        shape = np.shape(data)[1:]
    return gaussian_of(*_moments(data, shape, inflation), shape)


def gaussian_of(
    mean: Float[ArrayLike, " d"], covariance: Float[ArrayLike, "d d"], shape: tuple[int, ...]
) -> Flow:
    r"""The Gaussian of a mean and a covariance, in the form of `gaussian_base`.

    Args:
        mean: Its mean, flattened.
        covariance: Its covariance, of full rank.
        shape: Shape of one point.

    Returns:
        A distribution over points.

    Source: the affine map to a standard normal, $z = L^{-1}(x - \mu)$ with $LL^T = \Sigma$.
    """
    # In double precision, and without a program for each operation.
    factor = np.linalg.cholesky(np.asarray(covariance, np.float64))
    inverse_factor = np.tril(np.linalg.inv(factor))
    loc = -inverse_factor @ np.asarray(mean, np.float64)
    return share_static(
        _whitened(on_device(loc), on_device(inverse_factor), shape), ("gaussian", shape)
    )


def as_mixture(density: AbstractDistribution) -> GaussianMixture | None:
    """The mixture of one Gaussian that a density of vectors by `gaussian_base` is.

    Args:
        density: Any density.

    Returns:
        The mixture; `None` of another density.
    """
    if not isinstance(density, Flow) or density.built_from[0] != "gaussian":
        return None
    whitening: Any = density.bijection
    while not isinstance(whitening, TriangularAffine):
        whitening = whitening.bijection
    # Read on the host: the diagonal is kept as that of which it is the softplus.
    arr, loc = (
        np.asarray(jax.tree.leaves(eqx.filter(part, eqx.is_array))[0], np.float64)
        for part in (whitening.triangular, whitening.loc)
    )
    factor = np.linalg.inv(np.tril(arr, -1) + np.diag(np.logaddexp(0.0, np.diagonal(arr))))
    return gaussian_mixture_of(np.ones(1), (-factor @ loc)[None], (factor @ factor.T)[None])


@eqx.filter_jit
def _whitened(
    loc: Float[Array, " d"], inverse_factor: Float[Array, "d d"], shape: tuple[int, ...]
) -> Flow:
    whitening = Reshape(TriangularAffine(loc, inverse_factor), shape)
    return Flow(StandardNormal(shape), Invert(whitening), ("gaussian", shape))


@builder("gaussian")
def _standard_gaussian(shape: tuple[int, ...]) -> Flow:
    return gaussian_base(None, shape)


def _moments(
    data: Float[ArrayLike, "n *shape"] | None, shape: tuple[int, ...], inflation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and inflated covariance of flattened points."""
    dimension = prod(shape)
    if data is None:
        return np.zeros(dimension), np.eye(dimension)
    from sklearn.covariance import ledoit_wolf

    # NumPy's, because scikit-learn's array dispatch, where it is on, takes JAX's for more than
    # they are.
    rows = np.asarray(data, np.float64)
    if len(rows) < 2:
        raise Refused(f"A covariance needs at least 2 points; got {len(rows)}.")
    rows = rows.reshape(len(rows), dimension)
    return rows.mean(axis=0), ledoit_wolf(rows)[0] * inflation

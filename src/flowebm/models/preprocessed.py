"""Densities of preprocessed points, as densities of the points themselves."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flowjax.bijections import AbstractBijection, Invert
from flowjax.distributions import AbstractDistribution, AbstractTransformed
from jaxtyping import Array, ArrayLike, Float, Scalar

from flowebm.models.energy import AbstractEnergyModel


class PreprocessedModel(AbstractEnergyModel):
    r"""A model behind an invertible preprocessing, $E(x) = E_0(f(x)) - \log|\det J_f(x)|$.

    The normaliser is that of the inner model, $Z = Z_0$: densities in the data's own units
    come without further work. A NumPy point is preprocessed in double precision.

    Args:
        model: The energy model of the preprocessed points.
        preprocessing: The bijection $f$ from data to preprocessed points.

    Source: Papamakarios et al. (2021), *Normalizing flows for probabilistic modeling and
    inference*, section 2.1.
    """

    model: AbstractEnergyModel
    preprocessing: AbstractBijection

    # Written out because type checkers take the abstract attribute for the first field.
    def __init__(self, model: AbstractEnergyModel, preprocessing: AbstractBijection):
        self.model = model
        self.preprocessing = preprocessing

    @property
    def shape(self) -> tuple[int, ...]:
        return self.preprocessing.shape

    def energy(self, x: Float[Array, "..."]) -> Scalar:
        if isinstance(x, np.ndarray):
            z, log_det = _preprocessed_rows(self.preprocessing, np.asarray(x)[None])
            return self.model.energy(z[0]) - log_det[0]
        z, log_det = self.preprocessing.transform_and_log_det(x)
        return self.model.energy(z) - log_det


class PreprocessedDistribution(AbstractTransformed):
    r"""A distribution of preprocessed points, as one of the points: $p(x) = p_0(f(x)) |\det J_f|$.

    It is flowjax's `Transformed`, but that `log_prob` preprocesses NumPy arrays in double
    precision: time stamps and other columns with an offset have more digits than JAX's single
    precision holds. Within `jax.jit` or `jax.vmap` points are JAX's, in single precision.

    Args:
        base_dist: The distribution $p_0$ of the preprocessed points.
        preprocessing: The bijection $f$ from data to preprocessed points.

    Source: Papamakarios et al. (2021), section 2.1.
    """

    base_dist: AbstractDistribution
    bijection: AbstractBijection

    # Written out because type checkers take the abstract attributes for the first fields.
    def __init__(self, base_dist: AbstractDistribution, preprocessing: AbstractBijection):
        self.base_dist = base_dist
        self.bijection = Invert(preprocessing)

    def log_prob(self, x: ArrayLike, condition: ArrayLike | None = None) -> Array:
        if not isinstance(x, np.ndarray) or x.shape[x.ndim - len(self.shape) :] != self.shape:
            return super().log_prob(x, condition)
        z, log_det = _preprocessed_rows(
            cast(Invert, self.bijection).bijection, x.reshape(-1, *self.shape)
        )
        log_prob = self.base_dist.log_prob(z, condition) + log_det
        return log_prob.reshape(x.shape[: x.ndim - len(self.shape)])


def _preprocessed_rows(
    preprocessing: Any, rows: Float[np.ndarray, "n *shape"]
) -> tuple[Float[Array, "n *shape"], Float[Array, " n"]]:
    """Rows preprocessed before any rounding, and the logarithms of the Jacobian determinants."""
    rows = rows.astype(np.float64)
    z = jnp.asarray(preprocessing.transform_rows(rows), float)
    transform = jax.vmap(preprocessing.transform_and_log_det)
    return z, transform(jnp.asarray(rows, float))[1]

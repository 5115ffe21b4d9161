"""A mixture of Gaussians beside a flow of few rows, chosen by cross-validation."""

import warnings
from collections.abc import Callable
from contextlib import suppress
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
from flowjax.distributions import AbstractDistribution, VmapMixture
from jaxtyping import Array, Float, PRNGKeyArray

from flowebm.models.gaussian_mixture import gaussian_mixture_of, stacked
from flowebm.training.exploration import log_probs
from flowebm.training.row_weights import RowWeights, rows_in_proportion

#: Gaussians of a mixture that are tried, fewest first, and what is added to every variance.
COMPONENTS = (1, 2, 3, 4, 5, 7, 10)
RIDGES = (1e-1, 1e-2, 1e-3, 1e-4)

#: Larger mixtures that may be worse before no more are tried.
PATIENCE = 2

#: Coordinates up to which there is a mixture: its parameters are as many as their square.
MOST_COORDINATES = 64

#: Folds of the cross-validation.
N_FOLDS = 5

#: Starts of the chosen mixture's fit, of which the best is kept.
N_STARTS = 5


class Beside(NamedTuple):
    """A flow with a mixture of Gaussians beside it.

    Attributes:
        flow: The two together, a density.
        components: Gaussians of the mixture.
        fraction: The mixture's share.
    """

    flow: AbstractDistribution
    components: int
    fraction: float


def mixture_beside(
    key: PRNGKeyArray,
    flow: AbstractDistribution,
    data: Float[Array, "n *shape"],
    validation: Float[Array, "m *shape"],
    *,
    weights: RowWeights | None = None,
    out_of_time: Callable[[], bool] = lambda: False,
) -> Beside | None:
    """A flow and a mixture of Gaussians, in the shares that validation points tell.

    Args:
        key: Random key of the mixture's fit.
        flow: The flow, fitted to the same points.
        data: Standardised training points, one a row.
        validation: Validation points, one a row.
        weights: How much the points count; all alike by default.
        out_of_time: Whether no further mixture is to be tried.

    Returns:
        The two together; none in more than `MOST_COORDINATES`.
    """
    if prod(data.shape[1:]) > MOST_COORDINATES:
        return None
    rows = None if weights is None else rows_in_proportion(weights.train)
    mixture = fit_gaussian_mixture(key, data, rows, out_of_time=out_of_time)
    of_flow, of_mixture = (log_probs(part, validation) for part in (flow, mixture))
    fraction = share_of_mixture(of_flow, of_mixture, weights and weights.validation)
    components = jnp.size(paramax.unwrap(mixture).log_normalized_weights)
    return Beside(stacked(flow, mixture, fraction), components, fraction)


def fit_gaussian_mixture(
    key: PRNGKeyArray,
    data: Float[Array, "n *shape"],
    rows: np.ndarray | None = None,
    *,
    out_of_time: Callable[[], bool] = lambda: False,
) -> VmapMixture:
    r"""The mixture of Gaussians whose likelihood of rows left out is highest.

    Its number of components and the ridge on its covariances are chosen by five-fold
    cross-validation, then it is fitted to all rows by the EM algorithm.

    Args:
        key: Random key of the folds and of the starts.
        data: Standardised points, one a row; two rows at least.
        rows: Numbers of the rows to fit, those that count for more several times; copies of a
            row are in one fold. All rows once by default.
        out_of_time: Whether no further mixture is to be tried.

    Returns:
        The fitted mixture, over points of the data's shape.

    Source: Dempster, Laird and Rubin (1977) for EM; Smyth (2000), *Model selection for
    probabilistic clustering using cross-validated likelihood*.
    """
    # Larger tables have no use for these, which take a while to import.
    from sklearn.mixture import GaussianMixture
    from sklearn.model_selection import GroupKFold, cross_val_score
    from threadpoolctl import threadpool_limits

    shape = data.shape[1:]
    rows = np.arange(data.shape[0]) if rows is None else rows
    points = np.asarray(data, np.float64).reshape(data.shape[0], prod(shape))[rows]
    seed = int(jr.randint(key, (), 0, jnp.iinfo(jnp.int32).max))
    n_folds = min(N_FOLDS, len(np.unique(rows)))

    def mixture(setting: tuple[float, int], **choices) -> GaussianMixture:
        ridge, components = setting
        return GaussianMixture(components, reg_covar=ridge, random_state=seed, **choices)

    def score(setting: tuple[float, int]) -> float:
        folds = GroupKFold(n_folds, shuffle=True, random_state=seed)
        # A component with too few rows for its covariance rules the mixture out. An error is
        # raised where that is so in every fold, and otherwise the mean is not a number.
        with suppress(ValueError):
            mean = cross_val_score(mixture(setting), points, groups=rows, cv=folds).mean()
            return float(np.nan_to_num(mean, nan=-np.inf))
        return -np.inf

    # So small fits take tenths of a second in all in one thread, and many seconds in several where
    # these wait for each other.
    with threadpool_limits(1), warnings.catch_warnings():
        # Of fits that fail or do not converge; how good they are, their score tells.
        warnings.simplefilter("ignore")
        scores: dict[tuple[float, int], float] = {}
        for ridge in RIDGES:
            n_worse, best = 0, -np.inf
            for components in COMPONENTS:
                if n_worse == PATIENCE or (scores and out_of_time()):
                    break
                found = scores[ridge, components] = score((ridge, components))
                n_worse, best = (0, found) if found > best else (n_worse + 1, best)
        fitted = mixture(max(scores, key=scores.__getitem__), n_init=N_STARTS).fit(points)
    parts = (fitted.weights_, fitted.means_, fitted.covariances_)
    weights, means, covariances = (jnp.asarray(part, data.dtype) for part in parts)
    return gaussian_mixture_of(weights, means, covariances, shape)


def share_of_mixture(
    of_flow: Float[Array, " m"],
    of_mixture: Float[Array, " m"],
    weights: Float[Array, " m"] | None = None,
) -> float:
    r"""The share $s$ of a mixture beside a flow, $(1 - s)\, q(x) + s\, r(x)$: its posterior mean.

    Under an even prior, given validation points. The likeliest share would be 0 or 1 where they
    are few, and be wrong as often as they mislead; the mean is a half of either where they tell
    nothing, and costs little where they tell much.

    Args:
        of_flow: $\log q$ of the validation points (nats).
        of_mixture: $\log r$ of the same points.
        weights: How much the points count, adding up to one; all alike by default.

    Returns:
        The share, of two digits, from 0.01 to 0.99.

    Source: Laplace (1774), the rule of succession, for points of which each has one density alone.
    """
    shares = jnp.linspace(0.01, 0.99, 99)[:, None]
    mixed = jnp.logaddexp(jnp.log1p(-shares) + of_flow, jnp.log(shares) + of_mixture)
    log_likelihoods = of_flow.size * jnp.average(mixed, axis=1, weights=weights)
    mean = jnp.average(shares[:, 0], weights=jax.nn.softmax(log_likelihoods))
    return min(0.99, max(0.01, round(float(mean), 2)))

"""Densities to sample, each with functions of a point whose means under it are known.

The functions say whether all of a density was found and in which proportions: membership in its
modes, or in slices of equal mass along its worst direction, and coordinates that are standard
normal within. What has no closed form is computed: the chain of fields by its transfer matrix, in
double precision; the regression by NUTS that runs much longer than what is measured.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from flowebm.data.targets import Funnel, GaussianMixture4

#: Sites, constants and field of the chain: two thirds of its mass are on the positive side.
SITES, COUPLING, BETA, FIELD = 64, 0.1, 20.0, 0.03

#: Slices of equal mass.
SLICES = 8


class Target(NamedTuple):
    """A density, what a sampler is told of where it lies, and what its draws should average to.

    Attributes:
        log_density: Of one point.
        start: The point that is known.
        functions: Maps one point to the values of the test functions.
        means: Their means under the density.
        variances: Their variances.
        n_modes: How many of them, the first ones, are memberships in modes or slices.
    """

    log_density: Callable[[Any], Any]
    start: Any
    functions: Callable[[Any], Any]
    means: np.ndarray
    variances: np.ndarray
    n_modes: int


def make(name: str) -> Target:
    """The density called `name`, such as `mixture-16`."""
    kind, _, dimension = name.partition("-")
    build = {
        "mixture": mixture,
        "funnel": funnel,
        "banana": banana,
        "phi4": phi4,
        "logistic": logistic,
    }
    return build[kind](*([int(dimension)] if dimension else []))


def mixture(dimension: int) -> Target:
    """The reference mixture; known is the centre of the mode with a tenth of the mass."""
    target = GaussianMixture4(dimension)

    def functions(x):
        mode = target.mode(x)
        within = (x - target.means[mode]) / target.sd
        return jnp.concatenate([jax.nn.one_hot(mode, 4), within])

    weights = np.asarray(target.mode_weights, float)
    means = np.concatenate([weights, np.zeros(dimension)])
    variances = np.concatenate([weights * (1 - weights), np.ones(dimension)])
    return Target(target.log_prob, target.means[3], functions, means, variances, 4)


def funnel() -> Target:
    """Neal's funnel in ten dimensions, known by a point near its middle."""
    target = Funnel(10)

    def functions(x):
        return jnp.concatenate([_slice(x[0] / target.scale), x[1:] * jnp.exp(-x[0] / 2)])

    return Target(target.log_prob, jnp.ones(10), functions, *_sliced_moments(9), SLICES)


def banana() -> Target:
    """A normal, ten times as wide as high, that is bent: x2 + 0.03 x1² is normal."""

    def straight(x):
        return x[0] / 10, x[1] + 0.03 * (x[0] ** 2 - 100)

    def log_density(x):
        return -0.5 * sum(z**2 for z in straight(x))

    def functions(x):
        along, across = straight(x)
        return jnp.append(_slice(along), across)

    return Target(log_density, jnp.array([0.0, 3.0]), functions, *_sliced_moments(1), SLICES)


def phi4() -> Target:
    r"""A chain of fields between walls at zero; known is a point on the lighter side.

    $$-\log p(\varphi) = \beta \Big[\tfrac{aN}{2} \sum_{i=0}^N (\varphi_{i+1} - \varphi_i)^2
      + \tfrac{1}{4aN} \sum_i (1 - \varphi_i^2)^2 - \tfrac{h}{N} \sum_i \varphi_i\Big]$$

    Source: Gabrié, Rotskoff, Vanden-Eijnden (2022), for the density without the field.
    """

    def log_density(x):
        steps = jnp.diff(jnp.concatenate([jnp.zeros(1), x, jnp.zeros(1)]))
        return _site(x).sum() - BETA * COUPLING * SITES / 2 * jnp.sum(steps**2)

    middle = SITES // 2

    def functions(x):
        return jnp.concatenate([(x[middle] > 0)[None].astype(float), x])

    positive, means, variances = _transfer_matrix(middle)
    means = np.concatenate([[positive], means])
    variances = np.concatenate([[positive * (1 - positive)], variances])
    return Target(log_density, -0.8 * jnp.ones(SITES), functions, means, variances, 1)


def _site(x):
    """What one site has of the log-density by itself."""
    return -BETA / SITES * ((1 - x**2) ** 2 / (4 * COUPLING) - FIELD * x)


def _transfer_matrix(middle: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Whether the middle site is positive, and the mean and variance of every site."""
    x = np.linspace(-3, 3, 1201)
    step = np.exp(-BETA * COUPLING * SITES / 2 * (x[:, None] - x) ** 2)
    site = np.exp(_site(x))
    # What the sites before one tell it; the chain reads the same from both ends.
    messages = [np.exp(-BETA * COUPLING * SITES / 2 * x**2)]
    for _ in range(SITES - 1):
        message = step @ (site * messages[-1])
        messages.append(message / message.max())
    marginals = np.array([site * a * b for a, b in zip(messages, messages[::-1], strict=True)])
    marginals /= marginals.sum(axis=1, keepdims=True)
    means = marginals @ x
    return float(marginals[middle] @ (x > 0)), means, marginals @ x**2 - means**2


def logistic() -> Target:
    """Which of 569 tumours are malignant, by 30 standardised features; standard normal priors."""
    from sampling_peers import nuts
    from sklearn.datasets import load_breast_cancer
    from sklearn.preprocessing import StandardScaler

    features, labels = load_breast_cancer(return_X_y=True)
    design = np.column_stack([np.ones(len(labels)), StandardScaler().fit_transform(features)])
    signed = jnp.asarray(design * (2 * labels - 1)[:, None], jnp.float32)

    def log_density(x):
        return jax.nn.log_sigmoid(signed @ x).sum() - 0.5 * jnp.sum(x**2)

    target = Target(log_density, jnp.zeros(31), lambda x: x, np.zeros(31), np.ones(31), 0)
    # Some 100,000 draws: their error is small beside that of what is measured.
    draws = nuts(jax.random.key(123), target, n_chains=64, n_warm_up=500, n_draws=1600).draws
    draws = np.asarray(draws, float).reshape(-1, 31)
    return target._replace(means=draws.mean(axis=0), variances=draws.var(axis=0))


def _slice(z):
    """In which slice of equal mass a standard normal number lies."""
    return jax.nn.one_hot(jnp.floor(SLICES * norm.cdf(z)).astype(int).clip(0, SLICES - 1), SLICES)


def _sliced_moments(n_normal: int) -> tuple[np.ndarray, np.ndarray]:
    share = 1 / SLICES
    return (
        np.concatenate([np.full(SLICES, share), np.zeros(n_normal)]),
        np.concatenate([np.full(SLICES, share * (1 - share)), np.ones(n_normal)]),
    )

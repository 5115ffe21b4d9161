"""Posteriors that people sample, as numpyro models, each with a way to know what is right.

Data are published ones, or simulated from the model with a fixed seed.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.transforms import OrderedTransform

Sites = dict[str, Any]


class Posterior(NamedTuple):
    """A model with its data, and what it is compared with.

    Attributes:
        model: The model that `flowebm.sample` is given.
        data: What it is called with.
        parameters: Sites that are compared, latent or deterministic ones.
        reference: A model of the same posterior, in coordinates in which NUTS finds its way.
        images: Maps of sites that leave the posterior as it is; NUTS saw one of their images.
        is_first: Of a mixture, which draws have the first labelling.
        log_evidence: The truth by quadrature, nats.
    """

    model: Callable[..., None]
    data: tuple[Any, ...]
    parameters: tuple[str, ...]
    reference: Callable[..., None]
    images: tuple[Callable[[Sites], Sites], ...] = (lambda sites: sites,)
    is_first: Callable[[Sites], Any] | None = None
    log_evidence: Callable[[], float] | None = None


EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def _schools_prior():
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    # Where the funnel's neck is.
    numpyro.deterministic("log_tau", jnp.log(tau))
    return mu, tau


def centred_schools(effects, errors) -> None:
    """Rubin's eight schools: a school's effect has a normal around the common one."""
    mu, tau = _schools_prior()
    theta = numpyro.sample("theta", dist.Normal(mu, tau).expand([len(effects)]).to_event(1))
    numpyro.sample("effects", dist.Normal(theta, errors).to_event(1), obs=effects)


def non_centred_schools(effects, errors) -> None:
    """The same, with the effects in units of their standard deviation."""
    mu, tau = _schools_prior()
    unit = numpyro.sample("unit", dist.Normal(0.0, 1.0).expand([len(effects)]).to_event(1))
    theta = numpyro.deterministic("theta", mu + tau * unit)
    numpyro.sample("effects", dist.Normal(theta, errors).to_event(1), obs=effects)


def schools_log_evidence() -> float:
    """By the midpoint rule in the prior's quantile of tau; the rest is normal."""
    n = 20_000
    tau = 5 * np.tan(math.pi / 2 * (np.arange(n) + 0.5) / n)
    variance = ERRORS**2 + tau[:, None] ** 2
    # The covariance is diagonal, plus 25 in all places for mu.
    precision = (1 / variance).sum(1) + 1 / 25
    shift = (EFFECTS / variance).sum(1)
    square = (EFFECTS**2 / variance).sum(1) - shift**2 / precision
    log_determinant = np.log(variance).sum(1) + np.log(25 * precision)
    log_likelihood = -0.5 * (square + log_determinant + len(EFFECTS) * math.log(2 * math.pi))
    return float(np.logaddexp.reduce(log_likelihood) - math.log(n))


def hidden_markov(y) -> None:
    """Three states with normal emissions, of which the means are in order; states summed out."""
    stay = jnp.ones((3, 3)) + 4 * jnp.eye(3)
    transition = numpyro.sample("transition", dist.Dirichlet(stay).to_event(1))
    apart = dist.Normal(jnp.array([-1.0, 0.0, 0.0]), jnp.array([2.0, 1.0, 1.0])).to_event(1)
    means = numpyro.sample("means", dist.TransformedDistribution(apart, OrderedTransform()))
    spread = dist.LogNormal(-0.5, 0.5).expand([3]).to_event(1)
    deviations = numpyro.sample("deviations", spread)
    log_transition = jnp.log(transition)
    emission = dist.Normal(means, deviations).log_prob(y[:, None])

    def step(forward, log_emission):
        arrived = jax.nn.logsumexp(forward[:, None] + log_transition, axis=0)
        return arrived + log_emission, None

    forward, _ = jax.lax.scan(step, emission[0] - math.log(3.0), emission[1:])
    numpyro.factor("y", jax.nn.logsumexp(forward))


def hidden_markov_data(n: int = 120) -> np.ndarray:
    """A chain that stays with probability 0.85."""
    rng = np.random.default_rng(0)
    states = [0]
    for _ in range(n - 1):
        leaves = rng.random() > 0.85
        states.append((states[-1] + leaves * rng.integers(1, 3)) % 3)
    means, deviations = np.array([-1.5, 0.3, 2.0]), np.array([0.5, 0.8, 0.6])
    return rng.normal(means[states], deviations[states])


#: What is added to the diagonal, in units of the process's variance.
JITTER = 1e-5


def gaussian_process(x, y) -> None:
    """Regression with a squared-exponential kernel; the function itself is integrated out."""
    amplitude = numpyro.sample("amplitude", dist.LogNormal(0.0, 1.0))
    length = numpyro.sample("length", dist.LogNormal(0.0, 1.0))
    noise = numpyro.sample("noise", dist.LogNormal(-1.0, 1.0))
    kernel = jnp.exp(-0.5 * ((x[:, None] - x) / length) ** 2) + JITTER * jnp.eye(len(x))
    covariance = amplitude**2 * kernel + noise**2 * jnp.eye(len(x))
    numpyro.sample("y", dist.MultivariateNormal(0.0, covariance_matrix=covariance), obs=y)


def gaussian_process_data(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A sine with a trend, at places drawn at random."""
    rng = np.random.default_rng(1)
    x = np.sort(rng.uniform(0.0, 8.0, n))
    return x, np.sin(1.5 * x) + 0.2 * (x - 4.0) + rng.normal(0.0, 0.4, n)


def gaussian_process_log_evidence() -> float:
    """By the midpoint rule in the three logarithms: a kernel's eigenvectors serve all others."""
    x, y = gaussian_process_data()
    n = 160
    edges = np.array([[-4.0, 5.0], [-4.0, 4.0], [-4.0, 2.0]])
    middles = edges[:, :1] + (edges[:, 1:] - edges[:, :1]) * (np.arange(n) + 0.5) / n
    steps = (edges[:, 1] - edges[:, 0]) / n
    prior = [-0.5 * (middles[k] - mean) ** 2 for k, mean in enumerate((0.0, 0.0, -1.0))]
    terms = []
    for log_length, log_prior in zip(middles[1], prior[1], strict=True):
        kernel = np.exp(-0.5 * ((x[:, None] - x) / np.exp(log_length)) ** 2)
        values, vectors = np.linalg.eigh(kernel + JITTER * np.eye(len(x)))
        variance = np.exp(2 * middles[0])[:, None, None] * np.maximum(values, 0.0)
        variance = variance + np.exp(2 * middles[2])[None, :, None]
        fit = (np.log(variance) + (vectors.T @ y) ** 2 / variance).sum(axis=2)
        log_density = -0.5 * fit + prior[0][:, None] + prior[2] + log_prior
        terms.append(np.logaddexp.reduce(log_density, axis=None))
    constant = -0.5 * (len(x) + 3) * math.log(2 * math.pi) + np.log(steps).sum()
    return float(np.logaddexp.reduce(terms) + constant)


#: Pelts in thousands of hares and lynxes, 1900 to 1920 (Howard 2009, as in Carpenter's case study
#: of Stan).
HARES = (
    "30 47.2 70.2 77.4 36.3 20.6 18.1 21.4 22 25.4 27.1 40.3 57 76.6 52.3 19.5 11.2 7.6 14.6 16.2 "
    "24.7"
)
LYNXES = "4 6.1 9.8 35.2 59.4 41.7 19 13 8.3 9.1 7.4 8 12.3 19.5 45.7 51.1 29.7 15.8 9.7 10.1 8.6"

#: Runge-Kutta steps of a year.
STEPS = 10


def lotka_volterra(pelts) -> None:
    """Predator and prey, of the priors of the case study; logarithms of the numbers move."""
    positive = dist.TruncatedNormal(low=0.0, loc=jnp.array([1.0, 0.05, 1.0, 0.05]),
                                    scale=jnp.array([0.5, 0.05, 0.5, 0.05]))  # fmt: skip
    rates = numpyro.sample("rates", positive.to_event(1))
    start = numpyro.sample("start", dist.LogNormal(math.log(10.0), 1.0).expand([2]).to_event(1))
    noise = numpyro.sample("noise", dist.LogNormal(-1.0, 1.0).expand([2]).to_event(1))

    def slope(logs):
        hare, lynx = jnp.exp(logs)
        return jnp.stack([rates[0] - rates[1] * lynx, rates[3] * hare - rates[2]])

    def step(logs, _):
        h = 1 / STEPS
        first = slope(logs)
        second = slope(logs + 0.5 * h * first)
        third = slope(logs + 0.5 * h * second)
        fourth = slope(logs + h * third)
        return logs + h / 6 * (first + 2 * second + 2 * third + fourth), None

    def year(logs, _):
        after, _ = jax.lax.scan(step, logs, length=STEPS)
        return after, after

    begin = jnp.log(start)
    _, later = jax.lax.scan(year, begin, length=len(pelts) - 1)
    path = jnp.concatenate([begin[None], later])
    numpyro.sample("pelts", dist.LogNormal(path, noise).to_event(2), obs=pelts)


def _mixture_likelihood(y, means):
    share = numpyro.sample("share", dist.Beta(2.0, 2.0))
    spread = dist.LogNormal(0.0, 0.5).expand([2]).to_event(1)
    deviations = numpyro.sample("deviations", spread)
    log_share = jnp.stack([jnp.log(share), jnp.log1p(-share)])
    of_each = dist.Normal(means, deviations).log_prob(y[:, None]) + log_share
    numpyro.factor("y", jax.nn.logsumexp(of_each, axis=1).sum())


def mixture(y) -> None:
    """Two normals in no order: the two labellings have half of the mass each."""
    means = numpyro.sample("means", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    _mixture_likelihood(y, means)


def ordered_mixture(y) -> None:
    """Of the same posterior the half where the means rise."""
    means = numpyro.sample("means", dist.ImproperUniform(constraints.ordered_vector, (), (2,)))
    numpyro.factor("prior", dist.Normal(0.0, 5.0).log_prob(means).sum())
    _mixture_likelihood(y, means)


def mixture_data(n: int = 80) -> np.ndarray:
    """A third around -2, two thirds around 2."""
    rng = np.random.default_rng(2)
    is_first = rng.random(n) < 1 / 3
    return np.where(is_first, rng.normal(-2.0, 0.7, n), rng.normal(2.0, 1.2, n))


def _exchanged(sites: Sites) -> Sites:
    both = {name: sites[name][..., ::-1] for name in ("means", "deviations")}
    return both | {"share": 1 - sites["share"]}


_SCHOOLS = {
    "data": (EFFECTS, ERRORS),
    "parameters": ("mu", "tau", "log_tau", "theta"),
    "reference": non_centred_schools,
    "log_evidence": schools_log_evidence,
}

#: All of them, by name.
POSTERIORS = {
    "eight schools, centred": lambda: Posterior(centred_schools, **_SCHOOLS),
    "eight schools, non-centred": lambda: Posterior(non_centred_schools, **_SCHOOLS),
    "hidden Markov model": lambda: Posterior(
        hidden_markov,
        (hidden_markov_data(),),
        ("transition", "means", "deviations"),
        reference=hidden_markov,
    ),
    "Gaussian process": lambda: Posterior(
        gaussian_process,
        gaussian_process_data(),
        ("amplitude", "length", "noise"),
        reference=gaussian_process,
        log_evidence=gaussian_process_log_evidence,
    ),
    "Lotka-Volterra": lambda: Posterior(
        lotka_volterra,
        (np.array([HARES.split(), LYNXES.split()], float).T,),
        ("rates", "start", "noise"),
        reference=lotka_volterra,
    ),
    "mixture of two": lambda: Posterior(
        mixture,
        (mixture_data(),),
        ("means", "deviations", "share"),
        reference=ordered_mixture,
        images=(lambda sites: sites, _exchanged),
        is_first=lambda sites: sites["means"][..., 0] < sites["means"][..., 1],
    ),
}

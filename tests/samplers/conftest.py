"""A target whose law is known exactly, and the test that draws follow it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowjax.distributions import Normal
from jax.scipy.stats import norm
from scipy.stats import chi2

from flowebm.samplers import FunctionProposal, run_chains


class Mixture(NamedTuple):
    """Two well-separated normals on the line, of unequal weight and width."""

    weights: np.ndarray = np.array([0.3, 0.7])
    means: np.ndarray = np.array([-2.0, 1.5])
    stds: np.ndarray = np.array([0.5, 0.8])

    def log_prob(self, x):
        logpdf = norm.logpdf(x, jnp.asarray(self.means), jnp.asarray(self.stds))
        return jax.nn.logsumexp(logpdf, b=jnp.asarray(self.weights))

    def cdf(self, x):
        return jnp.dot(norm.cdf(x[..., None], self.means, self.stds), self.weights)

    def sample(self, key, n):
        key_mode, key_normal = jax.random.split(key)
        mode = jax.random.choice(key_mode, 2, (n,), p=jnp.asarray(self.weights))
        noise = jax.random.normal(key_normal, (n,))
        return jnp.asarray(self.means)[mode] + jnp.asarray(self.stds)[mode] * noise


def uniformity_p_value(*uniforms, n_bins=20):
    """The p-value of Pearson's chi-square test that points are uniform on the unit cube.

    The points of independent chains fall in equal bins with exactly multinomial counts.
    """
    bins = [np.clip((np.asarray(u) * n_bins).astype(int), 0, n_bins - 1) for u in uniforms]
    shape = (n_bins,) * len(uniforms)
    counts = np.bincount(np.ravel_multi_index(bins, shape), minlength=np.prod(shape))
    expected = counts.sum() / counts.size
    return chi2.sf(((counts - expected) ** 2 / expected).sum(), counts.size - 1)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def mixture():
    return Mixture()


@pytest.fixture
def proposal():
    """A wide normal: importance weights are bounded, acceptance is far from 0 and 1."""
    return Normal(0.5, 2.5)


@pytest.fixture
def p_value():
    return uniformity_p_value


@pytest.fixture
def invariance_p_value(mixture):
    """The p-value of the hypothesis that an algorithm leaves the mixture invariant.

    Chains start from exact draws and make `n_steps` steps; if the law is invariant their
    positions are exact draws again, and their distribution function is uniform. The
    algorithm is a function of the size of a planted error, so that the right algorithm and
    the wrong one are judged by the same compiled program.
    """

    def build(algorithm_with_error, n_steps=3, n_chains=40_000):
        @jax.jit
        def final_uniforms(error):
            key_start, key_run = jax.random.split(jax.random.key(1))
            positions = mixture.sample(key_start, n_chains)
            algorithm = algorithm_with_error(error)
            final, _ = run_chains(key_run, algorithm, positions, n_steps, thin=n_steps)
            return mixture.cdf(final.position)

        return lambda error: uniformity_p_value(final_uniforms(error))

    return build


@pytest.fixture
def tilted_proposal(proposal):
    """The proposal, whose reported density is wrong by a factor $e^{\\text{slope}\\, x}$."""

    def tilt(slope):
        def sample_and_log_prob(key):
            y, log_q = proposal.sample_and_log_prob(key)
            return y, log_q + slope * y

        return FunctionProposal(lambda x: proposal.log_prob(x) + slope * x, sample_and_log_prob)

    return tilt

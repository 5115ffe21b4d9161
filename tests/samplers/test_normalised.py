"""`NormalisedModel`: a density that integrates to one, samples of it, and numpyro's view of it."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import pytest
from flowjax.distributions import Normal
from flowjax.experimental.numpyro import sample
from numpyro.infer import MCMC, NUTS

from flowebm.models import LogDensity
from flowebm.samplers import NormalisedModel

#: A mixture of N(-2, 1) and N(3, 1/4) with weights 0.3 and 0.7, times e^5.
WEIGHTS, MEANS, SDS = (np.array(a) for a in ([0.3, 0.7], [-2.0, 3.0], [1.0, 0.5]))
LOG_Z = 5.0


def log_density(x):
    parts = jax.scipy.stats.norm.logpdf(x[0], MEANS, SDS) + jnp.log(WEIGHTS)
    return jax.scipy.special.logsumexp(parts) + LOG_Z


@pytest.fixture(scope="module")
def distribution():
    """With a proposal that is nothing like it: weights up to about 8."""
    return NormalisedModel(LogDensity(log_density, (1,)), Normal(jnp.zeros(1), 4.0), LOG_Z)


def test_the_log_density_is_normalised(distribution):
    x = jnp.linspace(-12, 12, 4001)[:, None]
    mass = jnp.exp(distribution.log_prob(x)).sum() * (x[1, 0] - x[0, 0])
    assert float(mass) == pytest.approx(1, abs=1e-4)


def test_samples_have_the_density(distribution):
    n = 4000
    x = np.asarray(distribution.sample(jr.key(0), (n,)))[:, 0]
    # Five binomial errors each: false alarms under 1e-6.
    assert np.mean(x > 0.5) == pytest.approx(0.7, abs=5 * np.sqrt(0.21 / n) + 0.3 * 0.0062)
    right = x[x > 0.5]
    assert np.mean(right < 3.0) == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(len(right)) + 0.003)


def test_numpyro_conditions_on_data_with_it_as_a_prior(distribution):
    """x ~ mixture, y | x ~ N(x, 2): the posterior is a mixture again, in closed form."""
    y, sd = 0.5, 2.0

    def model():
        x = sample("x", distribution)
        numpyro.sample("y", numpyro.distributions.Normal(x[0], sd), obs=y)

    precision = 1 / SDS**2 + 1 / sd**2
    means = (MEANS / SDS**2 + y / sd**2) / precision
    evidence = WEIGHTS * np.exp(-0.5 * (y - MEANS) ** 2 / (SDS**2 + sd**2))
    weights = evidence / np.sqrt(SDS**2 + sd**2)
    weights /= weights.sum()
    mcmc = MCMC(NUTS(model), num_warmup=300, num_samples=2000, progress_bar=False)
    # NUTS stays in the mode that it starts in: the right one.
    mcmc.run(jr.key(1), init_params={"x": jnp.array([3.0])})
    x = np.asarray(mcmc.get_samples()["x"])[:, 0]
    right = x[x > 1.0]
    assert len(right) > 1000
    # Autocorrelated draws worth an eighth of their number or more; five standard errors.
    stderr = 1 / np.sqrt(precision[1]) / np.sqrt(len(right) / 8)
    assert right.mean() == pytest.approx(means[1], abs=5 * stderr)
    assert right.std() == pytest.approx(1 / np.sqrt(precision[1]), abs=5 * stderr)


def test_numpyro_draws_from_it(distribution):
    def model():
        with numpyro.plate("rows", 50):
            return sample("x", distribution)

    trace = numpyro.handlers.trace(numpyro.handlers.seed(model, jr.key(2))).get_trace()
    x = trace["x"]["value"]
    assert x.shape == (50, 1)
    np.testing.assert_allclose(trace["x"]["fn"].log_prob(x), distribution.log_prob(x), rtol=1e-6)


def test_what_does_not_fit_together_is_refused():
    model = LogDensity(log_density, (1,))
    with pytest.raises(ValueError, match="shape \\(2,\\), the model of shape \\(1,\\)"):
        NormalisedModel(model, Normal(jnp.zeros(2)), 0.0)
    with pytest.raises(ValueError, match="must be 1 or more; got 0 and 16"):
        NormalisedModel(model, Normal(jnp.zeros(1)), 0.0, n_moves=0)

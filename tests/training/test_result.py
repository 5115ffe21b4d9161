"""What a fit returns: as a distribution, and for ArviZ."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from flowjax.distributions import Normal

from flowebm.evaluation.log_partition import LogPartition
from flowebm.models import LogDensity
from flowebm.models.ebflow_architecture import EBFlowArchitecture, build_ebflow
from flowebm.samplers import NormalisedModel
from flowebm.training import FitResult

SD = np.array([0.5, 2.0])


def log_density(x):
    return -0.5 * jnp.sum((x / SD) ** 2)


LOG_Z = float(np.log(2 * np.pi * SD.prod()))


@pytest.fixture(scope="module")
def result():
    """A fit that ended at a Gaussian, with chains that have not been there yet."""
    return FitResult(
        model=LogDensity(log_density, (2,)),
        flow=Normal(jnp.zeros(2), jnp.array([0.7, 2.5])),
        log_partition=LogPartition(LOG_Z, 0.01, 1000.0, 0.1, 2000),
        chains=2.0 * jr.normal(jr.key(0), (64, 2)),
        history=[{"iteration": 50, "step_size": 0.1}],
        stop_reason="all iterations done",
    )


def test_the_distribution_is_the_normalised_model(result):
    distribution = result.to_distribution()
    assert isinstance(distribution, NormalisedModel)
    x = jr.normal(jr.key(1), (20, 2))
    np.testing.assert_allclose(
        distribution.log_prob(x), Normal(jnp.zeros(2), SD).log_prob(x), atol=1e-5
    )


def test_an_ebflow_is_its_own_distribution(result):
    model = build_ebflow(EBFlowArchitecture(), (2,), key=jr.key(0))
    fit = FitResult(model, model, LogPartition.exact(0.0), jnp.zeros((0, 2)), [{}], "done")
    assert fit.to_distribution() is model
    with pytest.raises(ValueError, match="ran no chains"):
        fit.to_arviz()


def test_chains_in_arviz_are_draws_of_the_model(result):
    import arviz

    data = result.to_arviz(n_draws=500, n_chains=8, names=["length", "mass"])
    assert dict(data.posterior.sizes) == {"chain": 8, "draw": 500}
    summary = arviz.summary(data, round_to="none")
    # Five standard errors of the mean, for two columns: false alarms under 2e-6.
    assert np.all(np.abs(summary["mean"]) <= 5 * summary["mcse_mean"])
    np.testing.assert_allclose(summary["sd"], SD, rtol=0.1)
    assert np.all(summary["r_hat"] < 1.02)
    x = np.stack([data.posterior["length"], data.posterior["mass"]], axis=-1)
    lp = Normal(jnp.zeros(2), SD).log_prob(jnp.asarray(x))
    np.testing.assert_allclose(data.sample_stats["lp"], lp, atol=1e-4)
    assert data.attrs["log_partition"] == LOG_Z
    rate = float(data.sample_stats["global_acceptance"].mean())
    assert 0.5 < rate < 1.0

"""Frozen chains leave their target alone, whatever flow, coordinates and kernels they have."""

import jax
import jax.numpy as jnp
import pytest
from flowjax.distributions import Normal

from flowebm.models import as_energy_model
from flowebm.samplers.assisted_draws import AssistedKernel, Chains, assisted_draws
from flowebm.samplers.preconditioner import StandardisedDensity, moments, preconditioner

SCALES = jnp.array([2.0, 0.5])


@pytest.mark.parametrize(
    ("global_kernel", "local_kernel"), [("imh", "mala"), ("isir", "hmc"), ("imh", "nuts")]
)
def test_exact_draws_stay_exact(p_value, global_kernel, local_kernel):
    """Both coordinates of the last draws jointly, at a false-alarm rate of 1e-5; and draws of a
    density that is wider do not pass."""

    target = as_energy_model(lambda x: -0.5 * jnp.sum((x / SCALES) ** 2), (2,))
    coordinates = preconditioner(
        moments(jax.random.normal(jax.random.key(3), (50, 2)) * jnp.array([1.0, 3.0]), 50)
    )
    kernel = AssistedKernel(
        model=StandardisedDensity(target, coordinates),
        proposal=Normal(jnp.array([0.3, 0.0]), jnp.array([3.0, 0.4])),
        step_size=jnp.asarray({"mala": 0.02, "hmc": 0.1, "nuts": 0.1}[local_kernel]),
        global_kernel=global_kernel,
        n_proposals=2,
        local_kernel=local_kernel,
        n_local=1,
    )

    log_prob = jax.jit(jax.vmap(kernel.model.unnormalized_log_prob))

    def last(factor):
        start = factor * SCALES * jax.random.normal(jax.random.key(1), (20_000, 2))
        start = coordinates.standardise(start)
        chains = Chains(start, log_prob(start))
        chains, drawn = assisted_draws(jax.random.key(2), kernel, chains, 2)
        assert drawn.position.shape == (2, 20_000, 2)
        # The density that is carried along is that of where the chains are.
        expected = log_prob(chains.position)
        assert jnp.allclose(chains.logdensity, expected, atol=1e-4)
        return coordinates.restore(chains.position)

    def p(factor):
        u = jax.scipy.stats.norm.cdf(last(factor) / SCALES)
        return p_value(u[:, 0], u[:, 1], n_bins=8)

    assert p(1.0) > 1e-5
    assert p(1.4) < 1e-6

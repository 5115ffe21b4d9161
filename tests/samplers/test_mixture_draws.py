"""The small program of chains leaves the target invariant."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest, norm

from flowebm.models.elliptical_mixture import EllipticalMixture
from flowebm.models.energy import as_energy_model
from flowebm.samplers.assisted_draws import AssistedKernel, Chains, mixture_draws


@pytest.mark.parametrize("local_kernel", ["mala", "rwm"])
def test_chains_that_start_from_the_target_stay_there(local_kernel):
    """4,000 independent chains of 6 steps, by a proposal that is wrong: Kolmogorov-Smirnov in both
    coordinates with false alarms under 1e-5. Without either acceptance test it fails."""
    model = as_energy_model(lambda x: -0.5 * jnp.sum(x**2) - 0.3 * x[0], (2,))
    wrong = EllipticalMixture(np.ones(1), np.array([[0.7, 0.0]]), np.array([[1.5, 0.8]]))
    kernel = AssistedKernel(model, wrong, jnp.asarray(0.5), "imh", 1, local_kernel, 2)
    rng = np.random.default_rng(0)
    shift = np.array([-0.3, 0.0])
    start = (rng.normal(size=(4000, 2)) + shift).astype(np.float32)
    moves = rng.normal(size=(6, 3, 4000, 2))
    moves[:, 0] = np.array([0.7, 0.0]) + moves[:, 0] * np.array([1.5, 0.8])
    log_uniforms = np.log(1 - rng.random((6, 3, 4000)))
    log_density = -0.5 * np.sum(start**2, axis=1) - 0.3 * start[:, 0]
    chains = Chains(jnp.asarray(start), jnp.asarray(log_density))
    end, drawn = mixture_draws(
        kernel, chains, jnp.asarray(moves, jnp.float32), jnp.asarray(log_uniforms, jnp.float32)
    )
    for i in range(2):
        assert kstest(np.asarray(end.position)[:, i], norm(shift[i]).cdf).pvalue > 1e-5
    moved = np.abs(np.asarray(end.position) - start).max(axis=1) > 1e-6
    assert moved.mean() > 0.95
    assert 0.2 < float(drawn.global_acceptance.mean()) < 0.95
    assert drawn.position.shape == (6, 4000, 2)

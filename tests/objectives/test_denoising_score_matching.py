"""Denoising score matching."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.objectives.denoising_score_matching import dsm


def expected_loss(precision, x, sigma, penalty):
    r"""½ E‖ξ/σ - P(x + σξ)‖² + λ E[½ (x + σξ)ᵀP(x + σξ)], which is
    ½ ‖P x‖² + ½ ‖I/σ - σP‖² + λ ½ (xᵀP x + σ² tr P)."""
    slope = np.eye(3) / sigma - sigma * precision
    loss = 0.5 * np.sum((precision @ x) ** 2) + 0.5 * np.sum(slope**2)
    return loss + penalty * 0.5 * (x @ precision @ x + sigma**2 * np.trace(precision))


@pytest.mark.parametrize(("sigma", "penalty"), [(0.5, 0.0), (0.5, 2.0), ([0.3, 0.6, 2.0], 0.5)])
def test_on_a_gaussian_its_expectation_is_the_closed_form(gaussian, precision, sigma, penalty):
    """4,000 draws at one point; several noise levels average. |z| < 4.1 fails by chance with
    probability 4e-5."""
    x = jnp.array([1.0, -0.5, 2.0])
    loss = dsm(sigma, level_penalty=penalty)
    keys = jax.random.split(jax.random.key(0), 4000)
    losses = jax.jit(jax.vmap(lambda key: loss(gaussian, x[None], key)))(keys)
    expected = np.mean([expected_loss(precision, x, s, penalty) for s in np.atleast_1d(sigma)])
    z = (losses.mean() - expected) / (losses.std() / np.sqrt(4000))
    assert 1e-6 < abs(z) < 4.1


@pytest.mark.parametrize("sigma", [0.0, -1.0, [0.1, np.inf], []])
def test_noise_levels_that_are_not_positive_are_refused(sigma):
    with pytest.raises(ValueError, match="positive, finite noise levels"):
        dsm(sigma)

"""Mode weights of the model: the mixture's own, with calibrated errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowjax.distributions import Normal

from flowebm.evaluation import NearestMode, mode_weights, total_variation

WEIGHTS = np.array([0.5, 0.3, 0.2])
CENTERS = np.array([[4.0, 0.0], [-4.0, 1.0], [0.0, -5.0]])
SCALE = 0.9


def mixture(x):
    """Log-density, up to a constant, of three Gaussians too far apart to overlap."""
    squares = jnp.sum((x - jnp.array(CENTERS)) ** 2, axis=1)
    return 2.5 + jax.nn.logsumexp(jnp.log(jnp.array(WEIGHTS)) - 0.5 * squares / SCALE**2)


@pytest.fixture
def proposal():
    return Normal(jnp.zeros(2), 4.0)


def test_weights_of_a_mixture_within_their_errors(proposal):
    """False alarm under 3e-5 (three z = 4.5)."""
    estimate = mode_weights(
        jax.random.key(0), mixture, proposal, NearestMode(CENTERS), 3, n=200_000, batch_size=20_000
    )
    assert estimate.weights.sum() == pytest.approx(1)
    assert np.all(estimate.stderr < 0.005)
    assert np.all(np.abs(estimate.weights - WEIGHTS) < 4.5 * estimate.stderr)
    assert estimate.khat < 0.7
    assert estimate.ess > 100


def test_stated_error_covers_the_truth_as_often_as_it_says(proposal):
    """Coverage of ± 1.96 stderr is 95%. False alarm 7e-5 (binomial, z = 4)."""
    replications = 400
    mode = NearestMode(CENTERS)
    estimates = [
        mode_weights(key, mixture, proposal, mode, 3, n=2_000)
        for key in jax.random.split(jax.random.key(1), replications)
    ]
    covered = np.mean(
        [np.abs(e.weights - WEIGHTS) < 1.959964 * e.stderr for e in estimates], axis=0
    )
    assert np.all(np.abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / replications))


def test_two_modes_err_equally(proposal):
    """With two modes one's gain is the other's loss."""
    estimate = mode_weights(
        jax.random.key(2), mixture, proposal, lambda x: (x[0] > 2).astype(int), 2
    )
    np.testing.assert_allclose(estimate.stderr[0], estimate.stderr[1], rtol=1e-10)


def test_index_out_of_range_is_refused(proposal):
    with pytest.raises(ValueError, match=r"indices from 0 to 2; with n_modes=2 .* 0\.\.1"):
        mode_weights(jax.random.key(3), mixture, proposal, NearestMode(CENTERS), 2, n=500)


def test_nearest_mode_of_an_image():
    images = jax.random.normal(jax.random.key(4), (5, 1, 3, 3))
    assert [int(NearestMode(images)(image + 0.01)) for image in images] == [0, 1, 2, 3, 4]


def test_total_variation():
    assert total_variation([0.5, 0.5], [0.5, 0.5]) == 0
    assert total_variation([1.0, 0.0], [0.0, 1.0]) == 1
    assert total_variation([0.5, 0.3, 0.2], [0.4, 0.3, 0.3]) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="cannot be compared"):
        total_variation([1.0], [0.5, 0.5])

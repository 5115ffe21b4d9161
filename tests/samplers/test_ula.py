import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from flowebm.samplers import run_chains, ula


def log_normal(x):
    return -0.5 * jnp.sum(x**2)


@pytest.mark.parametrize("step_size", [0.01, 0.5])
def test_on_a_gaussian_one_step_is_an_autoregression(step_size):
    """Exact: $x' = (1 - \\varepsilon) x + \\sqrt{2\\varepsilon}\\,\\xi$."""
    kernel = ula.build_kernel()

    def moved(x):
        state = ula.init(x, log_normal)
        return kernel(jax.random.key(0), state, log_normal, step_size)[0].position

    x = jnp.array([1.0, -3.0, 0.2])
    np.testing.assert_allclose(moved(x) - moved(0 * x), (1 - step_size) * x, rtol=1e-14)


def test_the_noise_is_normal_with_variance_two_step_sizes(p_value):
    """Chi-square test of the noise's law. False-alarm rate 1e-5."""
    algorithm = ula.as_top_level_api(log_normal, 0.3)
    final, _ = run_chains(jax.random.key(1), algorithm, jnp.zeros(20_000), 1)
    assert p_value(norm.cdf(final.position, scale=np.sqrt(0.6))) > 1e-5
    assert p_value(norm.cdf(final.position, scale=np.sqrt(0.5))) < 1e-6


@pytest.mark.parametrize(("step_size", "bias_is_seen"), [(0.5, True), (1e-3, False)])
def test_stationary_law_on_a_gaussian(p_value, step_size, bias_is_seen):
    """The fixed point $v = (1-\\varepsilon)^2 v + 2\\varepsilon$ is $v = 1/(1 - \\varepsilon/2)$.

    It is 1 only as the step size goes to zero. False-alarm rate 1e-5 for each of the two.
    """
    variance = 1 / (1 - step_size / 2)
    assert (1 - step_size) ** 2 * variance + 2 * step_size == pytest.approx(variance, rel=1e-14)
    start = jnp.sqrt(variance) * jax.random.normal(jax.random.key(2), (20_000,))
    algorithm = ula.as_top_level_api(log_normal, step_size)
    final, _ = run_chains(jax.random.key(3), algorithm, start, 5)
    assert p_value(norm.cdf(final.position, scale=np.sqrt(variance))) > 1e-5
    biased = p_value(norm.cdf(final.position)) < 1e-6
    assert biased == bias_is_seen


def test_cached_terms_belong_to_the_position():
    algorithm = ula.as_top_level_api(log_normal, 0.1)
    state, info = algorithm.step(jax.random.key(0), algorithm.init(jnp.ones(2), None))
    assert state.logdensity == log_normal(state.position)
    assert (state.logdensity_grad == -state.position).all()
    assert info.acceptance_rate == 1
    assert info.is_accepted

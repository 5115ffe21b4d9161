import math

import blackjax
import jax
import jax.numpy as jnp
import pytest

from flowebm.samplers import step_size


def follow(state, scale, n_updates, **kwargs):
    """Adapt against a kernel whose acceptance rate is exactly $\\exp(-\\varepsilon / scale)$."""
    return jax.lax.fori_loop(
        0,
        n_updates,
        lambda _, s: step_size.update(s, jnp.exp(-s.step_size / scale), **kwargs),
        state,
    )


@pytest.mark.parametrize("target", [step_size.MALA_TARGET_ACCEPTANCE, 0.8])
@pytest.mark.parametrize("start", [1e-3, 1e3])
def test_reaches_the_target_from_far_on_either_side(start, target):
    state = follow(step_size.init(start), 1.0, 3000, target=target)
    assert state.step_size == pytest.approx(-math.log(target), rel=1e-6)


def test_a_floor_under_the_gain_follows_a_target_that_moves_late():
    """400 updates undo a tenfold change after 10,000 updates; a vanishing gain does not."""

    def error(min_gain):
        state = follow(step_size.init(1.0), 1.0, 10_000, min_gain=min_gain)
        state = follow(state, 0.1, 400, min_gain=min_gain)
        return abs(state.log_step_size - math.log(-0.1 * math.log(0.574)))

    assert error(0.05) < 0.02
    assert error(0.0) > 0.5


def test_the_unit_of_the_position_does_not_matter():
    small, large = (step_size.update(step_size.init(s), 0.9) for s in (1e-4, 1e4))
    assert large.step_size / small.step_size == pytest.approx(1e8, rel=1e-12)


def test_the_mean_over_all_chains_and_steps_decides():
    rates = jnp.array([[1.0, 0.2], [0.4, 0.8]])
    state = step_size.init(0.1)
    assert step_size.update(state, rates) == step_size.update(state, rates.mean())


def test_a_rate_that_is_not_a_number_counts_as_a_rejection():
    state = step_size.init(0.1)
    with_nan = step_size.update(state, jnp.array([1.0, jnp.nan]))
    assert with_nan == step_size.update(state, jnp.array([1.0, 0.0]))


def test_mala_on_a_gaussian_accepts_at_the_target():
    """64,000 acceptance rates of spread under 0.4: 0.02 is beyond 10 standard errors."""
    kernel = blackjax.mala.build_kernel()

    def log_density(x):
        return -0.5 * jnp.sum(x**2)

    def iterate(carry, key):
        states, adaptation = carry
        states, info = jax.vmap(lambda k, s: kernel(k, s, log_density, adaptation.step_size))(
            jax.random.split(key, 256), states
        )
        return (states, step_size.update(adaptation, info.acceptance_rate)), info.acceptance_rate

    start = jax.random.normal(jax.random.key(0), (256, 10))
    states = jax.vmap(lambda x: blackjax.mala.init(x, log_density))(start)
    _, rates = jax.lax.scan(
        iterate, (states, step_size.init(1e-3)), jax.random.split(jax.random.key(1), 500)
    )
    assert rates[250:].mean() == pytest.approx(step_size.MALA_TARGET_ACCEPTANCE, abs=0.02)

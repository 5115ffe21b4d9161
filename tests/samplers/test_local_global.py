import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.samplers import flow_imh, flow_isir, local_global, ula


@pytest.fixture
def compose(mixture, proposal):
    def run(local_algorithm, global_kernel=None, n_local=2):
        return local_global.as_top_level_api(
            mixture.log_prob,
            proposal,
            flow_imh.build_kernel() if global_kernel is None else global_kernel,
            local_algorithm,
            n_local,
        )

    return run


def test_imh_and_mala_leave_the_target_invariant(mixture, compose, invariance_p_value):
    """False-alarm rate 1e-5. Planted error: after a global move, not the new gradient."""
    mala = blackjax.mala(mixture.log_prob, 0.2)

    def algorithm(error):
        def init(position, key):
            state = mala.init(position, key)
            return state._replace(logdensity_grad=(1 - error) * state.logdensity_grad)

        return compose(mala._replace(init=init))

    p_value = invariance_p_value(algorithm)
    assert p_value(0.0) > 1e-5
    assert p_value(1.0) < 1e-6


def test_isir_and_hmc_leave_the_target_invariant(mixture, proposal, compose, invariance_p_value):
    """False-alarm rate 1e-5. Planted error: $\\log q$ of a point where the chain is not."""
    isir = flow_isir.build_kernel(2)

    def algorithm(error):
        def kernel(key, state, logdensity_fn, q):
            elsewhere = q.log_prob((1 - error) * state.position)
            return isir(key, state._replace(proposal_log_prob=elsewhere), logdensity_fn, q)

        return compose(blackjax.hmc(mixture.log_prob, 0.3, jnp.ones(1), 3), kernel)

    p_value = invariance_p_value(algorithm)
    assert p_value(0.0) > 1e-5
    assert p_value(1.0) < 1e-6


def test_an_uncorrected_local_kernel_is_seen(mixture, compose, invariance_p_value):
    """ULA's bias goes with its step size. False-alarm rate 1e-5 for the small one."""
    p_value = invariance_p_value(
        lambda step_size: compose(ula.as_top_level_api(mixture.log_prob, step_size))
    )
    assert p_value(1e-3) > 1e-5
    assert p_value(0.2) < 1e-6


@pytest.mark.parametrize("n_local", [0, 3])
def test_cached_terms_belong_to_the_position(mixture, compose, n_local):
    algorithm = compose(blackjax.mala(mixture.log_prob, 0.2), n_local=n_local)
    states = jax.vmap(lambda x: algorithm.init(x, None))(jnp.linspace(-3.0, 3.0, 50))
    states, info = jax.jit(jax.vmap(algorithm.step))(
        jax.random.split(jax.random.key(0), 50), states
    )
    logdensity, gradient = jax.vmap(jax.value_and_grad(mixture.log_prob))(states.position)
    np.testing.assert_allclose(states.logdensity, logdensity, rtol=1e-12)
    np.testing.assert_allclose(states.local_state.logdensity_grad, gradient, rtol=1e-10)
    assert info.local_info.acceptance_rate.shape == (50, n_local)
    assert 0 < info.global_info.is_accepted.sum() < 50


def test_a_rejected_global_move_costs_no_gradient(mixture, compose):
    """Without `vmap`: the local state of a chain that stayed is not made anew."""
    calls = []
    mala = blackjax.mala(mixture.log_prob, 0.2)

    def counted_init(position, key):
        jax.debug.callback(lambda: calls.append(1))
        return mala.init(position, key)

    step = jax.jit(compose(mala._replace(init=counted_init), n_local=0).step)
    state, n_accepted = local_global.init(jnp.array(1.5), mixture.log_prob, mala), 0
    for i in range(20):
        state, info = step(jax.random.key(i), state)
        n_accepted += int(info.global_info.is_accepted)
    jax.effects_barrier()
    assert 0 < n_accepted < 20
    assert len(calls) == n_accepted


def test_a_negative_number_of_local_steps_is_refused(mixture, compose):
    with pytest.raises(ValueError, match=r"n_local=-1"):
        compose(blackjax.mala(mixture.log_prob, 0.2), n_local=-1)

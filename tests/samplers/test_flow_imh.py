import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.base import SamplingAlgorithm
from flowjax.distributions import Normal

from flowebm.samplers import FunctionProposal, WeightedState, draw, flow_imh, run_chains

pytestmark = pytest.mark.optimised


def flow_matrix(log_target, log_q, log_q_in_weight):
    """$q(y)\\,\\alpha(x, y)$ on a finite space: the rate of moves from row to column."""

    def rate(x, y):
        state, candidate = (WeightedState(i, log_target[i], log_q_in_weight[i]) for i in (x, y))
        _, info = flow_imh.transition(jax.random.key(0), state, candidate)
        return jnp.exp(log_q[y]) * info.acceptance_rate

    points = jnp.arange(len(log_target))
    return jax.vmap(lambda x: jax.vmap(lambda y: rate(x, y))(points))(points)


def test_detailed_balance_on_a_finite_space():
    """Exact: $\\pi(x) P(x, y) = \\pi(y) P(y, x)$ for every pair; a wrong weight breaks it."""
    log_target = jax.nn.log_softmax(3 * jax.random.normal(jax.random.key(0), (12,)))
    log_q = jax.nn.log_softmax(jax.random.normal(jax.random.key(1), (12,)))

    @jax.jit
    def largest_imbalance(log_q_in_weight):
        flux = jnp.exp(log_target)[:, None] * flow_matrix(log_target, log_q, log_q_in_weight)
        return jnp.max(jnp.abs(flux - flux.T))

    assert largest_imbalance(log_q) < 1e-16
    assert largest_imbalance(log_q + 0.1 * jnp.arange(12.0)) > 1e-4
    assert largest_imbalance(jnp.zeros(12)) > 1e-4


def test_leaves_the_target_invariant(mixture, tilted_proposal, invariance_p_value):
    """False-alarm rate 1e-5. Planted error: a weight wrong by a factor that depends on x."""
    p_value = invariance_p_value(
        lambda slope: flow_imh.as_top_level_api(mixture.log_prob, tilted_proposal(slope))
    )
    assert p_value(0.0) > 1e-5
    assert p_value(0.1) < 1e-6
    assert p_value(-0.1) < 1e-6


def test_the_flow_may_change_if_the_state_is_told(mixture, proposal, invariance_p_value):
    """False-alarm rate 1e-5. Planted error: the state keeps $\\log q$ of the flow before."""
    kernel = flow_imh.build_kernel()

    def algorithm(staleness):
        start = Normal(0.5 - 1.5 * staleness, 2.5 + 1.5 * staleness)
        return SamplingAlgorithm(
            lambda x, key: flow_imh.init(x, mixture.log_prob, start),
            lambda key, state: kernel(key, state, mixture.log_prob, proposal),
        )

    p_value = invariance_p_value(algorithm, n_steps=1)
    assert p_value(0.0) > 1e-5
    assert p_value(1.0) < 1e-6


def test_fresh_weights_estimate_the_normalizer_without_bias(mixture, proposal):
    """z-test of $E[w(y)] = Z$ at 4.5 standard errors: false-alarm rate 7e-6."""
    log_z = 1.3
    algorithm = flow_imh.as_top_level_api(lambda x: mixture.log_prob(x) + log_z, proposal)
    _, log_weights = jax.jit(
        lambda key, x: run_chains(
            key, algorithm, x, 1, keep=lambda state, info: (info.log_weight, state.log_weight)
        )
    )(jax.random.key(3), mixture.sample(jax.random.key(1), 40_000))
    fresh, kept = (np.exp(w[0]) for w in log_weights)

    def z_score(w):
        return (w.mean() - np.exp(log_z)) / (w.std() / np.sqrt(len(w)))

    assert abs(z_score(fresh)) < 4.5
    # The weight of the next state, not of the proposal, is the mistake to make here.
    assert z_score(kept) > 10


def test_kernel_is_a_draw_and_a_transition_with_keys_of_their_own(mixture, proposal):
    """Over 200 keys: one key used for both would decide some of them otherwise."""
    state = flow_imh.init(jnp.array(0.3), mixture.log_prob, proposal)

    def step(key):
        return flow_imh.build_kernel()(key, state, mixture.log_prob, proposal)

    def parts(key):
        key_draw, key_accept = jax.random.split(key)
        candidate = draw(key_draw, mixture.log_prob, proposal)
        return flow_imh.transition(key_accept, state, candidate)

    keys = jax.random.split(jax.random.key(5), 200)
    (new_states, info), (expected, _) = jax.jit(
        lambda keys: (jax.vmap(step)(keys), jax.vmap(parts)(keys))
    )(keys)
    np.testing.assert_array_equal(new_states.position, expected.position)
    np.testing.assert_array_equal(info.is_accepted, new_states.position == info.proposal.position)
    assert 20 < info.is_accepted.sum() < 180


@pytest.mark.parametrize(
    ("current", "candidate", "rate"),
    [
        (0.0, jnp.nan, 0.0),
        (0.0, -jnp.inf, 0.0),
        (jnp.nan, 0.0, 1.0),
        (-jnp.inf, -50.0, 1.0),
        (jnp.nan, jnp.nan, 0.0),
        (jnp.inf, jnp.inf, 0.0),
        (0.0, 2.0, 1.0),
        (0.0, -2.0, np.exp(-2.0)),
    ],
)
def test_broken_points_are_left_and_never_entered(current, candidate, rate):
    states = (
        WeightedState(jnp.array(x), jnp.array(x), jnp.array(0.0)) for x in (current, candidate)
    )
    _, info = jax.jit(flow_imh.transition)(jax.random.key(0), *states)
    assert info.acceptance_rate == pytest.approx(rate)


def test_positions_may_be_pytrees(mixture, p_value):
    """Joint law of two leaves after three steps, on a 5 x 5 grid. False-alarm rate 1e-5."""
    q_a, q_b = Normal(0.5, 2.5), Normal(jnp.zeros(2), 1.5)

    def sample_and_log_prob(key):
        key_a, key_b = jax.random.split(key)
        (a, log_a), (b, log_b) = q_a.sample_and_log_prob(key_a), q_b.sample_and_log_prob(key_b)
        return {"a": a, "b": b}, log_a + log_b

    proposal = FunctionProposal(
        lambda x: q_a.log_prob(x["a"]) + q_b.log_prob(x["b"]), sample_and_log_prob
    )
    algorithm = flow_imh.as_top_level_api(
        lambda x: mixture.log_prob(x["a"]) - 0.5 * jnp.sum(x["b"] ** 2), proposal
    )
    start = {
        "a": mixture.sample(jax.random.key(1), 20_000),
        "b": jax.random.normal(jax.random.key(2), (20_000, 2)),
    }
    _, kept = jax.jit(lambda key, x: run_chains(key, algorithm, x, 3))(jax.random.key(4), start)
    last = jax.tree.map(lambda leaf: leaf[-1], kept)
    u = mixture.cdf(last["a"]), jax.scipy.stats.norm.cdf(last["b"][:, 1])
    assert p_value(*u, n_bins=5) > 1e-5
    assert np.mean(last["a"] != start["a"]) > 0.5

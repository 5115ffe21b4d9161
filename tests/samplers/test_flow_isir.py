import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.samplers import WeightedState, draw, flow_isir, run_chains


def transition_matrix(log_target, log_q, log_q_in_weight, n_proposals):
    """The kernel on a finite space, its candidates summed over exactly."""
    n_points = len(log_target)
    tuples = jnp.array(list(itertools.product(range(n_points), repeat=n_proposals)))

    def row(x, ys):
        state, candidates = (WeightedState(i, log_target[i], log_q_in_weight[i]) for i in (x, ys))
        _, info = flow_isir.transition(jax.random.key(0), state, candidates)
        probability = jnp.exp(jnp.sum(log_q[ys]))
        return probability * jnp.zeros(n_points).at[info.pool.position].add(info.weights)

    rows = jax.vmap(lambda x: jax.vmap(lambda ys: row(x, ys))(tuples))(jnp.arange(n_points))
    return rows.sum(axis=1)


@pytest.mark.parametrize("n_proposals", [1, 2, 4])
def test_invariance_on_a_finite_space(n_proposals):
    """Exact: $\\pi P = \\pi$ with the candidates summed over; a wrong weight breaks it."""
    log_target = jax.nn.log_softmax(2 * jax.random.normal(jax.random.key(0), (5,)))
    log_q = jax.nn.log_softmax(jax.random.normal(jax.random.key(1), (5,)))
    target = jnp.exp(log_target)

    @jax.jit
    def largest_change(log_q_in_weight):
        matrix = transition_matrix(log_target, log_q, log_q_in_weight, n_proposals)
        return jnp.max(jnp.abs(target @ matrix - target))

    assert largest_change(log_q) < 1e-15
    assert largest_change(log_q + 0.1 * jnp.arange(5.0)) > 1e-3
    assert largest_change(jnp.zeros(5)) > 1e-3


@pytest.mark.parametrize("n_proposals", [1, 2, 16])
def test_leaves_the_target_invariant(mixture, tilted_proposal, invariance_p_value, n_proposals):
    """False-alarm rate 1e-5. Planted error: a weight wrong by a factor that depends on x."""
    p_value = invariance_p_value(
        lambda slope: flow_isir.as_top_level_api(
            mixture.log_prob, tilted_proposal(slope), n_proposals
        )
    )
    assert p_value(0.0) > 1e-5
    assert p_value(0.1) < 1e-6


def test_the_states_own_proposal_density_is_used(mixture, proposal, invariance_p_value):
    """False-alarm rate 1e-5. Planted error: the state's $\\log q$ is off by a constant."""
    isir = flow_isir.as_top_level_api(mixture.log_prob, proposal, 2)

    def algorithm(shift):
        def init(x, key):
            state = isir.init(x, None)
            return state._replace(proposal_log_prob=state.proposal_log_prob + shift)

        return isir._replace(init=init)

    p_value = invariance_p_value(algorithm, n_steps=1)
    assert p_value(0.0) > 1e-5
    assert p_value(1.0) < 1e-6


def test_fresh_weights_estimate_the_normalizer_without_bias(mixture, proposal):
    """z-test of $E[w(y)] = Z$ at 4.5 standard errors: false-alarm rate 7e-6."""
    log_z = 1.3
    algorithm = flow_isir.as_top_level_api(lambda x: mixture.log_prob(x) + log_z, proposal, 2)
    _, log_weights = jax.jit(
        lambda key, x: run_chains(key, algorithm, x, 1, keep=lambda _, info: info.log_weights)
    )(jax.random.key(3), mixture.sample(jax.random.key(1), 20_000))
    weights = np.exp(log_weights[0])

    def z_score(w):
        return (w.mean() - np.exp(log_z)) / (w.mean(axis=1).std() / np.sqrt(len(w)))

    assert abs(z_score(weights[:, 1:])) < 4.5
    # Counting the current state, a draw of p and not of q, is the mistake to make here.
    assert z_score(weights) > 10


def test_waste_recycled_mean_is_exact(mixture, proposal):
    """z-test of $E[\\sum_j \\omega_j y_j^2] = E_p[x^2]$ at stationarity; false-alarm rate 7e-6."""
    algorithm = flow_isir.as_top_level_api(mixture.log_prob, proposal, 2)

    def keep(state, info):
        squares = info.pool.position**2
        return jnp.sum(info.weights * squares), jnp.mean(squares)

    _, kept = jax.jit(lambda key, x: run_chains(key, algorithm, x, 1, keep=keep))(
        jax.random.key(6), mixture.sample(jax.random.key(1), 20_000)
    )

    def z_score(means):
        exact = mixture.weights @ (mixture.means**2 + mixture.stds**2)
        return (means.mean() - exact) / (means.std() / np.sqrt(means.size))

    weighted, unweighted = kept
    assert abs(z_score(weighted)) < 4.5
    # Forgetting the weights is the mistake to make here.
    assert abs(z_score(unweighted)) > 10


def test_kernel_is_draws_and_a_transition_with_keys_of_their_own(mixture, proposal):
    """Over 200 keys: one key used for both would decide some of them otherwise."""
    state = flow_isir.init(jnp.array(0.3), mixture.log_prob, proposal)

    def step(key):
        return flow_isir.build_kernel(3)(key, state, mixture.log_prob, proposal)

    def parts(key):
        key_draw, key_resample = jax.random.split(key)
        keys = jax.random.split(key_draw, 3)
        candidates = jax.vmap(lambda k: draw(k, mixture.log_prob, proposal))(keys)
        return flow_isir.transition(key_resample, state, candidates)

    keys = jax.random.split(jax.random.key(5), 200)
    (new_states, _), (expected, info) = jax.jit(
        lambda keys: (jax.vmap(step)(keys), jax.vmap(parts)(keys))
    )(keys)
    np.testing.assert_array_equal(new_states.position, expected.position)
    assert len(np.unique(info.index)) == 4


def test_info_is_of_one_piece():
    rng = np.random.default_rng(0)
    points = WeightedState(*(jnp.asarray(rng.normal(size=4)) for _ in range(3)))
    state, candidates = (jax.tree.map(lambda leaf, i=i: leaf[i], points) for i in (0, slice(1, 4)))
    new_state, info = jax.jit(flow_isir.transition)(jax.random.key(1), state, candidates)
    np.testing.assert_array_equal(info.pool, points)
    np.testing.assert_array_equal(new_state, np.asarray(info.pool)[:, info.index])
    weights = np.exp(points.logdensity - points.proposal_log_prob)
    np.testing.assert_allclose(np.exp(info.log_weights), weights, rtol=1e-14)
    np.testing.assert_allclose(info.weights, weights / weights.sum(), rtol=1e-14)
    np.testing.assert_allclose(info.acceptance_rate, 1 - info.weights[0], rtol=1e-14)
    np.testing.assert_allclose(info.ess, weights.sum() ** 2 / (weights**2).sum(), rtol=1e-14)
    assert info.is_accepted == (info.index != 0)


@pytest.mark.parametrize(
    ("log_weights", "weights"),
    [
        ([0.0, jnp.nan, -jnp.inf], [1.0, 0.0, 0.0]),
        ([jnp.nan, 0.0, 0.0], [0.0, 0.5, 0.5]),
        ([jnp.nan, jnp.nan, -jnp.inf], [1.0, 0.0, 0.0]),
        ([0.0, jnp.inf, 0.0], [0.0, 1.0, 0.0]),
        ([jnp.inf, 0.0, jnp.inf], [0.5, 0.0, 0.5]),
        ([-1000.0, -1000.0, -999.0], np.exp([0, 0, 1]) / np.exp([0, 0, 1]).sum()),
    ],
)
def test_broken_points_have_no_weight_and_the_weights_always_sum_to_one(log_weights, weights):
    points = WeightedState(jnp.arange(3), jnp.array(log_weights), jnp.zeros(3))
    state, candidates = (jax.tree.map(lambda leaf, i=i: leaf[i], points) for i in (0, slice(1, 3)))
    new_state, info = jax.jit(flow_isir.transition)(jax.random.key(0), state, candidates)
    np.testing.assert_allclose(info.weights, weights, rtol=1e-12)
    assert info.weights[new_state.position] > 0


def test_no_proposals_are_refused():
    with pytest.raises(ValueError, match=r"n_proposals=0 never moves"):
        flow_isir.build_kernel(0)

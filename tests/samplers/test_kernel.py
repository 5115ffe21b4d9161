"""Moves of many chains at once: invariance, free estimates, and waste recycling."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowjax.distributions import Normal

from flowebm.samplers.kernel import LOCAL, global_move, local_moves

KERNELS = [("imh", 1), ("isir", 1), ("isir", 3)]


class TiltedNormal(NamedTuple):
    r"""A wide normal whose reported density is wrong by a factor $e^{\text{slope}\, x}$."""

    slope: float
    normal: Normal = Normal(0.5, 2.5)

    def log_prob(self, x):
        return self.normal.log_prob(x) + self.slope * x

    def sample_and_log_prob(self, key, shape):
        y, log_q = self.normal.sample_and_log_prob(key, shape)
        return y, log_q + self.slope * y


class SameDraws(NamedTuple):
    """A proposal that makes the same draws for every key."""

    normal: Normal
    key: jax.Array

    def log_prob(self, x):
        return self.normal.log_prob(x)

    def sample_and_log_prob(self, key, shape):
        return self.normal.sample_and_log_prob(self.key, shape)


@pytest.mark.parametrize(("kernel", "n_proposals"), KERNELS)
def test_global_moves_leave_the_target_invariant_and_weigh_its_normalizer(
    mixture, p_value, kernel, n_proposals
):
    """From exact draws to exact draws, at false-alarm rate 1e-5; and E[w] = Z at 7e-6."""
    log_z, n_chains = 1.3, 40_000

    @jax.jit
    def move(slope):
        start = mixture.sample(jax.random.key(1), n_chains)
        return global_move(
            jax.random.key(2),
            lambda x: mixture.log_prob(x) + log_z,
            TiltedNormal(slope),
            start,
            kernel=kernel,
            n_proposals=n_proposals,
        )

    right = move(0.0)
    assert p_value(mixture.cdf(right.positions)) > 1e-5
    assert p_value(mixture.cdf(move(0.3).positions)) < 1e-6

    weights = np.exp(right.log_weights)
    assert weights.size == n_chains * n_proposals
    stderr = weights.std() / np.sqrt(weights.size)
    assert abs(weights.mean() - np.exp(log_z)) < 4.5 * stderr
    assert float(right.pool_weights.sum()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(("kernel", "n_proposals"), KERNELS)
def test_the_pool_holds_the_conditional_expectation_of_the_next_average(
    mixture, kernel, n_proposals
):
    """The pool fixed, over 20,000 decisions: z-tests at 5 standard errors, false alarms 1e-6.

    Waste-recycled and plain gradients are such averages, so that they agree in expectation.
    """
    positions = mixture.sample(jax.random.key(1), 5)
    proposal = SameDraws(Normal(0.5, 2.5), jax.random.key(2))

    @jax.jit
    def moves(keys):
        return jax.vmap(
            lambda key: global_move(
                key, mixture.log_prob, proposal, positions, kernel=kernel, n_proposals=n_proposals
            )
        )(keys)

    move = moves(jax.random.split(jax.random.key(3), 20_000))
    pool, weights = move.pool[0], move.pool_weights[0]
    np.testing.assert_array_equal(pool[:5], positions)
    assert pool.shape == weights.shape == (5 * (1 + n_proposals),)

    def z_score(f, weights):
        averages = np.asarray(f(move.positions).mean(axis=1))
        return (averages.mean() - weights @ f(pool)) / (averages.std() / np.sqrt(averages.size))

    for f in (lambda x: x, jnp.square, jnp.cos):
        assert abs(z_score(f, weights)) < 5
    # Current and fresh points exchanged is the mistake to make here.
    swapped = jnp.concatenate([weights[-5:], weights[:-5]])
    assert abs(z_score(jnp.square, swapped)) > 10
    moved = np.asarray(move.positions != positions).mean(axis=0)
    rate = np.asarray(move.acceptance_rate[0])
    assert np.all(np.abs(moved - rate) < 5 * np.sqrt(rate * (1 - rate) / 20_000) + 1e-12)


SCALES = jnp.array([[1.0, 0.5]])


@pytest.mark.parametrize("kernel", ["mala", "hmc", "ula", "rwm"])
def test_local_moves_leave_their_law_invariant(p_value, kernel):
    r"""On a Gaussian over points of two axes, both coordinates jointly; false alarms 1e-5.

    MALA and HMC leave the target itself; ULA, $x' = (1 - \varepsilon/s^2) x + \sqrt{2
    \varepsilon}\, \xi$, leaves the Gaussian of variance $s^2 / (1 - \varepsilon / 2 s^2)$.
    """
    step_size = {"mala": 0.1, "hmc": 0.3, "ula": 0.1, "rwm": 0.3}[kernel]
    bias = 1 / (1 - step_size / (2 * SCALES**2)) if kernel == "ula" else 1.0
    std = SCALES * jnp.sqrt(bias)

    @jax.jit
    def moved(factor):
        start = factor * std * jax.random.normal(jax.random.key(1), (40_000, 1, 2))
        return local_moves(
            jax.random.key(2),
            lambda x: -0.5 * jnp.sum((x / SCALES) ** 2),
            start,
            step_size,
            kernel=kernel,
            n_steps=3,
        )

    def p(factor):
        u = jax.scipy.stats.norm.cdf(moved(factor)[0] / std)
        return p_value(u[:, 0, 0], u[:, 0, 1], n_bins=8)

    assert p(1.0) > 1e-5
    assert p(1.1) < 1e-6
    acceptance = moved(1.0)[1]
    assert acceptance.shape == (3, 40_000)
    assert 0.5 < float(acceptance.mean()) <= 1.0
    assert (kernel == "ula") == bool(jnp.all(acceptance == 1))


def test_every_chain_and_every_step_has_noise_of_its_own():
    """ULA on a flat density: increments are independent normals of variance 2ε."""
    start = jnp.zeros((20_000, 1))
    increments = [
        local_moves(jax.random.key(4), lambda x: 0.0 * x.sum(), start, 0.5, kernel="ula", n_steps=n)
        for n in (1, 2)
    ]
    one, two = (positions[:, 0] for positions, *_ in increments)
    assert len(np.unique(one)) == 20_000
    # Over n chains the variance has standard error v √(2/n): 4.5 of them, false alarms 7e-6. One
    # key for both steps would double the increment and give variance 4.
    for positions, variance in ((one, 1.0), (two, 2.0)):
        assert abs(float(positions.var()) / variance - 1) < 4.5 * np.sqrt(2 / 20_000)


def test_unadjusted_moves_are_those_of_the_kernel_that_keeps_its_gradients():
    def log_density(x):
        return -jnp.sum(x**4)

    start = jax.random.normal(jax.random.key(0), (5, 2))
    arguments = jax.random.key(1), log_density, start, 0.02
    moved, acceptance, _ = local_moves(*arguments, kernel="ula", n_steps=3)
    ula, states = LOCAL["ula"], jax.vmap(lambda x: LOCAL["ula"].init(x, log_density))(start)
    for key in jax.random.split(jax.random.key(1), 3):
        states, _ = jax.vmap(lambda key, state: ula.step(key, state, log_density, 0.02))(
            jax.random.split(key, 5), states
        )
    np.testing.assert_allclose(moved, states.position, rtol=1e-12)
    assert jnp.all(acceptance == 1)


@pytest.mark.parametrize("kernel", [name for name in LOCAL if LOCAL[name].is_adjusted])
def test_the_density_that_moves_return_is_that_of_where_they_end(kernel):
    def log_density(x):
        return -jnp.sum(x**4)

    start = jax.random.normal(jax.random.key(0), (5, 2))
    moved, _, there = local_moves(jax.random.key(1), log_density, start, 0.02, kernel=kernel)
    assert jnp.any(moved != start)
    np.testing.assert_allclose(there, jax.vmap(log_density)(moved), rtol=1e-10)

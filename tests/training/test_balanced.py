"""Balanced training, one iteration at a time, on a model whose likelihood is known."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import paramax
import pytest
from flowjax.distributions import Normal

from flowebm.models.tilted import EnergyModel
from flowebm.training.balanced import BalancedOptions, BalancedTrainer

DATA = np.random.default_rng(0).normal(0.7, 0.6, size=(20, 1))
OPTIONS = BalancedOptions(
    batch_size=20,
    n_chains=16,
    n_proposals=3,
    flow_batch=8,
    full_ess=1e-9,
    min_ess=0.0,
    n_evaluation=500,
)
#: Made once: another function of the same content would be compiled again.
SGD, FLOW_SGD = optax.sgd(1.0), optax.sgd(1e-3)
compiled_init = eqx.filter_jit(BalancedTrainer.init)
compiled_step = eqx.filter_jit(BalancedTrainer.step)
compiled_evaluate = eqx.filter_jit(BalancedTrainer.evaluate)


class QuadraticTilt(eqx.Module):
    """U(x) = a x + ½ exp(k) x²: the tilted standard normal is N(-a v, v), v = 1 / (1 + exp k)."""

    slope: jax.Array
    log_curvature: jax.Array

    def __call__(self, x):
        return jnp.sum(self.slope * x + 0.5 * jnp.exp(self.log_curvature) * x**2)


def moments(tilt):
    variance = 1 / (1 + jnp.exp(tilt.log_curvature))
    return -tilt.slope * variance, variance


def log_partition(tilt):
    mean, variance = moments(tilt)
    return 0.5 * (jnp.log(variance) + mean**2 / variance)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def tilt():
    return QuadraticTilt(jnp.array(0.5), jnp.array(-0.3))


@pytest.fixture
def trainer(tilt):
    """Descent with rate one and no memory: a step's change is minus its gradient."""
    base = paramax.non_trainable(Normal(jnp.zeros(1), 1.0))
    return BalancedTrainer(
        model=EnergyModel(tilt, base),
        proposal=Normal(jnp.zeros(1), 1.3),
        data=jnp.asarray(DATA),
        validation=jnp.asarray(DATA),
        chains=jnp.zeros((16, 1)),
        optimizer=SGD,
        flow_optimizer=FLOW_SGD,
        options=OPTIONS,
        batch_size=20,
    )


def with_options(trainer, **changes):
    options = dataclasses.replace(trainer.options, **changes)
    return dataclasses.replace(trainer, options=options)


def steps(trainer, n, state=None):
    """The state before and after each of `n` iterations, and their metrics."""
    state = compiled_init(trainer, jr.key(0)) if state is None else state
    # Without weak types, as the driver has it: the second iteration would be compiled anew.
    states = [jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), state)]
    rows = []
    for i in range(n):
        state, row = compiled_step(trainer, jr.key(i), states[-1], jnp.arange(20), jnp.array(1.0))
        states.append(state)
        rows.append(row)
    return states, rows


def moves(states, part):
    """Whether a part of the state changed in each iteration."""
    parts = [part(state) for state in states]
    return [not eqx.tree_equal(a, b) for a, b in itertools.pairwise(parts)]


@pytest.fixture
def waiting(trainer):
    """The energy would wait for an effective share that is never reached."""
    return with_options(trainer, min_ess=1.1, max_wait=3, flow_interval=3)


@pytest.mark.parametrize(
    ("kernel", "gradient", "local_kernel"),
    [
        ("imh", "chains", "mala"),
        ("isir", "waste-recycled", "hmc"),
        ("none", "chains", "hmc"),
        ("imh", "chains", "rwm"),
    ],
)
def test_from_chains_at_equilibrium_a_step_descends_the_exact_likelihood(
    trainer, tilt, kernel, gradient, local_kernel
):
    """Over 3,000 runs of one step; z-tests at 5 standard errors, false-alarm rate 2e-6 a case.

    Planted error: chains that are not at equilibrium, which moves its average must show.
    """
    trainer = with_options(
        trainer, global_kernel=kernel, gradient=gradient, local_kernel=local_kernel
    )
    exact = jax.grad(
        lambda t: (
            jnp.mean(jax.vmap(EnergyModel(t, trainer.model.base).energy)(trainer.data))
            + log_partition(t)
        )
    )(tilt)
    mean, variance = moments(tilt)

    @jax.jit
    def one_step(keys, shift):
        def run(key):
            chain_key, step_key = jr.split(key)
            noise = jr.normal(chain_key, (16, 1))
            state = trainer.init(key)
            chains = mean + shift + jnp.sqrt(variance) * noise
            state = eqx.tree_at(lambda s: s.chains, state, chains)
            return trainer.step(step_key, state, jnp.arange(20), jnp.array(1.0))[0]

        states = jax.vmap(run)(keys)
        return states.params.tilt, states.log_partition.value, states.train_nll.value

    def z_scores(shift):
        after, log_z, nll = one_step(jr.split(jr.key(1), 3000), shift)
        return [
            (np.mean(old - new) - float(slope)) / (np.std(new) / np.sqrt(3000))
            for old, new, slope in zip(
                jax.tree.leaves(tilt), jax.tree.leaves(after), jax.tree.leaves(exact), strict=True
            )
        ], (np.asarray(log_z), np.asarray(nll))

    z, (log_z, nll) = z_scores(0.0)
    assert np.max(np.abs(z)) < 5
    # Recycled points have the fresh proposals' bias too, but less of the chains'.
    assert np.max(np.abs(z_scores(1.0)[0])) > 8
    if kernel == "none":
        assert not np.any(log_z)
        return
    # The online log Z is unbiased up to its variance squared, of which a run has 0.02; the training
    # NLL is the mean energy and log Z.
    bias = log_z.mean() - float(log_partition(tilt))
    assert abs(bias) < 5 * log_z.std() / np.sqrt(3000)
    energies = jax.vmap(trainer.model.energy)(trainer.data)
    np.testing.assert_allclose(nll - log_z, energies.mean(), rtol=1e-12)


def test_the_evaluation_knows_the_normalised_likelihood_within_its_error(trainer, tilt):
    """z-test of log Z and NLL at 4.5 standard errors; false-alarm rate 1e-5."""
    metrics, nll = compiled_evaluate(trainer, jr.key(3), compiled_init(trainer, jr.key(0)))
    truth = float(log_partition(tilt))
    assert abs(metrics["log_partition"] - truth) < 4.5 * metrics["log_partition_stderr"]
    assert 0 < metrics["log_partition_stderr"] < 0.05
    energies = jax.vmap(trainer.model.energy)(trainer.validation)
    np.testing.assert_allclose(nll, energies + metrics["log_partition"], rtol=1e-12)
    assert float(metrics["nll"]) == pytest.approx(float(nll.mean()), rel=1e-12)
    sampling = np.sqrt(np.var(energies) / 20 + metrics["log_partition_stderr"] ** 2)
    assert float(metrics["nll_stderr"]) == pytest.approx(float(sampling), rel=1e-12)


def test_the_energy_waits_for_the_flow_but_not_for_ever(waiting):
    """Three waits, one step, three waits; chains and flow never wait."""
    states, rows = steps(waiting, 8)
    waits = [True, True, True, False, True, True, True, False]
    assert [float(row["waiting"]) for row in rows] == waits
    for part in (lambda s: s.params, lambda s: s.average):
        assert moves(states, part) == [not wait for wait in waits]
    assert all(moves(states, lambda s: s.chains))
    # In the last it neither waits nor is the flow due, which it is every third.
    assert moves(states, lambda s: s.flow) == [True] * 7 + [False]


def test_the_energy_learns_at_a_rate_in_proportion_to_a_small_ess(trainer, waiting, tilt):
    """Beside a step at the full rate: that of an energy that has waited long enough."""
    states, rows = steps(with_options(trainer, full_ess=2.0, flow_interval=3), 5)
    start = eqx.tree_at(lambda s: s.waited, compiled_init(waiting, jr.key(0)), jnp.array(3))
    (_, full), _ = steps(waiting, 1, start)
    for first, slow, fast in zip(
        *map(jax.tree.leaves, (tilt, states[1].params, full.params)), strict=True
    ):
        assert abs(fast - first) > 0.01
        np.testing.assert_allclose(slow - first, rows[0]["ess"] / 2 * (fast - first), rtol=1e-9)
    # Without a wait the flow moves when it is due, and the step size always adapts.
    assert moves(states, lambda s: s.flow) == [True, False, False, True, False]
    assert all(moves(states, lambda s: s.step_size.log_step_size))


@pytest.mark.parametrize(("n_rows", "n_flow_data"), [(15, 0), (20, 1), (64, 4), (640, 4)])
def test_a_flow_step_sees_a_sixteenth_of_the_rows_at_most(trainer, n_rows, n_flow_data):
    """Which it otherwise learns by heart; of many rows it takes as many as chain states."""
    data = jnp.resize(trainer.data, (n_rows, 1))
    trainer, moved = (dataclasses.replace(trainer, data=rows) for rows in (data, data + 9.0))
    assert trainer.n_flow_data == n_flow_data
    # The chains of the first iteration have not heard of the data yet.
    flows = [steps(each, 1)[0][1].flow for each in (trainer, moved)]
    assert eqx.tree_equal(*flows) == (n_flow_data == 0)


def test_without_adjustment_a_base_trains_along_and_step_size_and_flow_stay(trainer):
    assert optax.tree.size(trainer.init(jr.key(0)).params) == 2  # the frozen base has none
    model = EnergyModel(trainer.model.tilt, Normal(jnp.zeros(1), 1.0))
    trainer = with_options(
        dataclasses.replace(trainer, model=model), global_kernel="none", local_kernel="ula"
    )
    states, _ = steps(trainer, 2)
    base = trainer.with_params(states[-1].params).base
    assert float(base.loc[0]) != 0
    assert float(base.scale[0]) != 1
    assert moves(states, lambda s: s.step_size) == [False, False]
    assert moves(states, lambda s: s.flow) == [False, False]
    assert moves(states, lambda s: s.chains) == [True, True]


def test_without_a_flow_nobody_knows_the_likelihood(trainer):
    trainer = with_options(trainer, global_kernel="none")
    assert trainer.evaluate(jr.key(0), trainer.init(jr.key(0))) == ({}, None)


def test_options_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="recycled gradient needs the proposals"):
        BalancedOptions(gradient="waste-recycled", global_kernel="none")
    for name in ("batch_size", "n_chains", "n_proposals", "n_local", "flow_interval"):
        with pytest.raises(ValueError, match=f"{name} must be 1 or more; got 0"):
            BalancedOptions(**{name: 0})

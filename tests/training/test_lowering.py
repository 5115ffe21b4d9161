"""A training step of every kind is a program for GPUs and TPUs too: it lowers without one."""

from importlib import import_module

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from flowjax.distributions import StandardNormal

from flowebm import (
    Architecture,
    BalancedOptions,
    EBFlowArchitecture,
    EBFlowOptions,
    JointOptions,
    fit_balanced,
    fit_ebflow,
    fit_persistent,
    sample,
)
from flowebm.layers import CircularConv2d, Conv2d, conv_conditioner
from flowebm.models import build, build_ebflow
from flowebm.models.marginals import fit_marginals
from flowebm.models.tilts import MLPTilt
from flowebm.training.candidate import Candidate
from flowebm.training.driver import Outcome
from flowebm.training.fit_balanced import PERSISTENT
from flowebm.training.rows import Rows
from flowebm.training.stages.network import fit_network
from flowebm.training.stages.tilt import fit_tilt

PLATFORMS = ("cuda", "tpu")
DATA = jr.normal(jr.key(0), (40, 2))
IMAGES = jr.normal(jr.key(1), (12, 1, 4, 4))
SMALL = Architecture(width=8, depth=1, flow_layers=1, flow_width=8, flow_depth=1)
CHAINS = {"n_chains": 16, "batch_size": 16, "flow_batch": 16, "n_evaluation": 32}

#: What only a CPU has: calls of LAPACK.
OF_A_CPU = "lapack"


class Caught(Exception):
    """Carries the trainer that was to be driven."""


@pytest.fixture
def trainer_of(monkeypatch):
    """The trainer that a fit hands to the driver."""

    def drive(key, trainer, *args, **kwargs):
        raise Caught(trainer)

    for name in ("fit_balanced", "fit_ebflow", "sampling", "stages.tilt", "stages.network"):
        monkeypatch.setattr(import_module(f"flowebm.training.{name}"), "drive", drive)
    # The warm-up's flow, which no step reads.
    monkeypatch.setattr(
        import_module("flowebm.training.fit_balanced"),
        "fit_flow",
        lambda key, flow, *args, **kwargs: (flow, Outcome(None, [], "")),
    )

    def caught(fit):
        with pytest.raises(Caught) as error:
            fit()
        return error.value.args[0]

    return caught


def check_lowers(trainer):
    """One step's program for every platform, traced once where the tests run."""
    arrays, static = eqx.partition(trainer, eqx.is_array)

    def step(arrays, key):
        trainer = eqx.combine(arrays, static)
        state = trainer.init(key)
        return trainer.step(key, state, jnp.arange(trainer.batch_size), jnp.ones(()))

    traced = jax.jit(step).trace(arrays, jr.key(0))
    # One module with the branches of all of them.
    assert OF_A_CPU not in traced.lower(lowering_platforms=PLATFORMS).as_text()


@pytest.mark.parametrize(("kernel", "local"), [("imh", "mala"), ("isir", "hmc")])
def test_balanced_training(trainer_of, kernel, local):
    model, proposal = build(SMALL, (2,), data=DATA, key=jr.key(2))
    options = BalancedOptions(global_kernel=kernel, local_kernel=local, **CHAINS)
    check_lowers(
        trainer_of(lambda: fit_balanced(jr.key(0), model, DATA, proposal=proposal, options=options))
    )


def test_persistent_chains(trainer_of):
    model, _ = build(SMALL, (2,), data=DATA, key=jr.key(2))
    check_lowers(trainer_of(lambda: fit_persistent(jr.key(0), model, DATA, options=PERSISTENT)))


@pytest.mark.parametrize("with_reference", [False, True])
def test_importance_weighted_tilts(trainer_of, with_reference):
    rows = Rows(DATA, DATA, None)
    base = Candidate.of("Gaussian", StandardNormal((2,)), rows)
    given = {"learning_rate": 1e-3, "weight_decay": 1e-3, "batch_size": 16, "max_steps": 1}
    tilt = MLPTilt((2,), width=8, depth=1, key=jr.key(2))
    check_lowers(
        trainer_of(
            lambda: fit_tilt(
                jr.key(0),
                tilt,
                base,
                DATA,
                rows,
                bound=1.0,
                reference=base if with_reference else None,
                **given,
            )
        )
    )


def test_autoregressive_networks(trainer_of):
    rows, options = Rows(DATA, DATA, None), JointOptions(network_width=8, network_blocks=1)
    marginals = fit_marginals(np.asarray(DATA))
    check_lowers(
        trainer_of(lambda: fit_network(jr.key(0), rows, np.arange(2), marginals, options=options))
    )


@pytest.mark.parametrize("objective", ["ml", "ssm", "dsm"])
@pytest.mark.parametrize("kind", ["fc", "cnn", "glow"])
def test_energy_based_flows(trainer_of, objective, kind):
    model = build_ebflow(
        EBFlowArchitecture(kind, n_blocks=1, conditioner_width=4), (1, 4, 4), key=jr.key(0)
    )
    options = EBFlowOptions(objective=objective, batch_size=8)
    check_lowers(trainer_of(lambda: fit_ebflow(jr.key(0), model, IMAGES, options=options)))


def test_sampling(trainer_of):
    """In so many coordinates there is the path of temperatures, on which a flow is trained."""
    check_lowers(
        trainer_of(lambda: sample(jr.key(0), lambda x: -0.5 * jnp.sum(x**2), 41, verbose=False))
    )


@pytest.mark.parametrize("make", [Conv2d, CircularConv2d])
@pytest.mark.parametrize(("shape", "side"), [((1, 8, 8), 7), ((1, 8, 8), 3)])
def test_convolutions_are_direct_elsewhere_than_on_a_cpu(make, shape, side):
    """Products of band matrices are a CPU's way, wherever the program was traced."""
    layer = make(jnp.ones((1, 1, side, side)), jnp.zeros(1), shape)
    check_is_direct(layer.forward, shape, n=1)


def test_conditioners_are_direct_elsewhere_than_on_a_cpu():
    check_is_direct(conv_conditioner(jr.key(0), 1, 2, width=4), (1, 8, 8), n=3)


def check_is_direct(function, shape, n):
    """Whether it is `n` convolutions there, and none in two dimensions on a CPU."""
    traced = jax.jit(lambda x: function(x)).trace(jnp.ones(shape))

    def count(platform):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        # Both spatial dimensions have a window.
        return sum("[b, 0, 1, f]" in line or "[b, f, 0, 1]" in line for line in text.splitlines())

    assert [count(platform) for platform in (*PLATFORMS, "cpu")] == [n, n, 0]


@pytest.mark.parametrize("make", [Conv2d, CircularConv2d])
def test_both_ways_have_the_same_gradients(make):
    """Of a program for every platform all branches are traced: none may spoil the other's."""
    kernel, x = jr.normal(jr.key(0), (1, 1, 5, 5)), jr.normal(jr.key(1), (1, 8, 8))

    def loss(kernel, x, method):
        layer = make(kernel, jnp.zeros(1), (1, 8, 8), method=method)
        return jnp.sum(jnp.tanh(jax.grad(lambda x: jnp.sum(jnp.sin(layer.forward(x))))(x)))

    found, expected = (
        jax.jit(jax.grad(loss), static_argnums=2)(kernel, x, method)
        for method in ("auto", "direct")
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)

"""A flow fitted by maximum likelihood, stopped on validation data."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
import pytest
from flowjax.distributions import Normal

from flowebm.training.driver import Callbacks
from flowebm.training.flow import fit_flow


@pytest.fixture(scope="module")
def stopped():
    """A normal of fixed width on its way from 0 to the data at 3, past the validation at 1."""
    flow = Normal(jnp.zeros(1), 1.0)
    flow = eqx.tree_at(
        lambda f: f.bijection.scale, flow, paramax.non_trainable(flow.bijection.scale)
    )
    data = 3 + 0.1 * jr.normal(jr.key(0), (64, 1))
    validation = 1 + 0.1 * jr.normal(jr.key(1), (64, 1))
    stages = []
    fitted, outcome = fit_flow(
        jr.key(2),
        flow,
        data,
        validation,
        block_length=10,
        patience=3,
        learning_rate=0.02,
        stage="base",
        callbacks=Callbacks(on_block=[lambda stage, row, total: stages.append(stage)]),
    )
    return flow, fitted, outcome, validation, stages


def test_the_flow_is_kept_as_it_was_at_its_best(stopped):
    """Its NLL is within a standard error of the lowest there was; a further fit goes to 3."""
    _, fitted, outcome, validation, stages = stopped
    assert outcome.stop_reason == "validation NLL no longer falls"
    nll = [row["nll"] for row in outcome.history]
    assert nll[-1] > min(nll) + 0.05  # so that the last would not pass for the best
    kept = -fitted.log_prob(validation)
    assert float(kept.mean()) <= min(nll) + float(kept.std()) / np.sqrt(64)
    assert set(stages) == {"base"}
    best = min(outcome.history, key=lambda row: row["nll"])
    assert outcome.history[-1]["iteration"] == best["iteration"] + 30


def test_frozen_parts_stay(stopped):
    flow, fitted, *_ = stopped
    assert float(fitted.scale[0]) == float(flow.scale[0])
    assert float(fitted.loc[0]) > 0.5


def test_overfitting_a_part_of_a_larger_whole_is_no_divergence(stopped):
    """The validation NLL rises by 2 nats a coordinate, which is divergence only if that of the
    training points rises too; for that it has to be the whole's."""
    flow, *_ = stopped
    flow = eqx.tree_at(lambda f: f.bijection.loc, flow, jnp.ones(1))
    data, validation = jnp.full((64, 1), 3.0), jnp.ones((64, 1))
    nlls = []
    for log_det in (None, jnp.linspace(-60, -40, 64)):
        _, outcome = fit_flow(
            jr.key(2),
            flow,
            data,
            validation,
            log_det=log_det,
            validation_log_det=log_det,
            # Too few blocks to call it overfitting, which would end the run as well.
            block_length=50,
            patience=30,
            max_steps=200,
            learning_rate=0.05,
        )
        assert outcome.history[-1]["nll"] > outcome.history[0]["nll"] + 1.5
        assert outcome.history[-1]["iteration"] == 200
        nlls.append([row["train_nll"] for row in outcome.history[1:]])
    np.testing.assert_allclose(nlls[1], np.add(nlls[0], 50.0), atol=1e-3)


def test_the_training_nll_falls_while_the_validation_nll_rises(stopped):
    train = [row["train_nll"] for row in stopped[2].history[1:]]
    assert train == sorted(train, reverse=True)

"""Weights of rows: draws and averages are those of the weighted distribution."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from flowjax.distributions import Normal

from flowebm.training.driver import minibatch
from flowebm.training.objective import ObjectiveTrainer
from flowebm.training.row_weights import RowWeights, rows_in_proportion

WEIGHTS = np.array([0.5, 3.0, 0.01, 1.0, 7.0, 2.0, 0.0, 1.0])
SHARES = WEIGHTS / WEIGHTS.sum()


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_the_alias_table_has_exactly_the_weights(scale):
    weights = RowWeights.of(WEIGHTS * scale, [1.0])
    assert weights is not None
    keep, alias = np.asarray(weights.keep, np.float64), np.asarray(weights.alias)
    probability = keep.copy()
    np.add.at(probability, alias, 1 - keep)
    np.testing.assert_allclose(probability / len(keep), SHARES, atol=1e-7)


def test_minibatches_take_rows_in_proportion_to_their_weights():
    weights = RowWeights.of(WEIGHTS, [1.0])
    n = 80_000
    draw = jax.vmap(lambda i: minibatch(jr.key(0), len(WEIGHTS), 100, i, weights))
    rows = np.asarray(draw(jnp.arange(n // 100))).ravel()
    found = np.bincount(rows, minlength=len(WEIGHTS)) / n
    # Draws within an epoch are negatively correlated, so binomial errors are upper bounds: five
    # of them, for eight rows, are exceeded with probability under 1e-5.
    assert np.all(np.abs(found - SHARES) <= 5 * np.sqrt(SHARES * (1 - SHARES) / n))
    assert found[6] == 0


def test_the_mean_is_that_of_the_weighted_distribution():
    weights, values = RowWeights.of(WEIGHTS, [1.0]), jnp.arange(8.0) ** 2
    assert float(weights.mean(values)) == pytest.approx(float(SHARES @ values), rel=1e-6)


def test_even_weights_change_no_minibatch():
    weights = RowWeights.of(np.full(10, 3.0), [1.0])
    np.testing.assert_array_equal(
        minibatch(jr.key(0), 10, 4, 5, weights), minibatch(jr.key(0), 10, 4, 5)
    )


def test_rows_in_proportion_are_the_weights_rounded_up_or_down():
    count = np.bincount(rows_in_proportion(WEIGHTS), minlength=len(WEIGHTS))
    assert count.sum() == len(WEIGHTS)
    assert np.all(np.abs(count - len(WEIGHTS) * SHARES) < 1)


def trainer(validation, weights):
    return ObjectiveTrainer(
        model=Normal(jnp.zeros(1), 1.0),
        data=jnp.zeros((1, 1)),
        validation=validation,
        validation_log_det=jnp.zeros(len(validation)),
        objective=lambda *_: jnp.zeros(()),
        optimizer=optax.sgd(1.0),
        weights=RowWeights.of([1.0], weights),
    )


def test_a_validation_row_of_weight_k_counts_as_k_rows():
    points, counts = jnp.array([[0.0], [1.0], [3.0]]), np.array([2, 5, 1])
    evaluated = []
    for t in (trainer(points, counts), trainer(points.repeat(counts, axis=0), np.ones(8))):
        evaluated.append(t.evaluate(jr.key(0), t.init(jr.key(0)))[0])
    weighted, repeated = evaluated
    exact = 0.5 * np.log(2 * np.pi) + (5 * 0.5 + 1 * 4.5) / 8
    assert float(weighted["nll"]) == pytest.approx(exact, abs=1e-6)
    assert float(repeated["nll"]) == pytest.approx(exact, abs=1e-6)
    # Three points with weights know less than eight points.
    nll = 0.5 * np.log(2 * np.pi) + np.array([0.0, 0.5, 4.5])
    stderr = np.sqrt(np.sum((counts / 8 * (nll - exact)) ** 2))
    assert float(weighted["nll_stderr"]) == pytest.approx(stderr, abs=1e-6)
    assert stderr > float(repeated["nll_stderr"])


def test_weights_of_one_part_alone_are_refused():
    with pytest.raises(ValueError, match="for training and validation rows, or for neither"):
        RowWeights.of([1.0, 2.0], None)
    assert RowWeights.of(None, None) is None


@pytest.mark.parametrize("weights", [[1.0, -1.0], [1.0, np.nan], [0.0, 0.0]])
def test_what_is_no_weight_is_refused(weights):
    with pytest.raises(ValueError, match="weights of the validation rows must be finite"):
        RowWeights.of([1.0], weights)

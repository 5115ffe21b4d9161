"""The benchmark of intervals: what it judges them by, and what its page shows."""

import math
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import calibration
import calibration_truth


class Bowl(eqx.Module):
    """The energy of a normal of some width about a point, without its normaliser."""

    center: jax.Array
    width: float

    def energy(self, x):
        return 0.5 * jnp.sum((x - self.center) ** 2) / self.width**2


def test_log_z_is_that_of_a_normal():
    value, error = calibration_truth.log_partition(Bowl(jnp.array([0.5, -1.0]), 0.1))
    assert value == pytest.approx(math.log(2 * math.pi * 0.1**2), abs=1e-8)
    assert error < 1e-4


def test_a_model_that_reaches_beyond_the_grid_is_refused():
    with pytest.raises(ValueError, match="of its mass at the border"):
        calibration_truth.log_partition(Bowl(jnp.zeros(2), 4.0))


@pytest.mark.parametrize(
    ("name", "mean", "second"),
    [
        # Of the mixture: the weights .5, .25, .15, .1 at (±4, ±4), standard deviation 0.5.
        ("mixture", (1.2, 2.0), 32.5),
        # Of the rings: radii 1 and 3, weights .7 and .3, standard deviation 0.2.
        ("rings", (0.0, 0.0), 0.7 * 1 + 0.3 * 9 + 2 * 0.04),
        # Of the funnel: 9, and the mean of exp(v), v of variance 9.
        ("funnel", (0.0, 0.0), 9 + math.exp(4.5)),
    ],
)
def test_expectations_under_the_truth(name, mean, second):
    quadrature = calibration_truth.quadrature(name)
    assert quadrature.total == pytest.approx(1.0, abs=1e-6)
    x = quadrature.points
    np.testing.assert_allclose(quadrature.weights @ x, mean, atol=1e-6)
    value, error = quadrature.mean((x**2).sum(axis=1))
    assert value == pytest.approx(second, rel=1e-4)
    assert error < 1e-6 * second


def fit(estimate, warnings=()):
    intervals = {"nll_evaluate": (estimate, 1.0, 0.0)}
    return {"key": 0, "intervals": intervals, "warnings": list(warnings), "quadrature_error": 1e-9}


def test_the_table_counts_the_intervals_with_the_truth():
    parts = {"0-1": {"fits": [fit(0.5), fit(-1.9)]}, "2-3": {"fits": [fit(2.0), fit(1.0)]}}
    table = calibration.table({"rings": {"joint": parts}})
    assert table.splitlines()[2].startswith(
        "| NLL, evaluate | 3/4 (75.0%) | 3/4 (75.0%) | rings: 3/4 (75.0%) | 1.49 | 1.0000 |"
    )
    assert "4 fits." in table

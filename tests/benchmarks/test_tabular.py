"""The benchmark of tables: its rows, its peers' densities, and its table."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import trapezoid

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import tabular


def test_folds_leave_every_row_out_once_in_units_of_the_others():
    parts = [tabular.folds("wine", fold) for fold in range(3)]
    assert [len(left_out) for _, left_out in parts] == [60, 59, 59]
    for train, left_out in parts:
        assert len(train) + len(left_out) == 178
        np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(train.std(axis=0), 1, atol=1e-12)
    # The same rows in the units of one fold and of another.
    first, second = (np.sort(np.concatenate(part)[:, 3]) for part in parts[:2])
    assert np.corrcoef(first, second)[0, 1] == pytest.approx(1.0)


def test_digits_are_given_a_density():
    train, left_out = tabular.folds("digits", 0)
    assert train.shape == (1198, 64)
    assert left_out.shape == (599, 64)
    assert len(np.unique(train)) == train.size


@pytest.mark.parametrize("method", ["KernelDensity", "LedoitWolf"])
def test_densities_are_normalised(method):
    rows = np.random.default_rng(0).normal(size=(40, 2)) * [1.0, 0.3]
    log_density, _ = tabular.METHODS[method](rows, 0)
    axis = np.linspace(-8, 8, 401)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    density = np.exp(log_density(grid)).reshape(401, 401)
    assert trapezoid(trapezoid(density, axis), axis) == pytest.approx(1.0, abs=1e-3)


def test_the_table_marks_the_lowest_mean():
    cell = {"rows": 100, "columns": 4, "nll_stderr": 0.1, "fit_seconds": 20.0}
    energy = cell | {"log_partition": 0.5, "other_log_partition": 0.48}
    results = {
        "iris": {
            "LedoitWolf": {"0": cell | {"nll": 3.0}, "1": cell | {"nll": 4.0}},
            "joint": {"1": energy | {"nll": 2.0}, "0": energy | {"nll": 3.5}},
        }
    }
    assert tabular.table(results).splitlines()[2:] == [
        "| iris | 100 × 4 | joint | 3.50, 2.00 | **2.75** | 0.10 | 20 | 0.020 |",
        "| iris | 100 × 4 | LedoitWolf | 3.00, 4.00 | 3.50 | 0.10 | 20 | – |",
    ]

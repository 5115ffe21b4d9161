"""The rule that integrates fitted densities, on densities that are known."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import small_fits


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_integral_of_a_density_is_its_mass(dimension):
    normal = multivariate_normal(np.full(dimension, 0.5), np.diag([1.0, 0.3, 2.0][:dimension]))
    center, scale = np.zeros(dimension), np.ones(dimension)
    mass = lambda x: normal.logpdf(x) + np.log(0.9)  # noqa: E731
    found, error = small_fits.log_integral(mass, center, scale)
    assert found == pytest.approx(np.log(0.9), abs=1e-4)
    assert error < 1e-3


def test_verdicts_tell_a_density_that_is_no_density():
    good = {
        "log_integral": 0.002,
        "quadrature_error": 0.0,
        "log_z_stderr": 0.001,
        "hidden_mass": 0.0,
    }
    assert small_fits.verdicts(good) == (True, True, True)
    assert small_fits.verdicts(good | {"log_integral": 0.02}) == (True, False, False)
    hidden = good | {"log_integral": 0.02, "hidden_mass": 0.03}
    assert small_fits.verdicts(hidden) == (True, False, True)
    assert small_fits.verdicts(good | {"log_integral": -0.04}) == (False, False, True)

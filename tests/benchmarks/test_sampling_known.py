"""The densities whose truth is known, and what counts as right."""

import math
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import sampling_known
import sampling_truths


@pytest.mark.parametrize("name", ["1%", "mirrored", "ring", "shells", "Cauchy and Gauss"])
def test_log_z_and_the_regions_mass_are_those_of_quadrature(name):
    """Planar ones, on a grid that is dense where they are: within 0.5 percent."""
    known = sampling_truths.make(name)
    reach = 400.0 if name.startswith("Cauchy") else 14.0
    t = np.linspace(-1, 1, 1601)
    side = reach * t**3 if name.startswith("Cauchy") else reach * t
    slope = np.gradient(side)
    x = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    mass = np.exp(np.asarray(jax.jit(jax.vmap(known.log_density))(x), float))
    mass = mass * np.outer(slope, slope).ravel()
    inside = np.asarray(jax.vmap(known.region)(x), float)
    assert abs(math.log(mass.sum()) - known.log_z) < 5e-3
    assert abs(mass @ inside / mass.sum() - known.weight) < 5e-3


def record(**changes):
    return {
        "log_z": 0.1,
        "log_z_stderr": 0.05,
        "true_log_z": 0.0,
        "weight": 0.11,
        "weight_stderr": 0.001,
        "true_weight": 0.1,
        "warnings": [],
        "evaluations": 1000,
        "seconds": 3.0,
    } | changes


def test_three_errors_and_a_fifth_are_right():
    assert sampling_known.is_right(record())
    assert not sampling_known.is_right(record(log_z=0.16))
    assert not sampling_known.is_right(record(weight=0.13))
    assert sampling_known.is_right(record(weight=0.13, weight_stderr=0.011))
    assert sampling_known.is_right(record(true_log_z=math.nan, log_z=5.0))


def test_the_table_counts_silent_misses():
    results = {"ring": {"0": record(), "1": record(log_z=1.0)}}
    results |= {"shells": {"0": record(log_z=1.0, warnings=["said"])}}
    shown = sampling_known.table(results)
    assert "1 of 3 runs are right; 1 are silent misses." in shown

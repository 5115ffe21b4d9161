"""Dequantisation moves each whole number uniformly within its unit."""

import numpy as np
import pytest
from scipy.stats import kstest

from flowebm.data import dequantise

X = np.random.default_rng(0).integers(0, 17, (100, 64)).astype(float)


def test_the_floor_is_the_data():
    np.testing.assert_array_equal(np.floor(dequantise(1, X)), X)


def test_the_noise_is_uniform():
    """Kolmogorov-Smirnov; false-alarm rate 1e-5."""
    assert kstest((dequantise(1, X) - X).ravel(), "uniform").pvalue > 1e-5


def test_values_between_whole_numbers_are_refused():
    with pytest.raises(ValueError, match="whole numbers"):
        dequantise(0, X + 0.5)

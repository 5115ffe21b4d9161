"""Weights at the door."""

import numpy as np
import pytest

from flowebm.data import Standardise, check_weights, effective_rows


def test_rows_of_even_weight_are_worth_their_number():
    assert effective_rows(np.full(7, 1e-300)) == pytest.approx(7)
    assert effective_rows(np.array([1.0, 1.0, 0.0])) == pytest.approx(2)
    assert effective_rows(np.array([3.0, 1.0])) == pytest.approx(16 / 10)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (np.ones(4), r"shape \(4,\), the table 3 rows"),
        (np.ones((3, 1)), "give one number a row"),
        ([1.0, -2.0, np.nan], "weight of row 2 is -2, the first of 2"),
        ([0, 0, 0], "All weights are zero"),
        (["a", "b", "c"], "not numbers"),
    ],
)
def test_what_is_no_weight_is_refused(weights, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_weights(weights, 3)


def test_a_weighted_standardisation_is_that_of_repeated_points():
    generator = np.random.default_rng(0)
    # A heavy tail in the second column, to be bent.
    x = np.stack([generator.normal(3, 2, 400), generator.standard_t(1.5, 400)], axis=1)
    counts = generator.integers(1, 5, 400)
    weighted = Standardise.fit(x, weights=counts, arcsinh_tails=True)
    repeated = Standardise.fit(x.repeat(counts, axis=0), arcsinh_tails=True)
    np.testing.assert_allclose(weighted.transform_rows(x), repeated.transform_rows(x), rtol=1e-4)
    assert np.ptp(weighted.transform_rows(x)[:, 1]) < 30
    rows = weighted.transform_rows(x)
    np.testing.assert_allclose(np.average(rows, axis=0, weights=counts), 0, atol=1e-6)

"""A split deals every row to exactly one part, the same way for the same key."""

import jax
import numpy as np
import pytest

from flowebm.data import split

X = np.arange(200.0).reshape(100, 2)


@pytest.mark.parametrize(
    ("fractions", "sizes"),
    [((0.1, 0.2), (70, 10, 20)), ((0.25, 0), (75, 25, 0)), ((0, 0), (100, 0, 0))],
)
def test_every_row_is_in_exactly_one_part(fractions, sizes):
    parts = split(0, X, *fractions)
    assert tuple(map(len, parts)) == sizes
    rows = np.concatenate(parts)
    np.testing.assert_array_equal(rows[np.argsort(rows[:, 0])], X)


def test_the_same_key_gives_the_same_split_and_another_gives_another():
    by_seed, by_key = split(3, X, 0.1, 0.1), split(jax.random.key(3), X, 0.1, 0.1)
    for a, b in zip(by_seed, by_key, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(by_seed.train, split(4, X, 0.1, 0.1).train)


def test_parts_are_not_blocks_of_the_file():
    """Each part's mean row is within 5 standard errors; false-alarm rate below 1e-5."""
    rows = np.arange(10_000.0)
    validation = split(0, rows, 0.1).validation
    assert abs(validation.mean() - rows.mean()) < 5 * rows.std() / np.sqrt(1000)


def test_images_keep_their_shape():
    assert split(0, np.zeros((10, 3, 4, 4)), 0.2, 0.2).test.shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ((0.001, 0.1), "empty validation part"),
        ((0.1, 0.001), "empty test part"),
        ((0.5, 0.5), "leave no row of 100 to train on"),
        ((-0.1, 0.0), "validation_fraction must be"),
        ((0.1, 1.0), "test_fraction must be"),
        ((float("nan"), 0.1), "validation_fraction must be"),
    ],
)
def test_a_part_that_would_be_empty_is_refused(fractions, message):
    with pytest.raises(ValueError, match=message):
        split(0, X, *fractions)

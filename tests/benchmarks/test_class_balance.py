"""The benchmark of classes: its images, its rows and how draws are counted."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import class_balance


def test_images_are_framed_and_halved():
    pixels = np.zeros((1, 28, 28))
    pixels[0, 0, 0] = 255
    halved = class_balance.halved(pixels)
    assert halved.shape == (1, 16, 16)
    assert halved[0, 1, 1] == 0.25
    assert halved.sum() == 0.25


def test_both_parts_have_the_shares_exactly():
    labels = np.repeat([0, 1, 7, 8], 1_000)
    train, validation = class_balance.rows_at_shares(labels, np.random.default_rng(0))
    assert not set(train) & set(validation)
    for part, size in ((train, class_balance.N_TRAIN), (validation, class_balance.N_VALIDATION)):
        shares = {digit: np.mean(labels[part] == digit) for digit in class_balance.SHARES}
        assert len(part) == size
        assert shares == pytest.approx(class_balance.SHARES)


def test_draws_count_by_their_weights():
    labels = np.array([0, 0, 1, 7])
    weights = np.array([0.3, 0.2, 0.4, 0.1])
    of_ten = np.array([0, 3, 1, 7])
    counted = class_balance.counted((lambda x: labels, lambda x: of_ten), None, weights)
    assert counted["shares"] == pytest.approx({0: 0.5, 1: 0.4, 7: 0.1})
    assert counted["worst_share_error"] == pytest.approx(0.1)
    assert counted["like_another_digit"] == pytest.approx(0.2)
    # Of class 0: 0.5 off at every draw.
    assert counted["stderr"] == pytest.approx(0.5 * np.sqrt((weights**2).sum()), rel=0.1)

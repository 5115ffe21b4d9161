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


def test_draws_count_as_often_as_they_were_picked():
    labels = np.array([0, 0, 1, 7])
    counts = np.array([3, 2, 4, 1])
    of_ten = np.array([0, 3, 1, 7])
    classifiers = (lambda x: labels, lambda x: of_ten)
    counted = class_balance.counted(classifiers, None, counts, counts / 10)
    assert counted["shares"] == pytest.approx({0: 0.5, 1: 0.4, 7: 0.1})
    assert counted["worst_share_error"] == pytest.approx(0.1)
    assert counted["like_another_digit"] == pytest.approx(0.2)
    # Of class 1: 0.6 off at one draw, 0.4 at the others.
    of_one = 0.36 * 0.4 * 0.4 + 0.16 * (0.3 * 0.3 + 0.2 * 0.2 + 0.1 * 0.1)
    assert counted["stderr"] == pytest.approx(np.sqrt(of_one))


def test_the_standard_error_of_a_share_is_its_spread():
    # A class at a share of 0.6 under weights that prefer it. The spread of 2,000 shares is known to
    # 1.6%: 8% is five standard deviations, a false alarm in a million.
    rng = np.random.default_rng(0)
    n_draws, n_picked = 2_000, 200
    shares, errors = [], []
    for _ in range(2_000):
        is_zero = rng.random(n_draws) < 0.5
        weights = np.exp(rng.normal(size=n_draws)) * np.where(is_zero, 1.5, 1.0)
        weights /= weights.sum()
        places = (np.arange(n_picked) + rng.random()) / n_picked
        picked = np.searchsorted(weights.cumsum(), places).clip(max=n_draws - 1)
        rows, counts = np.unique(picked, return_counts=True)
        labels = np.where(is_zero, 0, 1)[rows]
        classifiers = (lambda x, labels=labels: labels,) * 2
        counted = class_balance.counted(classifiers, None, counts, weights[rows])
        shares.append(counted["shares"][0])
        errors.append(counted["stderr"])
    assert np.mean(shares) == pytest.approx(0.6, abs=5 * np.std(shares) / 2_000**0.5)
    assert np.std(shares) == pytest.approx(np.mean(errors), rel=0.08)

"""Few directions that are not Gaussian, among many that are."""

import numpy as np
import pytest

from flowebm.models.expectation_maximisation import Whitening
from flowebm.training.stages.pursuit import non_gaussian_directions, pursue_mixture

D = 40


def rotation(seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(D, D)))[0]


def four_modes(seed, n=6000):
    """Modes at the corners of a square in the first two coordinates, of unequal weights."""
    rng = np.random.default_rng(seed)
    corners = 4.0 * np.array([[1, 1], [-1, 1], [1, -1], [-1, -1]])
    x = rng.normal(size=(n, D))
    x[:, :2] += corners[rng.choice(4, n, p=[0.5, 0.25, 0.15, 0.1])]
    return x


@pytest.mark.parametrize("turn", [np.eye(D), rotation(0)], ids=["columns", "turned"])
def test_modes_are_told_apart_in_their_plane(turn):
    points, held_out, fresh = (four_modes(seed) @ turn for seed in (0, 1, 2))
    fitted = pursue_mixture(0, points, held_out)
    assert fitted.n_components == 4
    weights, means, _ = fitted.parameters()
    np.testing.assert_allclose(np.sort(weights), [0.1, 0.15, 0.25, 0.5], atol=0.03)
    # 6,000 rows leave errors of 0.04 in the mean of the rarest mode's 600.
    plane = np.sort(np.abs(means @ turn.T)[:, :2].ravel())
    np.testing.assert_allclose(plane, 4.0, atol=0.25)
    corners = 4.0 * np.array([[1, 1], [-1, 1], [1, -1], [-1, -1]])
    centred = (fresh @ turn.T)[:, None, :2] - corners
    rest = -0.5 * ((fresh @ turn.T)[:, 2:] ** 2).sum(axis=1) - 0.5 * D * np.log(2 * np.pi)
    joint = np.log([0.5, 0.25, 0.15, 0.1]) - 0.5 * (centred**2).sum(axis=2)
    truth = rest + np.logaddexp.reduce(joint, axis=1)
    # A covariance of 40 columns costs 820 / 12,000 nats; four of them would cost four times that.
    assert 0 < (truth - fitted.log_prob_rows(fresh)).mean() < 0.15


def test_what_is_gaussian_or_is_not_in_most_directions_is_left_to_others():
    rng = np.random.default_rng(0)
    assert pursue_mixture(0, rng.normal(size=(3000, D)), rng.normal(size=(1000, D))) is None
    skewed = rng.exponential(size=(4000, D))
    assert pursue_mixture(0, skewed[:3000], skewed[3000:]) is None


def test_directions_are_perpendicular_and_span_what_is_not_gaussian():
    points, held_out = four_modes(3), four_modes(4)
    whiten = Whitening.of(points, np.full(len(points), 1 / len(points)))
    found = non_gaussian_directions(0, whiten(points), whiten(held_out), whiten.inverse)
    np.testing.assert_allclose(found @ found.T, np.eye(2), atol=1e-9)
    plane = np.linalg.qr(whiten.matrix[:, :2])[0]
    assert ((found @ plane) ** 2).sum() > 1.9

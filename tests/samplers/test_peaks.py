"""Climbs, and which peaks are one mode."""

import numpy as np

from flowebm.samplers.peaks import Peak, climb, joined, lookalikes, peak_at, spread_out


def quadratic(x):
    precision = np.array([[4.0, 1.0], [1.0, 2.0]])
    centred = x - np.array([1.0, -2.0])
    return -0.5 * centred @ precision @ centred, -precision @ centred


def peak(*position):
    return Peak(np.array(position), 0.0, 0.01 * np.eye(len(position)), 0.0)


def test_a_climb_ends_at_the_peak_whose_curvature_is_known():
    top = climb(np.array([8.0, 7.0]), np.ones(2) * 10, quadratic)
    np.testing.assert_allclose(top, [1, -2], atol=1e-4)
    found = peak_at(top, np.ones(2) * 10, quadratic)
    assert found is not None
    np.testing.assert_allclose(np.linalg.inv(found.covariance), [[4, 1], [1, 2]], rtol=1e-4)
    np.testing.assert_allclose(found.log_mass, np.log(2 * np.pi) - 0.5 * np.log(7), atol=1e-4)


def test_peaks_that_a_ridge_joins_are_of_one_mode():
    """Around a ring every neighbour is joined; a normal apart is not."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    peaks = [peak(np.cos(a), np.sin(a)) for a in angles] + [peak(9.0, 0.0)]

    def evaluate(x):
        ring = -0.5 * ((np.linalg.norm(x, axis=1) - 1) / 0.02) ** 2
        return np.logaddexp(ring, -0.5 * np.sum((x - [9.0, 0.0]) ** 2, axis=1) / 0.01)

    modes = joined(peaks, evaluate)
    assert len(set(modes[:-1])) == 1
    assert modes[-1] != modes[0]


def test_lookalikes_have_exchanges_reflections_and_diagonals():
    rng = np.random.default_rng(0)
    images = lookalikes(rng, [np.array([1.0, 2.0, 3.0, 4.0])], np.zeros(4), np.ones(4))

    def has(*point):
        return np.any(np.all(np.abs(images - np.array(point)) < 1e-6, axis=1))

    assert has(3, 4, 1, 2)
    assert has(2, 1, 3, 4)
    assert has(-1, -2, -3, -4)
    assert has(1, -2, 3, 4)
    assert has(1, 1, 1, 1)
    assert has(-2, 2, 2, -2)


def test_spread_out_points_are_far_apart():
    points = np.random.default_rng(0).normal(size=(500, 2))
    points[7] = 40.0, 0.0
    rows = spread_out(np.random.default_rng(1), points, 5)
    assert 7 in rows
    assert len(set(rows)) == 5

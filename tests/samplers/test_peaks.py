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


def test_the_longest_direction_of_correlated_coordinates_keeps_its_length():
    """With the coordinates' own deviations as scales it is longer than any of them."""
    covariance = np.full((4, 4), 0.95) + 0.05 * np.eye(4)
    precision = np.linalg.inv(covariance)
    found = peak_at(np.zeros(4), np.ones(4), lambda x: (-0.5 * x @ precision @ x, -precision @ x))
    assert found is not None
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-4)


def test_a_spike_on_a_wide_mode_has_its_own_curvature():
    def log_density(x):
        log_heights, precisions = np.array([9.0, 0.0]), np.array([1e6, 1.0])
        parts = log_heights - 0.5 * precisions * (x @ x)
        shares = np.exp(parts - np.logaddexp(*parts))
        return float(np.logaddexp(*parts)), -(shares @ precisions) * x

    found = peak_at(np.zeros(2), np.full(2, 3.0), log_density)
    assert found is not None
    np.testing.assert_allclose(found.covariance, 1e-6 * np.eye(2), rtol=0.01)


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

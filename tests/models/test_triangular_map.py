"""Triangular maps: exact inverses, and coordinates in which bent densities are normal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.models.triangular_map import TriangularMap, fit_triangular_map


def banana(rng, n):
    first = rng.normal(0, 10, n)
    return np.stack([10 - 0.1 * first**2 + rng.normal(0, 0.3, n), first], axis=1)


def funnel(rng, n, at=2):
    scale = rng.normal(0, 3, n)
    others = np.exp(scale / 2)[:, None] * rng.normal(size=(n, 4))
    return np.insert(others, at, scale, axis=1)


def rosenbrock(rng, n):
    x = [rng.normal(1, 1.5, n)]
    for _ in range(2):
        x.append(x[-1] ** 2 + rng.normal(0, 0.3, n))
    return np.stack(x, axis=1)


@pytest.mark.parametrize("points", [banana, funnel, rosenbrock])
def test_both_ways_and_the_jacobian(points):
    """Against a dense Jacobian, in double precision; with log-scales at their limits too."""
    rng = np.random.default_rng(0)
    fitted, _ = fit_triangular_map(rng, points(rng, 1000))
    with jax.enable_x64(True):
        exact = jax.tree.map(
            lambda leaf: jnp.asarray(np.asarray(leaf, float)) if leaf.dtype.kind == "f" else leaf,
            fitted,
        )
        for u in rng.normal(0, 3, (5, len(exact.location))):
            x, log_det = exact.transform_and_log_det(jnp.asarray(u))
            jacobian = jax.jacfwd(exact.transform)(jnp.asarray(u))
            np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=1e-9)
            back, back_log_det = exact.inverse_and_log_det(x)
            np.testing.assert_allclose(back, u, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(back_log_det, -log_det, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(exact.transform_on_host(u[None])[0], x, rtol=1e-9)
            on_host, host_log_det = exact.inverse_on_host(np.asarray(x)[None])
            np.testing.assert_allclose(on_host[0], u, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(host_log_det[0], -log_det, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("points", "entropy"),
    [
        (banana, 1 + np.log(2 * np.pi * 10 * 0.3)),
        (funnel, 2.5 * (1 + np.log(2 * np.pi)) + np.log(3)),
        (rosenbrock, 1.5 * (1 + np.log(2 * np.pi)) + np.log(1.5 * 0.3 * 0.3)),
    ],
)
def test_what_has_normal_conditionals_is_normal_in_its_coordinates(points, entropy):
    """The mean log-density of fresh points is minus the entropy within 0.03 nats for what was
    fitted, and four standard errors: a false-alarm rate of 1e-4. The given order of the banana
    and of the funnel is of no use: the one that is has to be found."""
    rng = np.random.default_rng(1)
    fitted, gain = fit_triangular_map(rng, points(rng, 4000))
    log_prob = fitted.normal_log_prob(points(rng, 20_000))
    assert abs(log_prob.mean() + entropy) < 0.03 + 4 * log_prob.std() / 20_000**0.5
    assert gain > 1


def test_a_normal_gains_nothing():
    rng = np.random.default_rng(2)
    _, gain = fit_triangular_map(rng, rng.normal(size=(4000, 6)) @ rng.normal(size=(6, 6)))
    assert gain < 0.02


def test_points_that_few_terms_describe_are_described_beyond_them():
    """Fitted where |x| < 1.5, conditionals have their scale as far out as 2.5: with all terms of
    degree two they do not."""
    rng = np.random.default_rng(3)
    points = rosenbrock(rng, 40_000)
    first = np.abs(points[:, 0])
    fitted, _ = fit_triangular_map(rng, points[first < 1.5][:4000])
    u, _ = fitted.inverse_on_host(points[(first > 2) & (first < 2.5)])
    assert np.all(u[:, 1:].std(axis=0) < 1.3)
    assert np.all(np.abs(u[:, 1:].mean(axis=0)) < 0.6)


def test_copies_of_a_few_points_are_not_taken_for_many():
    """A map of copies must not gain on points left out by having seen them."""
    rng = np.random.default_rng(4)
    few = rng.normal(size=(40, 5))
    _, gain = fit_triangular_map(rng, few[rng.integers(0, 40, 4000)])
    assert gain < 0.3


def test_it_is_a_bijection_of_flowjax():
    from flowjax.distributions import StandardNormal, Transformed

    rng = np.random.default_rng(5)
    fitted, _ = fit_triangular_map(rng, banana(rng, 2000))
    assert isinstance(fitted, TriangularMap)
    density = Transformed(StandardNormal((2,)), fitted)
    x = density.sample(jax.random.key(0), (100,))
    np.testing.assert_allclose(density.log_prob(x), fitted.normal_log_prob(x), atol=2e-2)

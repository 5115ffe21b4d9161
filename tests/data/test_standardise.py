"""Standardisation is a bijection whose determinant is part of the density."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest
from flowjax.bijections import Invert
from flowjax.distributions import StandardNormal, Transformed
from scipy.stats import multivariate_normal

from flowebm.data import Standardise

MEANS, SDS = np.array([3.0, -200.0, 0.01]), np.array([0.5, 40.0, 1e-3])
X = MEANS + SDS * np.random.default_rng(0).standard_normal((500, 3))


@eqx.filter_jit
def observe(bijection, x):
    """A point and its log-determinant there and back, and the Jacobian."""
    z, log_det = bijection.transform_and_log_det(x)
    back, inverse_log_det = bijection.inverse_and_log_det(z)
    return z, log_det, back, inverse_log_det, jax.jacobian(bijection.transform)(x)


@eqx.filter_jit
def gradients(bijection, x, z):
    return (
        jax.jacobian(bijection.transform)(x),
        jax.jacobian(bijection.inverse)(z),
        jax.grad(lambda x: bijection.transform_and_log_det(x)[1])(x),
    )


@eqx.filter_jit
def log_prob(density, x):
    return density.log_prob(x)


def test_fit_gives_mean_zero_and_standard_deviation_one():
    with jax.enable_x64(True):
        Z = np.asarray(jax.vmap(Standardise.fit(X).transform)(X))
    np.testing.assert_allclose(Z.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(Z.std(axis=0), 1, rtol=1e-12)


@pytest.mark.parametrize("shape", [(), (3,), (2, 2), (1, 2, 2)])
def test_log_det_is_that_of_the_jacobian_and_the_inverse_undoes(shape):
    rows = np.random.default_rng(1).gamma(2.0, size=(50, *shape))
    with jax.enable_x64(True):
        bijection = Standardise.fit(rows)
        x = jnp.asarray(rows[0])
        _, log_det, back, inverse_log_det, jacobian = observe(bijection, x)
        jacobian = np.asarray(jacobian).reshape(x.size, x.size)
        np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(inverse_log_det, -log_det)
    np.testing.assert_allclose(back, x, rtol=1e-12)


def test_a_density_of_standardised_points_becomes_one_of_the_data():
    with jax.enable_x64(True):
        bijection = Standardise(MEANS, SDS)
        density = Transformed(StandardNormal((3,)), Invert(bijection))
        found = log_prob(density, X[:5])
    expected = multivariate_normal(MEANS, np.diag(SDS**2)).logpdf(X[:5])
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_rows_on_the_host_agree_with_the_bijection():
    bijection = Standardise.fit(X)
    Z = bijection.transform_rows(X)
    assert Z.dtype == np.float64
    np.testing.assert_allclose(Z, jax.vmap(bijection.transform)(X), atol=1e-4)
    np.testing.assert_allclose(bijection.inverse_rows(Z), X, rtol=1e-13)


def test_training_leaves_it_alone():
    params = eqx.filter(
        Standardise.fit(X),
        eqx.is_inexact_array,
        is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable),
    )
    assert jax.tree.leaves(params) == []


@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_a_column_that_hardly_varies_is_refused(offset):
    narrow = X.copy()
    narrow[:, 1] = offset + (np.arange(500) % 2) * (offset > 0)
    with pytest.raises(ValueError, match="Column 2 has standard deviation"):
        Standardise.fit(narrow)


@pytest.mark.parametrize(("mean", "sd"), [([0.0], [0.0]), ([0.0, 1.0], [1.0])])
def test_impossible_parameters_are_refused(mean, sd):
    with pytest.raises(ValueError, match="sd"):
        Standardise(np.array(mean), np.array(sd))


HEAVY = np.random.default_rng(2).standard_t(1.5, size=(4000, 2)) * [1.0, 50.0] + [0.0, 1e3]


def test_arcsinh_tails_are_a_bijection_with_the_jacobian_s_log_det():
    mixed = np.column_stack([HEAVY, np.random.default_rng(3).standard_normal(4000)])
    with jax.enable_x64(True):
        bijection = Standardise.fit(mixed, arcsinh_tails=True)
        Z = bijection.transform_rows(mixed)
        np.testing.assert_allclose(Z.mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(Z.std(axis=0), 1, rtol=1e-12)
        scales = np.asarray(paramax.unwrap(bijection.arcsinh_scale))
        assert (scales[:2] > 0).all()
        assert scales[2] == 0
        # The largest and the smallest point of each column, and one in the middle.
        for row in (mixed.argmax(axis=0)[0], mixed.argmin(axis=0)[1], 7):
            x = jnp.asarray(mixed[row])
            z, log_det, back, inverse_log_det, jacobian = observe(bijection, x)
            np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=1e-11)
            np.testing.assert_allclose(inverse_log_det, -log_det, rtol=1e-11)
            np.testing.assert_allclose(back, x, rtol=1e-11)
            np.testing.assert_allclose(z, Z[row], rtol=1e-11)
    np.testing.assert_allclose(bijection.inverse_rows(Z), mixed, rtol=1e-10)


def test_drawing_in_a_heavy_tail_raises_the_gaussian_likelihood():
    def gaussian_likelihood(bijection):
        with jax.enable_x64(True):
            density = Transformed(StandardNormal((2,)), Invert(bijection))
            return float(log_prob(density, HEAVY).mean())

    plain, drawn_in = Standardise.fit(HEAVY), Standardise.fit(HEAVY, arcsinh_tails=True)
    # WORTH_TRANSFORMING, for each of the two columns.
    assert gaussian_likelihood(drawn_in) > gaussian_likelihood(plain) + 2 * 0.05
    largest = np.abs(plain.transform_rows(HEAVY)).max()
    assert np.abs(drawn_in.transform_rows(HEAVY)).max() < largest


@pytest.mark.parametrize(
    "rows",
    [
        np.random.default_rng(4).standard_normal((4000, 1)),
        np.random.default_rng(4).laplace(size=(4000, 1)),
        np.random.default_rng(4).uniform(size=(4000, 1)),
        np.concatenate([np.full((2000, 1), -1.0), np.full((2000, 1), 1.0)])
        + 0.1 * np.random.default_rng(4).standard_normal((4000, 1)),
    ],
)
def test_columns_without_heavy_tails_stay_affine(rows):
    assert not np.any(paramax.unwrap(Standardise.fit(rows, arcsinh_tails=True).arcsinh_scale))


def test_gradients_are_finite_with_and_without_the_arcsinh():
    bijection = Standardise(np.zeros(2), np.ones(2), arcsinh_scale=np.array([0.0, 4.0]))
    for x in (jnp.zeros(2), jnp.array([1e3, -1e3])):
        for gradient in gradients(bijection, x, x / 1e3):
            assert jnp.isfinite(gradient).all()


def test_a_negative_scale_is_refused():
    with pytest.raises(ValueError, match="arcsinh_scale"):
        Standardise(np.zeros(1), np.ones(1), arcsinh_scale=np.array([-1.0]))

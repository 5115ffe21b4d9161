"""Spectral normalisation: the Lipschitz constant is one at most."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.models.spectral import SpectralNormalization


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def weight_with(singular_values, shape=(6, 4)):
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in shape)
    return jnp.asarray(left[:, : len(singular_values)] * singular_values @ right.T)


def test_a_large_weight_gets_norm_one_and_keeps_its_direction():
    weight = weight_with(np.array([5.0, 1.0, 0.5, 0.1]))
    np.testing.assert_allclose(SpectralNormalization(weight).unwrap(), weight / 5, rtol=1e-12)


def test_a_small_weight_is_left_alone():
    weight = weight_with(np.array([0.9, 0.5, 0.2, 0.1]))
    np.testing.assert_array_equal(SpectralNormalization(weight).unwrap(), weight)


def test_a_convolution_kernel_is_a_matrix_by_its_outputs():
    weight = weight_with(np.array([5.0, 1.0, 0.5, 0.1]), (6, 4)).reshape(6, 1, 2, 2)
    np.testing.assert_allclose(SpectralNormalization(weight).unwrap(), weight / 5, rtol=1e-12)


@pytest.mark.parametrize("iterations", [1, 12])
def test_the_excess_has_the_bound_of_power_iteration(iterations):
    r"""$\sigma \le |c_1|^{-1/(2k-1)}$ after $k$ steps.

    $c_1$ is the cosine of start and leading vector. With $m_j = \sum_i c_i^2 \sigma_i^{2j}$ the
    squared estimate is $m_{2k} / m_{2k-1}$, which the power-mean inequality bounds below by
    $m_{2k-1}^{1/(2k-1)} \ge \sigma_1^2 c_1^{2/(2k-1)}$.
    """
    weight = 10 * jax.random.normal(jax.random.key(0), (32, 20))
    left, _, _ = np.linalg.svd(weight)
    start = np.cos(np.arange(32))
    cosine = abs(left[:, 0] @ start) / np.linalg.norm(start)
    normalised = SpectralNormalization(weight, iterations).unwrap()
    norm = np.linalg.norm(normalised, 2)
    assert 1 - 1e-12 <= norm <= cosine ** (-1 / (2 * iterations - 1)) + 1e-12


def test_the_scale_of_a_large_weight_has_no_gradient():
    weight = weight_with(np.array([5.0, 1.0, 0.5, 0.1]))
    probe = jax.random.normal(jax.random.key(1), weight.shape)
    slope = jax.grad(lambda s: jnp.sum(probe * SpectralNormalization(s * weight).unwrap()))(1.0)
    np.testing.assert_allclose(slope, 0, atol=1e-12)


def test_a_zero_weight_stays_finite_with_its_gradient():
    value, gradient = jax.value_and_grad(lambda w: SpectralNormalization(w).unwrap().sum())(
        jnp.zeros((3, 2))
    )
    np.testing.assert_array_equal(value, 0)
    np.testing.assert_array_equal(gradient, np.ones((3, 2)))

"""Stochastic Lanczos quadrature of log-determinants."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.layers import FullLinear, stochastic_log_det
from flowebm.layers.stochastic_log_det import lanczos_quadrature

N = 24

estimate = eqx.filter_jit(stochastic_log_det)


@pytest.fixture
def linear():
    return FullLinear(np.random.default_rng(0).standard_normal((N, N)), np.ones(N), (2, 3, 4))


def test_with_all_steps_the_quadrature_is_exact(linear):
    """½ vᵀ log(AᵀA) v by the eigenvalues of AᵀA."""
    probe = jnp.asarray(np.random.default_rng(1).standard_normal((2, 3, 4)))
    eigenvalues, vectors = np.linalg.eigh(linear.weight.T @ linear.weight)
    expected = 0.5 * np.sum((vectors.T @ probe.ravel()) ** 2 * np.log(eigenvalues))
    value, _ = jax.jit(lambda v: lanczos_quadrature(linear, v, N))(probe)
    np.testing.assert_allclose(value, expected, rtol=1e-9)


def test_the_estimate_covers_the_determinant(linear):
    """400 probes, all steps: |z| < 4.1 fails by chance with probability 5e-5; the standard
    error is that of Rademacher probes, sqrt(2 Σ_{i≠j} M_ij² / n) with M = ½ log AᵀA, to 20%
    (5 sigmas or more)."""
    eigenvalues, vectors = np.linalg.eigh(linear.weight.T @ linear.weight)
    matrix = 0.5 * (vectors * np.log(eigenvalues)) @ vectors.T
    error = np.sqrt(2 * (np.sum(matrix**2) - np.sum(np.diag(matrix) ** 2)) / 400)
    seen = estimate(jax.random.key(0), linear, n_probes=400)
    np.testing.assert_allclose(seen.standard_error, error, rtol=0.2)
    assert 1e-6 < abs(seen.value - linear.log_det()) / error < 4.1


def test_orthogonal_and_scaled_maps_exhaust_their_krylov_space_at_once():
    """A multiple of an orthogonal map: the first step says it all, to rounding."""
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((N, N)))
    seen = estimate(jax.random.key(0), FullLinear(-3 * q, np.zeros(N)), n_steps=4)
    np.testing.assert_allclose(seen.value, N * np.log(3), rtol=1e-12)
    np.testing.assert_allclose(seen.standard_error, 0, atol=1e-12)


def test_truncation_shows_when_steps_are_too_few(linear):
    """The indication is of the size of the bias, measured with the same probes."""
    key = jax.random.key(0)
    few, all_steps = (estimate(key, linear, n_steps=k) for k in (6, N))
    bias = abs(few.value - all_steps.value)
    assert bias > 0.1
    assert few.truncation > bias / 3


def test_too_few_probes_are_refused(linear):
    with pytest.raises(ValueError, match="at least two probes and two steps"):
        stochastic_log_det(jax.random.key(0), linear, n_probes=1)

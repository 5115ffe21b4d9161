"""The contrastive likelihood has the gradient of the likelihood, on a model whose Z is known."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowjax.distributions import Normal
from scipy.stats import chi2

from flowebm.models.tilted import EnergyModel
from flowebm.objectives.contrastive import contrastive_likelihood


class QuadraticTilt(eqx.Module):
    """U(x) = a·x + ½ Σ exp(k) x²."""

    slope: jax.Array
    log_curvature: jax.Array

    def __call__(self, x):
        return self.slope @ x + 0.5 * jnp.exp(self.log_curvature) @ x**2


def moments(model):
    """Mean and variance of each coordinate of the tilted Gaussian."""
    precision = 1 / model.base.scale**2 + jnp.exp(model.tilt.log_curvature)
    return (model.base.loc / model.base.scale**2 - model.tilt.slope) / precision, 1 / precision


def exact_nll(model, data):
    """Mean energy plus log Z = Σ ½ [log(v/s²) + m²/v - loc²/s²]: Gaussian integrals."""
    mean, variance = moments(model)
    scale, loc = model.base.scale, model.base.loc
    log_z = 0.5 * jnp.sum(jnp.log(variance / scale**2) + mean**2 / variance - (loc / scale) ** 2)
    return jnp.mean(jax.vmap(model.energy)(data)) + log_z


@pytest.fixture
def model():
    tilt = QuadraticTilt(jnp.array([0.7, -0.4]), jnp.array([0.2, -0.6]))
    return EnergyModel(tilt, Normal(jnp.array([0.5, -0.3]), jnp.array([1.3, 0.8])))


@pytest.fixture
def data():
    return 0.5 + jax.random.normal(jax.random.key(0), (7, 2))


def quadrature(model):
    """Points and weights that integrate polynomials up to degree 9 against the model."""
    mean, variance = moments(model)
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    grid = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2)
    return mean + jnp.sqrt(variance) * grid, jnp.outer(
        weights, weights
    ).ravel() / weights.sum() ** 2


@eqx.filter_jit
def exact_gradients(model, data):
    return eqx.filter_grad(lambda model: exact_nll(model, data))(model)


@eqx.filter_jit
def energies(model, points):
    return jax.vmap(model.energy)(points)


@eqx.filter_jit
def gradients(model, *arguments, **options):
    def loss(model):
        return contrastive_likelihood(model, *arguments, **options)[0]

    return eqx.filter_grad(loss)(model)


def assert_close(first, second, rtol=1e-12):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


def test_with_the_exact_expectation_it_is_the_exact_likelihood_gradient(model, data):
    """Of the tilt's parameters and of the base's alike."""
    exact = exact_gradients(model, data)
    points, weights = quadrature(model)
    assert_close(gradients(model, data, points, weights), exact)
    # Another density's expectation is the mistake to make here: the base's.
    tilted_less = eqx.tree_at(lambda m: m.tilt.log_curvature, model, jnp.full(2, -40.0))
    with pytest.raises(AssertionError):
        assert_close(gradients(model, data, *quadrature(tilted_less)), exact)


def test_with_exact_samples_the_gradient_is_right_in_expectation(model, data):
    """Hotelling's test of all four parameters of the tilt; false-alarm rate 1e-5."""
    mean, variance = moments(model)
    n = 20_000
    noise = jax.random.normal(jax.random.key(1), (n, 2))
    exact = exact_gradients(model, data).tilt

    @jax.jit
    def per_sample(shift):
        samples = mean + shift + jnp.sqrt(variance) * noise
        tilt = jax.vmap(lambda y: gradients(model, data, y[None]).tilt)(samples)
        return jnp.concatenate(
            [tilt.slope - exact.slope, tilt.log_curvature - exact.log_curvature], axis=1
        )

    def p_value(shift):
        deviations = np.asarray(per_sample(shift))
        average = deviations.mean(axis=0)
        statistic = n * average @ np.linalg.solve(np.cov(deviations.T), average)
        return chi2.sf(statistic, 4)

    assert p_value(0.0) > 1e-5
    assert p_value(0.1) < 1e-6


def test_the_value_is_the_energy_gap(model, data):
    samples = data[:3] - 1
    value, (gap, on_data) = eqx.filter_jit(contrastive_likelihood)(model, data, samples)
    np.testing.assert_allclose(on_data, energies(model, data), rtol=1e-13)
    expected = float(energies(model, data).mean() - energies(model, samples).mean())
    assert float(value) == float(gap) == pytest.approx(expected, rel=1e-12)


def test_weights_are_shares_and_equal_ones_are_none(model, data):
    samples = data[:4] - 1
    plain = gradients(model, data, samples, penalty=0.3)
    assert_close(gradients(model, data, samples, jnp.full(4, 0.25), penalty=0.3), plain)
    # A point without weight does not count, not even in the penalty.
    far = jnp.concatenate([samples, jnp.full((1, 2), 1e3)])
    weights = jnp.array([0.25, 0.25, 0.25, 0.25, 0.0])
    assert_close(gradients(model, data, far, weights, penalty=0.3), plain)


def test_the_penalty_adds_the_mean_squares_and_leaves_the_gap_alone(model, data):
    samples, penalty = data[:3] - 1, 0.3
    value, (gap, on_data) = eqx.filter_jit(contrastive_likelihood)(
        model, data, samples, penalty=penalty
    )
    squares = jnp.mean(on_data**2) + jnp.mean(energies(model, samples) ** 2)
    assert float(value - gap) == pytest.approx(float(penalty * squares), rel=1e-12)


def test_samples_and_weights_are_held_constant(model, data):
    """Chains move by the model's own parameters: a gradient through them would be another's."""
    weights = jnp.array([0.2, 0.5, 0.3])
    gradient = jax.jit(
        jax.grad(lambda arguments: contrastive_likelihood(model, data, *arguments, penalty=0.1)[0])
    )((data[:3] - 1, weights))
    for leaf in gradient:
        np.testing.assert_array_equal(leaf, jnp.zeros_like(leaf))

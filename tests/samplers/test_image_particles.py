"""Images with gaps: particles have the conditional probabilities, by enumeration."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from flowjax.distributions import Transformed

from flowebm.data import LogitPixels
from flowebm.models import EnergyModel, autoregressive_image
from flowebm.models.autoregressive_image import make_image_density
from flowebm.samplers.image_particles import ImageParticles


@pytest.fixture(autouse=True)
def float64(monkeypatch):
    monkeypatch.setattr(autoregressive_image, "COARSEST", 1)
    monkeypatch.setattr(autoregressive_image, "UNIFORM", 0.2)
    with jax.enable_x64(True):
        yield


def some_model(shape, levels, tilt):
    sizes = {"above": 1, "beside": 1, "around": 1, "width": 8, "components": 3}
    model = make_image_density(shape, levels, (0.3, 0.7), key=jr.key(0), **sizes)
    rng = np.random.default_rng(1)
    moved = jax.tree.map(
        lambda x: jnp.asarray(np.asarray(x) + 0.5 * rng.standard_normal(x.shape)), model
    )
    density = eqx.tree_at(lambda m: m.log_shares, moved, model.log_shares)
    return EnergyModel(tilt, Transformed(density, LogitPixels(shape, levels)))


@eqx.filter_jit
@eqx.filter_vmap(in_axes=(None, 0))
def log_prob_of_levels(model, image):
    point = model.base.bijection.transform(image + 0.5)
    # Cells differ in their size in logits; levels do not.
    log_det = model.base.bijection.inverse_and_log_det(point)[1]
    return model.unnormalized_log_prob(point) - log_det


@pytest.mark.parametrize(
    ("shape", "levels", "tilted"),
    [((1, 2, 4), 2, False), ((3, 2, 2), 2, False), ((1, 2, 2), 4, True)],
)
def test_particles_have_the_probabilities_of_all_completions(shape, levels, tilted):
    """500 draws of 4,000 particles; each completion within 0.125 of its probability.

    The standard deviation is at most 0.5 / sqrt(500) for the draws, 0.022, and 0.012 for the
    particles where half of them are effective; five of both together: false-alarm rate 1e-5.
    """
    tilt = (lambda x: jnp.tanh(x.sum())) if tilted else (lambda x: jnp.zeros(()))
    model = some_model(shape, levels, tilt)
    size = int(np.prod(shape))
    row = np.random.default_rng(0).integers(0, levels, size).astype(float)
    gaps = [1, size - 2] if levels == 2 else [0]
    images = np.repeat(row[None], levels ** len(gaps), axis=0)
    images[:, gaps] = list(itertools.product(range(levels), repeat=len(gaps)))
    log_p = log_prob_of_levels(model, jnp.asarray(images).reshape(-1, *shape))
    p = np.asarray(jax.nn.softmax(log_p))
    assert 0.02 < p.max() < 0.98
    particles = ImageParticles.of(model)
    masked = row.copy()
    masked[gaps] = np.nan
    draws, effective = particles.fill(jr.key(2), masked.reshape(1, *shape), n_draws=500)
    assert draws.shape == (500, 1, *shape)
    assert 0 < effective[0] <= 1
    draws = draws.reshape(500, size)
    known = np.delete(np.arange(size), gaps)
    np.testing.assert_array_equal(draws[:, known], np.repeat(row[None, known], 500, axis=0))
    found = [(draws[:, gaps] == image[gaps]).all(axis=1).mean() for image in images]
    np.testing.assert_allclose(found, p, atol=0.125)


@pytest.mark.parametrize(("shape", "levels"), [((1, 2, 2), 3), ((3, 2, 2), 2)])
def test_noisy_images_have_the_posterior_of_all_images(shape, levels):
    """Mean levels of 500 draws against enumeration; within five standard errors and a particle's.

    False-alarm rate below 1e-4 for the twelve means together.
    """
    model = some_model(shape, levels, lambda x: jnp.zeros(()))
    size, sd = int(np.prod(shape)), 0.7
    images = np.array(list(itertools.product(range(levels), repeat=size)), float)
    rng = np.random.default_rng(3)
    noisy = images[rng.integers(len(images))] + sd * rng.normal(size=size)
    log_p = eqx.filter_jit(model.base.base_dist.log_prob)(
        jnp.asarray(images.reshape(-1, *shape) + 0.5)
    )
    log_p = log_p - 0.5 * ((noisy - images) ** 2).sum(axis=1) / sd**2
    p = np.asarray(jax.nn.softmax(log_p))
    particles = ImageParticles.of(model)
    draws, _ = particles.denoise(jr.key(4), noisy.reshape(1, *shape), sd, n_draws=500)
    draws = draws.reshape(500, size)
    mean = p @ images
    spread = np.sqrt(p @ (images - mean) ** 2)
    assert spread.max() > 0.1
    np.testing.assert_array_less(
        np.abs(draws.mean(axis=0) - mean), 5 * spread * (1 / 500 + 1 / 1000) ** 0.5 + 1e-3
    )


def test_other_models_have_none():
    from flowjax.distributions import Normal

    assert ImageParticles.of(EnergyModel(lambda x: jnp.sum(x) * 0, Normal(jnp.zeros(3)))) is None

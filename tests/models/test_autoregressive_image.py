"""Autoregressive images: probabilities of whole-number pixels, drawn as they say."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from flowjax.distributions import Transformed
from scipy.stats import chisquare

from flowebm.data import LogitPixels
from flowebm.models import autoregressive_image
from flowebm.models.autoregressive_image import make_image_density
from flowebm.models.recipe import build, describe
from flowebm.refusal import Refused


@pytest.fixture(autouse=True)
def float64(monkeypatch):
    # Often enough that draws would show a mistake in it.
    monkeypatch.setattr(autoregressive_image, "UNIFORM", 0.2)
    with jax.enable_x64(True):
        yield


#: Shapes, levels, and sides up to which an image is not made coarser.
CASES = [
    ((1, 2, 3), 2, 8),
    ((1, 2, 2), 3, 8),
    ((3, 1, 2), 2, 8),
    ((1, 2, 2), 4, 1),
    ((1, 2, 4), 2, 1),
    ((3, 2, 2), 2, 1),
    ((1, 4, 4), 2, 1),
]


@pytest.fixture
def coarsest(request, monkeypatch):
    monkeypatch.setattr(autoregressive_image, "COARSEST", request.param)


def random_model(shape, levels, **sizes):
    """Networks none of whose parameters is zero."""
    sizes = {"above": 1, "beside": 1, "around": 1, "width": 8, "components": 3} | sizes
    model = make_image_density(shape, levels, (0.2, 0.8), key=jr.key(0), **sizes)
    rng = np.random.default_rng(1)
    model = jax.tree.map(
        lambda x: jnp.asarray(np.asarray(x) + 0.5 * rng.standard_normal(x.shape)), model
    )
    return eqx.tree_at(lambda m: m.log_shares, model, jax.nn.log_softmax(model.log_shares))


@eqx.filter_jit
def log_prob(model, images):
    return model.log_prob(images)


@eqx.filter_jit
def sample(model, key, n):
    return model.sample(key, (n,))


def every_image(shape, levels):
    """All images there are, in the middle of their levels."""
    pixels = itertools.product(range(levels), repeat=int(np.prod(shape)))
    return jnp.asarray(np.array(list(pixels), float).reshape(-1, *shape) + 0.5)


@pytest.mark.parametrize(("shape", "levels", "coarsest"), CASES, indirect=["coarsest"])
def test_probabilities_of_all_images_add_up_to_one(shape, levels, coarsest):
    model = random_model(shape, levels)
    of_all = np.asarray(log_prob(model, every_image(shape, levels)))
    np.testing.assert_allclose(np.exp(of_all).sum(), 1, rtol=1e-9)
    assert np.ptp(of_all) > 1


@pytest.mark.parametrize(("shape", "levels", "coarsest"), CASES[:-1], indirect=["coarsest"])
def test_images_are_drawn_with_their_probabilities(shape, levels, coarsest):
    """20,000 draws; false-alarm rate 1e-5."""
    model, images = random_model(shape, levels), every_image(shape, levels)
    draws = np.asarray(sample(model, jr.key(2), 20_000)) - 0.5
    number = levels ** np.arange(images[0].size)[::-1]
    found = np.bincount(
        np.rint(draws.reshape(len(draws), -1) @ number).astype(int), minlength=len(images)
    )
    expected = len(draws) * np.exp(np.asarray(log_prob(model, images)))
    # Images that are hardly ever drawn are counted together.
    rare = expected < 10
    counts, means = (
        np.append(x[~rare], x[rare].sum()) if rare.any() else x for x in (found, expected)
    )
    assert chisquare(counts, means * counts.sum() / means.sum()).pvalue > 1e-5


def test_the_density_is_constant_over_a_level_and_no_level_is_beyond_reach():
    model = random_model((1, 3, 3), 256)
    level = np.random.default_rng(0).integers(0, 256, (1, 3, 3)).astype(float)
    level[0, 0, 0], level[0, 2, 2] = 0, 255
    at = [float(log_prob(model, jnp.asarray(level + noise))) for noise in (0.01, 0.5, 0.99)]
    assert np.isfinite(at).all()
    assert np.ptp(at) == 0


@eqx.filter_jit
def log_prob_and_gradient(model, bias, levels):
    def of_bias(bias):
        of_size = eqx.tree_at(lambda m: m.scales[0].readout_bias, model, bias)
        of_levels = of_size.log_prob(levels)
        return of_levels.sum(), of_levels

    gradient, of_levels = jax.grad(of_bias, has_aux=True)(bias)
    return of_levels, gradient


@pytest.mark.parametrize("size", [1.0, 1e3, 1e6])
def test_probabilities_and_gradients_are_finite_however_large_parameters_are(size):
    """Of 1,021 levels of one pixel, in single precision; they add up to one, too."""
    with jax.enable_x64(False):
        model = make_image_density((1, 1, 1), 1021, key=jr.key(0), width=8)
        bias = size * jr.normal(jr.key(1), model.scales[0].readout_bias.shape)
        levels = jnp.arange(1021.0).reshape(-1, 1, 1, 1)
        every, gradient = log_prob_and_gradient(model, bias, levels)
    every = np.asarray(every, np.float64)
    assert np.isfinite(every).all()
    assert np.isfinite(np.asarray(gradient)).all()
    np.testing.assert_allclose(np.exp(every).sum(), 1, atol=1e-4)


def test_a_pixel_depends_on_those_before_it_alone():
    model = random_model((1, 4, 5), 4, above=2, beside=2)
    image = jnp.asarray(np.random.default_rng(0).integers(0, 4, (1, 4, 5)) + 0.5)
    i, j = 2, 2

    @jax.jit
    def log_prob_of_pixel(image):
        glimpses = model.glimpses(model.pyramid(image), 0, jnp.array(1), jnp.array([i * 5 + j]))
        return jax.vmap(model.scales[0].pixel_log_prob)(glimpses)[0]

    for row, column in itertools.product(range(4), range(5)):
        other = image.at[0, row, column].set((image[0, row, column] + 2) % 4)
        changes = bool(log_prob_of_pixel(other) != log_prob_of_pixel(image))
        assert changes == ((row, column) <= (i, j)), (row, column)


def test_an_image_is_made_coarser_while_its_sides_are_even_and_long():
    shapes = [scale.shape for scale in make_image_density((3, 24, 40), 2, key=jr.key(0)).scales]
    assert shapes == [(3, 6, 10), (3, 12, 20), (3, 24, 40)]
    (only,) = make_image_density((1, 9, 10), 2, key=jr.key(0)).scales
    assert only.shape == (1, 9, 10)


def test_a_finer_scale_keeps_to_the_sums_of_the_coarser(monkeypatch):
    monkeypatch.setattr(autoregressive_image, "COARSEST", 2)
    model = random_model((2, 8, 8), 5)
    assert len(model.scales) == 3
    assert [scale.levels for scale in model.scales] == [65, 17, 5]
    draws = np.asarray(sample(model, jr.key(0), 50)) - 0.5
    assert ((draws >= 0) & (draws <= 4) & (draws == np.rint(draws))).all()
    assert np.isfinite(log_prob(model, jnp.asarray(draws + 0.5))).all()


def test_earlier_channels_move_a_later_ones_mean():
    model = random_model((3, 1, 1), 2, above=0, beside=0)
    images = every_image((3, 1, 1), 2)
    p = np.exp(np.asarray(log_prob(model, images))).reshape(2, 2, 2)
    blue = p.sum(axis=1)[:, 1] / p.sum(axis=(1, 2))
    assert abs(blue[0] - blue[1]) > 1e-3


def test_behind_a_logit_it_is_saved_and_loaded():
    model = random_model((1, 2, 3), 17)
    density = Transformed(model, LogitPixels((1, 2, 3), 17))
    recipe, arrays = describe(density)
    again = build(recipe, arrays)
    points = sample(density, jr.key(0), 5)
    np.testing.assert_array_equal(log_prob(again, points), log_prob(density, points))
    pixels, log_det = eqx.filter_vmap(density.bijection.inverse_and_log_det)(points)
    expected = log_prob(model, pixels) + log_det
    np.testing.assert_allclose(log_prob(density, points), expected)


def test_what_is_no_image_is_refused():
    with pytest.raises(Refused, match="channels, height and width"):
        make_image_density((6,), 2, key=jr.key(0))

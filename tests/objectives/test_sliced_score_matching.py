"""Sliced score matching."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest
from flowjax.distributions import Normal

from flowebm.models.ebflow_architectures import convolutional_ebflow, fully_connected_ebflow
from flowebm.models.tilted import EnergyModel
from flowebm.models.tilts import MLPTilt
from flowebm.objectives.exact_score_matching import exact
from flowebm.objectives.sliced_score_matching import one_slice_each, sliced_score_matching, ssm

KEY = jax.random.key(0)


def test_the_average_over_all_slices_is_exact_score_matching(flow, x, signs):
    """The expectation over Rademacher slices is a sum over the 2³ sign vectors."""

    @jax.jit
    def observe(x):
        losses = jax.vmap(lambda x: sliced_score_matching(flow, x, signs, 0.3))(x)
        return jnp.mean(losses), exact(0.3)(flow, x, KEY)

    np.testing.assert_allclose(*observe(x), rtol=1e-11)


@pytest.mark.parametrize("n_slices", [1, 4])
def test_slices_are_drawn_so_that_the_expectation_is_exact(gaussian, precision, n_slices):
    """4,000 points at the origin: the loss is -vᵀPv averaged, of mean -tr P and variance
    4 Σ_{i<j} P_ij² / n for each point. |z| < 4.1 fails by chance with probability 4e-5; the
    spread itself is checked to 20% (a chi-square with 3,999 degrees of freedom: 9 sigmas)."""
    n = 4000
    loss = jax.jit(lambda key: ssm(n_slices)(gaussian, jnp.zeros((n, 3)), key))
    variance = 4 * np.sum(np.triu(precision, 1) ** 2) / n_slices
    z = (loss(KEY) + np.trace(precision)) / np.sqrt(variance / n)
    assert 1e-6 < abs(z) < 4.1

    one = jax.jit(jax.vmap(lambda key: ssm(n_slices)(gaussian, jnp.zeros((1, 3)), key)))
    spread = np.var(one(jax.random.split(KEY, n)))
    np.testing.assert_allclose(spread, variance, rtol=0.2)


def test_a_number_of_slices_below_one_is_refused():
    with pytest.raises(ValueError, match="at least one slice"):
        ssm(0)


@eqx.filter_jit
def initialized(model):
    return model.initialized(jax.random.normal(KEY, (6, *model.shape)))


MODELS = {
    "fully connected": lambda: initialized(fully_connected_ebflow((5,))),
    "convolutional": lambda: initialized(
        convolutional_ebflow((1, 4, 4), n_blocks=2, convolutions_per_block=1, kernel_size=3)
    ),
    "tilt": lambda: EnergyModel(
        MLPTilt((5,), width=8, key=KEY), paramax.non_trainable(Normal(jnp.ones(5)))
    ),
}


def mean_of_points(model, x, v, penalty):
    """The objective, a derivative of a gradient at each point."""
    losses = jax.vmap(lambda x, v: sliced_score_matching(model, x, v[None], penalty))
    return jnp.mean(losses(x, v))


def along_curves(model, x, v, penalty):
    return one_slice_each((model, x), v, penalty)


def step(loss, model, penalty):
    """The compiled value and gradient at disturbed parameters, and its arguments."""
    params, static = eqx.partition(model, eqx.is_inexact_array)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: jnp.asarray(np.asarray(a) + 0.1 * rng.standard_normal(a.shape)), params
    )
    x = rng.standard_normal((6, *model.shape))
    arguments = params, jnp.asarray(x), jnp.asarray(np.sign(np.roll(x, 1)))

    def value_and_gradient(params, x, v):
        return jax.value_and_grad(lambda p: loss(eqx.combine(p, static), x, v, penalty))(params)

    return jax.jit(value_and_gradient).lower(*arguments).compile(), arguments


@pytest.mark.parametrize("penalty", [0.0, 0.3])
@pytest.mark.parametrize("name", MODELS)
def test_value_and_gradient_along_curves_are_those_of_the_points(name, penalty):
    model = MODELS[name]()
    (curves, arguments), (points, _) = (
        step(loss, model, penalty) for loss in (along_curves, mean_of_points)
    )
    (value, gradient), (expected, of_points) = curves(*arguments), points(*arguments)
    np.testing.assert_allclose(value, expected, rtol=1e-11)
    norm = max(np.abs(leaf).max() for leaf in jax.tree.leaves(of_points))
    assert norm > 0.1
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11 * norm),
        gradient,
        of_points,
    )


def products(loss, model):
    return step(loss, model, 0.0)[0].as_text().count(" dot(")


def test_a_gradient_takes_nine_products_with_each_matrix():
    """Of two layers behind an act-norm, so that every product is wanted."""
    model = MODELS["fully connected"]()
    assert products(along_curves, model) == 2 * 9
    assert products(mean_of_points, model) == 2 * 12


def test_a_first_layer_takes_seven():
    """No parameter stands in front of it to want the derivatives of the score."""
    assert products(along_curves, fully_connected_ebflow((5,), act_norm=False)) == 7 + 9


def test_the_objective_takes_the_gradient_along_curves(flow, x):
    """`ssm` draws the slices itself; its gradient is refused in the points, not wrong."""
    v = jax.random.rademacher(KEY, (5, 1, 3), x.dtype)[:, 0]
    value, gradient = eqx.filter_jit(eqx.filter_value_and_grad(lambda m: ssm()(m, x, KEY)))(flow)
    of_points = eqx.filter_value_and_grad(lambda m: mean_of_points(m, x, v, 0.0))
    expected = eqx.filter_jit(of_points)(flow)
    np.testing.assert_allclose(value, expected[0], rtol=1e-11)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), gradient, expected[1])
    with pytest.raises(TypeError, match="differentiated in the model's parameters only"):
        jax.grad(lambda x: ssm()(flow, x, KEY))(x)

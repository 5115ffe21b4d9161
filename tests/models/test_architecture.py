"""Architectures: plain values that determine a model's structure, with or without data."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import paramax
import pytest
from scipy.stats import norm

from flowebm.models.architecture import Architecture, build
from flowebm.models.trainable import partition_trainable

SMALL = {"width": 4, "depth": 1, "flow_layers": 1, "flow_width": 4, "flow_depth": 1}
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(100, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]]))


@pytest.fixture(scope="module")
def small(data):
    return build(Architecture(**SMALL), (2,), data=data, key=KEY)


def covariance(gaussian):
    """Minus the inverse Hessian of a Gaussian log-density."""
    return -np.linalg.inv(jax.hessian(gaussian.log_prob)(jnp.zeros(2)))


def test_gaussians_are_fitted_and_the_proposals_is_wider(small, data):
    base, wide = paramax.unwrap((small.model.base, small.proposal.wide))
    np.testing.assert_allclose(covariance(wide), 1.5 * covariance(base), rtol=1e-3)
    np.testing.assert_allclose(covariance(base), np.cov(data.T), atol=0.15)
    assert small.proposal.fraction == 0.05


def test_without_data_the_model_is_standard_normal_and_of_the_same_structure(small):
    skeleton = build(Architecture(**SMALL), (2,), key=jax.random.key(1))
    x = np.array([0.5, -2.0])
    np.testing.assert_allclose(-skeleton.model.energy(x), norm.logpdf(x).sum(), rtol=1e-6)

    def described(tree):
        return [
            (jax.tree_util.keystr(path), getattr(leaf, "shape", None))
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        ]

    assert described(skeleton) == described(small)


def test_only_the_tilt_and_the_flow_are_trained(small):
    params, _ = partition_trainable(small)
    assert optax.tree.size(params.model.base) == optax.tree.size(params.proposal.wide) == 0
    assert optax.tree.size(params.model.tilt) == (2 * 4 + 4) + 4
    assert optax.tree.size(params.proposal.flow) > 0


def test_a_base_is_trained_on_demand(data):
    trained = build(Architecture(**SMALL, train_base=True), (2,), data=data, key=KEY)
    assert optax.tree.size(partition_trainable(trained.model.base)[0]) == 2 + 4


def test_images_have_convolutional_tilts_and_flows_as_bases():
    shape = (1, 4, 4)
    choices = {"tilt": "conv", "base": "flow", "base_flow": "affine-coupling"}
    model, proposal = build(Architecture(**SMALL | choices), shape, key=KEY)
    assert model.shape == proposal.shape == shape
    x = jnp.ones(shape)
    energy = eqx.filter_jit(lambda model, x: model.energy(x))(model, x)
    base = eqx.filter_jit(lambda base, x: paramax.unwrap(base).log_prob(x))(model.base, x)
    np.testing.assert_allclose(energy, -base, rtol=1e-6)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"flow": "glow"}, "flow must be "),
        ({"activation": "relu"}, "activation must be "),
        ({"tilt": "conv"}, r"channels, height, width\); got \(2,\)"),
        ({"defensive_fraction": 1.0}, "between 0 and 1, both excluded"),
    ],
)
def test_what_does_not_fit_is_refused(choice, words):
    with pytest.raises(ValueError, match=words):
        build(Architecture(**SMALL | choice), (2,), key=KEY)

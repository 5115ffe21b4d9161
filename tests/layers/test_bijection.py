"""Layers as flowjax bijections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowjax.bijections import Invert
from flowjax.distributions import StandardNormal, Transformed

from flowebm.layers import FullLinear, LayerBijection, Squeeze


def test_a_flowjax_distribution_takes_a_layer():
    """x = W⁻¹(u - b) with u ~ N(0, I) is normal with covariance (WᵀW)⁻¹."""
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((3, 3)), rng.standard_normal(3)
    layer = LayerBijection(FullLinear(weight, bias))
    dist = Transformed(StandardNormal((3,)), Invert(layer))
    x = jnp.asarray(rng.standard_normal(3))
    precision = weight.T @ weight
    expected = jax.scipy.stats.multivariate_normal.logpdf(
        x, -np.linalg.solve(weight, bias), np.linalg.inv(precision)
    )
    np.testing.assert_allclose(dist.log_prob(x), expected, rtol=1e-10)
    np.testing.assert_allclose(layer.inverse_and_log_det(layer.transform(x))[0], x, rtol=1e-10)
    np.testing.assert_allclose(
        layer.inverse_and_log_det(x)[1], -layer.transform_and_log_det(x)[1], rtol=1e-12
    )


def test_layers_that_change_the_shape_are_refused():
    with pytest.raises(ValueError, match="keep the shape"):
        LayerBijection(Squeeze((1, 2, 2)))

"""What is true of every layer: it inverts, and its log-determinant is its Jacobian's."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from flowebm.layers import AbstractConstantJacobianLayer, AbstractDataDependentLayer, Preprocessing


@eqx.filter_jit
def observe(layer, x, other):
    """All that the truths below speak of, compiled once for each layer."""

    def flat_forward(x):
        return layer.forward(x.reshape(layer.shape)).ravel()

    def flat_inverse(y):
        return layer.inverse(y.reshape(layer.out_shape)).ravel()

    if isinstance(layer, AbstractConstantJacobianLayer):
        y, log_det = layer.forward(x), layer.log_det()
    elif isinstance(layer, AbstractDataDependentLayer):
        y, log_det = layer.forward_and_log_det(x)
    else:
        y, log_det = layer.forward_and_data_dependent_log_det(x)
        log_det = log_det + layer.constant_log_det()
    return {
        "y": y,
        "log_det": log_det,
        "jacobians": jax.lax.map(jax.jacfwd(flat_forward), jnp.stack([x.ravel(), other.ravel()])),
        "inverse": layer.inverse(y),
        "inverse_jacobian": jax.jacrev(flat_inverse)(y.ravel()),
    }


def test_layer_inverts_and_reports_its_jacobian(layer, x):
    """inverse(forward(x)) = x and log_det = log|det J|, both to rounding, and the inverse is
    differentiable: its Jacobian is the inverse Jacobian. Rounding errors grow with the
    condition number of J, so that is the unit of the bound. The Jacobian at another point is
    the same exactly when the layer's type says so."""
    other = 0.2 + 0.5 * x if isinstance(layer, Preprocessing) else -0.7 * x
    seen = jax.tree.map(np.asarray, observe(layer, x, other))
    jacobian, other_jacobian = seen["jacobians"]
    rounding = 100 * np.finfo(np.float64).eps * np.linalg.cond(jacobian)
    assert seen["y"].shape == layer.out_shape
    assert seen["inverse"].shape == layer.shape
    np.testing.assert_array_less(
        np.linalg.norm(seen["inverse"] - x), rounding * np.linalg.norm(x) + 1e-300
    )
    np.testing.assert_allclose(
        seen["log_det"], np.linalg.slogdet(jacobian)[1], rtol=1e-12, atol=rounding * x.size
    )
    constant = np.allclose(jacobian, other_jacobian, rtol=1e-12, atol=1e-12)
    assert constant == isinstance(layer, AbstractConstantJacobianLayer)
    identity = np.eye(x.size)
    np.testing.assert_allclose(
        seen["inverse_jacobian"] @ jacobian, identity, atol=10 * rounding * x.size
    )

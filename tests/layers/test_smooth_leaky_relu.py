"""The softplus of the smooth leaky ReLU."""

import jax
import jax.numpy as jnp
import numpy as np

from flowebm.layers.smooth_leaky_relu import softplus


def test_softplus_and_its_derivatives_are_exact_everywhere():
    x = jnp.array([-800.0, -40.0, -1.3, 0.0, 0.7, 35.0, 800.0])
    functions, reference = [softplus], [jax.nn.softplus]
    for _ in range(3):
        functions.append(jax.grad(functions[-1]))
        reference.append(jax.grad(reference[-1]))
    for function, expected in zip(functions, reference, strict=True):
        # Reference and ours differ in how they round near 0.
        np.testing.assert_allclose(
            jax.vmap(function)(x), jax.vmap(expected)(x), rtol=1e-12, atol=1e-15
        )

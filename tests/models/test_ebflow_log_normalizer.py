"""The estimated normaliser of an EBFlow."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from flowebm.layers import ActNorm, Conv2d, FullLinear, SmoothLeakyReLU, Squeeze
from flowebm.models.ebflow import EBFlow
from flowebm.models.ebflow_log_normalizer import estimate_log_normalizer


def test_it_covers_the_exact_normaliser():
    """All kinds of layers; 200 probes, all steps: |z| < 4.1 fails by chance with probability
    5e-5. An act-norm alone is exact."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        image = (1, 4, 4)
        scales = ActNorm((4, 2, 2), jnp.zeros(4), jnp.asarray(rng.standard_normal(4)))
        model = EBFlow(
            [
                Conv2d(rng.standard_normal((1, 1, 3, 3)), np.zeros(1), image),
                SmoothLeakyReLU(image),
                Squeeze(image),
                scales,
                FullLinear(rng.standard_normal((16, 16)), np.zeros(16), (4, 2, 2)),
            ]
        )
        estimate = eqx.filter_jit(estimate_log_normalizer)(
            jax.random.key(0), model, n_probes=200, n_steps=16
        )
        exact = model.log_normalizer()
        assert 0 < estimate.standard_error < 5
        assert 1e-6 < abs(estimate.value - exact) / estimate.standard_error < 4.1
        alone = estimate_log_normalizer(jax.random.key(0), EBFlow([scales]))
        np.testing.assert_allclose(alone.value, 4 * scales.log_scale.sum(), rtol=1e-12)
        assert alone.standard_error == 0

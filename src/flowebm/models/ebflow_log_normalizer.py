"""The normaliser of EBFlows whose linear layers are too large to factorise."""

import jax
import jax.numpy as jnp
import paramax
from jaxtyping import PRNGKeyArray

from flowebm.layers import Conv2d, FullLinear, LogDetEstimate, stochastic_log_det
from flowebm.models.ebflow import EBFlow

#: Layers whose exact log-determinant costs $O(D^3)$; that of the others is cheap.
FACTORISED_LAYERS = (FullLinear, Conv2d)


def estimate_log_normalizer(
    key: PRNGKeyArray, model: EBFlow, *, n_probes: int = 16, n_steps: int = 32
) -> LogDetEstimate:
    r"""$\log Z = -\sum_{i \in S_l} \log|\det J_i|$ without factorising a large matrix.

    Full linear layers and zero-padded convolutions by stochastic Lanczos quadrature, the
    other layers exactly. Cheaper than `model.log_normalizer()` from about
    `D > 6 * n_probes * n_steps` on.

    Args:
        key: PRNG key.
        model: The EBFlow.
        n_probes: Random vectors for each layer.
        n_steps: Lanczos steps for each vector; ill-conditioned layers need more.

    Returns:
        The estimate of $\log Z$, its standard error and an indication of its truncation, in
        nats.

    Raises:
        ValueError: If there are fewer than two probes or steps.

    Source: Ubaru, Chen, Saad (2017).
    """
    layers = paramax.unwrap(model).chain.constant_jacobian_layers()
    value = jnp.zeros(())
    variance = jnp.zeros(())
    truncation = jnp.zeros(())
    for layer, layer_key in zip(layers, jax.random.split(key, len(layers)), strict=True):
        if not isinstance(layer, FACTORISED_LAYERS):
            value = value - layer.log_det()
            continue
        estimate = stochastic_log_det(layer_key, layer, n_probes=n_probes, n_steps=n_steps)
        value = value - estimate.value
        variance = variance + estimate.standard_error**2
        truncation = truncation + estimate.truncation
    return LogDetEstimate(value, jnp.sqrt(variance), truncation)

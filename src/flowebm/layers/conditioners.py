"""Networks that read one part of a point and set the map of the other."""

from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

Layer = TypeVar("Layer", bound=eqx.Module)


def mlp_conditioner(
    key: PRNGKeyArray,
    in_size: int,
    out_size: int,
    *,
    width: int = 64,
    depth: int = 2,
    activation: Callable[[Array], Array] = jax.nn.silu,
    input_scale: float = 1.0,
) -> eqx.nn.MLP:
    """A fully connected conditioner whose last layer is zero, so that couplings start trivial.

    Args:
        key: PRNG key.
        in_size: Features read.
        out_size: Parameters returned.
        width: Units of each hidden layer.
        depth: Number of hidden layers.
        activation: A smooth one: score matching differentiates it twice.
        input_scale: Factor on the first layer's initial weights and biases; a larger one follows
            finer structure in what is read.

    Returns:
        A network from `(in_size,)` to `(out_size,)`.
    """
    network = eqx.nn.MLP(in_size, out_size, width, depth, activation, key=key)
    network = eqx.tree_at(
        lambda net: (net.layers[0].weight, net.layers[0].bias),
        network,
        replace_fn=lambda a: input_scale * a,
    )
    return eqx.tree_at(lambda net: net.layers[-1], network, replace_fn=_zeros)


def conv_conditioner(
    key: PRNGKeyArray,
    in_channels: int,
    out_channels: int,
    *,
    width: int = 512,
    activation: Callable[[Array], Array] = jax.nn.silu,
) -> eqx.nn.Sequential:
    """Glow's conditioner for images: 3×3, 1×1 and a zero 3×3 convolution.

    Args:
        key: PRNG key.
        in_channels: Channels read.
        out_channels: Parameters returned at each pixel.
        width: Hidden channels.
        activation: A smooth one: score matching differentiates it twice.

    Returns:
        A network from `(in_channels, h, w)` to `(out_channels, h, w)`.

    Source: Kingma, Dhariwal (2018), section 3.3.
    """
    first, second, third = jax.random.split(key, 3)
    return eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(in_channels, width, 3, padding="SAME", key=first),
            eqx.nn.Lambda(activation),
            eqx.nn.Conv2d(width, width, 1, key=second),
            eqx.nn.Lambda(activation),
            _zeros(eqx.nn.Conv2d(width, out_channels, 3, padding="SAME", key=third)),
        ]
    )


def _zeros(layer: Layer) -> Layer:
    return jax.tree.map(lambda a: jnp.zeros_like(a) if eqx.is_inexact_array(a) else a, layer)

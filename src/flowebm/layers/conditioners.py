"""Networks that read one part of a point and set the map of the other."""

from collections.abc import Callable
from typing import TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

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

    Source: Kingma, Dhariwal (2018), section 3.3, for the last layer of zeros.
    """
    network = eqx.nn.MLP(in_size, out_size, width, depth, activation, key=key)
    network = eqx.tree_at(
        lambda net: (net.layers[0].weight, net.layers[0].bias),
        network,
        replace_fn=lambda a: input_scale * a,
    )
    return eqx.tree_at(lambda net: net.layers[-1], network, replace_fn=_zeros)


class ConvConditioner(eqx.Module):
    """3×3, 1×1 and 3×3 convolutions, on a CPU as products of matrices with pixels as rows.

    A score-matching step is twice as fast there as with direct convolutions. The narrow side
    of a 3×3 convolution is what is shifted: neighbours are gathered before the first one, where
    there are few channels, and added up after the last one, where there are few again.

    Args:
        convolutions: The three 'same' convolutions, with their parameters.
        activation: Applied after the first two.
    """

    convolutions: tuple[eqx.nn.Conv2d, eqx.nn.Conv2d, eqx.nn.Conv2d]
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __call__(self, x: Float[Array, "c h w"]) -> Float[Array, "out h w"]:
        def by_products(convolutions, x):
            first, second, last = convolutions
            hidden = jnp.moveaxis(x, 0, -1)
            hidden = self.activation(_gather_then_multiply(first, hidden))
            hidden = self.activation(_gather_then_multiply(second, hidden))
            return jnp.moveaxis(_multiply_then_add(last, hidden), -1, 0)

        def directly(convolutions, x):
            first, second, last = convolutions
            return last(self.activation(second(self.activation(first(x)))))

        return jax.lax.platform_dependent(self.convolutions, x, cpu=by_products, default=directly)


def conv_conditioner(
    key: PRNGKeyArray,
    in_channels: int,
    out_channels: int,
    *,
    width: int = 512,
    activation: Callable[[Array], Array] = jax.nn.silu,
) -> ConvConditioner:
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
    return ConvConditioner(
        (
            eqx.nn.Conv2d(in_channels, width, 3, padding="SAME", key=first),
            eqx.nn.Conv2d(width, width, 1, key=second),
            _zeros(eqx.nn.Conv2d(width, out_channels, 3, padding="SAME", key=third)),
        ),
        activation,
    )


def _gather_then_multiply(
    convolution: eqx.nn.Conv2d, x: Float[Array, "h w c"]
) -> Float[Array, "h w out"]:
    kernel = jnp.transpose(convolution.weight, (2, 3, 1, 0))
    shifted = jnp.concatenate(_windows(x, kernel.shape[0]), axis=-1)
    return shifted @ kernel.reshape(-1, kernel.shape[-1]) + _bias(convolution)


def _multiply_then_add(
    convolution: eqx.nn.Conv2d, x: Float[Array, "h w c"]
) -> Float[Array, "h w out"]:
    # Output pixel i reads input pixel i + a - r by tap a, so tap a's product is shifted by that.
    taps = jnp.transpose(convolution.weight, (2, 3, 1, 0))
    k, _, channels, out = taps.shape
    products = x @ jnp.moveaxis(taps, 2, 0).reshape(channels, k * k * out)
    products = products.reshape(*x.shape[:2], k * k, out)
    parts = [_windows(products[:, :, tap], k)[tap] for tap in range(k * k)]
    return sum(parts, start=_bias(convolution))


def _windows(x: Float[Array, "h w c"], k: int) -> list[Float[Array, "h w c"]]:
    """The image shifted by every tap of a k×k kernel, row by row, with zeros outside."""
    height, width, _ = x.shape
    padded = jnp.pad(x, ((k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    return [padded[a : a + height, b : b + width] for a in range(k) for b in range(k)]


def _bias(convolution: eqx.nn.Conv2d) -> Float[Array, " out"]:
    return cast(Array, convolution.bias).ravel()


def _zeros(layer: Layer) -> Layer:
    return jax.tree.map(lambda a: jnp.zeros_like(a) if eqx.is_inexact_array(a) else a, layer)

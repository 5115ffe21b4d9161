"""Networks for the tilt $U$ of an energy model: smooth, and zero at the start."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from flowebm.layers.canonical_convolution import canonical_convolution
from flowebm.models.activations import activation
from flowebm.models.batches import on_device
from flowebm.models.random_start import Draws
from flowebm.models.recipe import register
from flowebm.models.spectral import SpectralNormalization
from flowebm.refusal import Refused

Layer = TypeVar("Layer", bound=eqx.Module)


def layer_of(draws: Draws, kind: Callable[..., Layer], *sizes: Any, **choices: Any) -> Layer:
    r"""A layer of Equinox with its weights drawn one after the other from the same numbers.

    Args:
        draws: The random numbers.
        kind: `equinox.nn.Linear` or `equinox.nn.Conv2d`.
        sizes: Its arguments.
        choices: Its other arguments.

    Returns:
        The layer; weights and biases are even between $\pm 1 / \sqrt{\text{fan-in}}$, as Equinox
        has them.
    """
    form: Any = eqx.filter_eval_shape(
        lambda key: kind(*sizes, key=key, **choices), jax.eval_shape(lambda: jax.random.key(0))
    )
    bound = math.prod(form.weight.shape[1:]) ** -0.5
    return jax.tree.map(lambda leaf: draws.uniform(leaf.shape, bound), form)


def _widened(first, *others):
    r"""The same layers, those after the first with weights of variance $2 / \text{fan-in}$.

    Equinox draws weights from $U(\pm 1/\sqrt{\text{fan-in}})$, under which the signal shrinks
    more than fourfold a layer with smooth rectifiers: a tilt then finds separated modes several
    times more slowly. The first layer keeps the narrow weights, and with them the preference
    for smooth energies that protects from memorising the data.

    Source: He et al. (2015), *Delving deep into rectifiers*, section 2.2.
    """
    wide = [
        eqx.tree_at(lambda layer: layer.weight, layer, replace_fn=lambda w: w * math.sqrt(6.0))
        for layer in others
    ]
    return [first, *wide]


def _zeroed(layer: eqx.nn.Linear) -> eqx.nn.Linear:
    """The same layer with zero weight: a fresh energy model then *is* its base."""
    zeros = on_device(np.zeros(layer.weight.shape))
    return eqx.tree_at(lambda linear: linear.weight, layer, zeros)


def _spectrally_normalized(layer):
    return eqx.tree_at(lambda linear: linear.weight, layer, replace_fn=SpectralNormalization)


@register
class MLPTilt(eqx.Module):
    r"""A multilayer perceptron tilt, $U(x) = w^\top h_L(\dots h_1(x))$, zero at the start.

    The output has no bias, because a constant in the energy cancels in the density. With
    `residual`, hidden layers after the first add to their input.

    Args:
        shape: Shape of one point; it is flattened.
        width: Units of a hidden layer.
        depth: Number of hidden layers.
        activation: Name of a smooth activation function.
        residual: Whether hidden layers after the first are residual blocks.
        spectral_normalization: Whether hidden layers have Lipschitz constant at most one.
        key: Random key of the initial weights.

    Raises:
        ValueError: If `width` or `depth` is below one, or the activation is unknown.
    """

    layers: tuple[eqx.nn.Linear, ...]
    readout: eqx.nn.Linear
    activation: Callable[[Array], Array] = eqx.field(static=True)
    residual: bool = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        width: int = 128,
        depth: int = 3,
        activation: str = "silu",
        residual: bool = False,
        spectral_normalization: bool = False,
        key: PRNGKeyArray,
    ):
        if width < 1 or depth < 1:
            raise Refused(f"An MLP tilt needs width and depth of 1 or more; got {width}, {depth}.")
        draws = Draws(key)
        sizes = [math.prod(shape), *[width] * depth]
        layers = _widened(
            *[layer_of(draws, eqx.nn.Linear, sizes[i], sizes[i + 1]) for i in range(depth)]
        )
        if spectral_normalization:
            layers = [_spectrally_normalized(layer) for layer in layers]
        self.layers = tuple(layers)
        self.readout = _zeroed(layer_of(draws, eqx.nn.Linear, width, "scalar", use_bias=False))
        self.activation = _activation(activation)
        self.residual = residual

    def __call__(self, x: Float[Array, "..."]) -> Scalar:
        first, *others = paramax.unwrap(self.layers)
        hidden = self.activation(first(x.ravel()))
        for layer in others:
            update = self.activation(layer(hidden))
            hidden = hidden + update if self.residual else update
        return self.readout(hidden)


def sharper(tilt: Callable[[Array], Scalar], columns: int) -> Callable[[Array], Scalar]:
    """A tilt of few coordinates that sees them at finer scales.

    The prior of narrow first weights is that of many columns: of two it would take an energy a
    long time to turn as sharply as their density can.

    Args:
        tilt: A fresh tilt.
        columns: Coordinates that it sees; from six on nothing changes.

    Returns:
        The same with a first layer, if it is an MLP, of up to three times its weights and biases.

    Source: Sitzmann et al. (2020), *Implicit neural representations with periodic activation
    functions*, section 3.2, for what first weights decide.
    """

    factor = max(1.0, 6.0 / columns)

    def sharpened(node):
        if not _is_mlp(node):
            return node
        first = jax.tree.map(lambda weights: factor * weights, node.layers[0])
        return eqx.tree_at(lambda mlp: mlp.layers[0], node, first)

    return jax.tree.map(sharpened, tilt, is_leaf=_is_mlp)


def _is_mlp(node: object) -> bool:
    return isinstance(node, MLPTilt)


@register
class CircularTilt(eqx.Module):
    r"""A tilt that sees cosine and sine of coordinates of period $2\pi$.

    Args:
        tilt: The tilt, of all coordinates with cosines in the place of circular ones, and of the
            sines of these.
        circular: Which coordinates are circular, as one truth value each.
    """

    tilt: MLPTilt
    circular: tuple[bool, ...] = eqx.field(static=True)

    @classmethod
    def of(cls, tilt: MLPTilt, circular: tuple[bool, ...], *, key: PRNGKeyArray) -> "CircularTilt":
        """A network like the given one, on the circle.

        Args:
            tilt: A network of all coordinates.
            circular: Which of them are circular.
            key: Random key of its first layer's weights.
        """
        inputs = len(circular) + sum(circular)
        first = layer_of(Draws(key), eqx.nn.Linear, inputs, tilt.layers[0].out_features)
        return cls(eqx.tree_at(lambda t: t.layers[0], tilt, first), tuple(circular))

    def __call__(self, x: Float[Array, " d"]) -> Scalar:
        is_circular = np.asarray(self.circular)
        cosines = jnp.where(is_circular, jnp.cos(x), x)
        return self.tilt(jnp.concatenate([cosines, jnp.sin(x[is_circular])]))


@register
class ConvTilt(eqx.Module):
    r"""A convolutional tilt for images, zero at the start.

    Convolutions 3×3 with stride 2 halve the image until its sides are below four pixels; a
    linear map without bias reads the energy off what remains.

    Args:
        shape: `(channels, height, width)` of one image.
        channels: Channels of the first convolution; each following one has twice as many.
        depth: Number of convolutions, or `None` for as many as the image can be halved.
        activation: Name of a smooth activation function.
        spectral_normalization: Whether convolutions have normalised kernels.
        key: Random key of the initial weights.

    Raises:
        ValueError: If `shape` is not that of an image or the activation is unknown.
    """

    layers: tuple[eqx.nn.Conv2d, ...]
    readout: eqx.nn.Linear
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        channels: int = 32,
        depth: int | None = None,
        activation: str = "silu",
        spectral_normalization: bool = False,
        key: PRNGKeyArray,
    ):
        if len(shape) != 3:
            raise Refused(
                f"A convolutional tilt needs points (channels, height, width); got {shape}."
            )
        if depth is None:
            depth = max(1, (min(shape[1:]) // 2).bit_length() - 1)
        draws = Draws(key)
        sizes = [shape[0], *[channels * 2**i for i in range(depth)]]
        layers = _widened(
            *[
                layer_of(draws, eqx.nn.Conv2d, sizes[i], sizes[i + 1], 3, stride=2, padding=1)
                for i in range(depth)
            ]
        )
        if spectral_normalization:
            layers = [_spectrally_normalized(layer) for layer in layers]
        self.layers = tuple(layers)
        height, width = shape[1:]
        for _ in range(depth):
            height, width = -(-height // 2), -(-width // 2)
        features = sizes[-1] * height * width
        self.readout = _zeroed(layer_of(draws, eqx.nn.Linear, features, "scalar", use_bias=False))
        self.activation = _activation(activation)

    def __call__(self, x: Float[Array, "channels height width"]) -> Scalar:
        hidden = jnp.moveaxis(x, 0, -1)
        for layer in paramax.unwrap(self.layers):
            hidden = self.activation(_convolve(layer, hidden))
        return self.readout(jnp.moveaxis(hidden, -1, 0).ravel())


def _convolve(layer: eqx.nn.Conv2d, x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 out"]:
    """What the layer computes, with channels last, which is fast in the loops of a training."""
    y = canonical_convolution(
        x[None],
        jnp.transpose(layer.weight, (2, 3, 1, 0)),
        padding=cast(Sequence[tuple[int, int]], layer.padding),
        strides=layer.stride,
    )
    return y[0] + cast(Array, layer.bias).ravel()


#: The constructors' argument shadows the function's name.
_activation = activation

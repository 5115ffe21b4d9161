"""The optimizers of fits, each made once: the same object finds the programs made for it."""

from collections.abc import Hashable
from functools import cache

import equinox as eqx
import jax
import optax
import optax.contrib
from jaxtyping import Array, PyTree
from optax.contrib import MuonDimensionNumbers

#: Learning rates of hidden layers and of those beside them, in units of all other parameters'.
HIDDEN_RATE, OUTER_RATE = 10.0, 2.0

#: Steps by which the momentum is made orthogonal: three do as well as five, for half the price.
NEWTON_SCHULZ_STEPS = 3


@cache
def clipped_adam(max_norm: float, learning_rate: float) -> optax.GradientTransformation:
    """Adam behind a clip of the gradient's norm.

    Args:
        max_norm: The norm that gradients are clipped to.
        learning_rate: The learning rate, to which a trainer's schedule is a factor.

    Returns:
        The same object for the same numbers.

    Source: Kingma, Ba (2015), *Adam*; Pascanu, Mikolov, Bengio (2013), *On the difficulty of
    training recurrent neural networks*, for the clip.
    """
    return optax.chain(optax.clip_by_global_norm(max_norm), optax.adam(learning_rate))


@cache
def clipped_muon(
    max_norm: float, learning_rate: float, weight_decay: float
) -> optax.GradientTransformation:
    r"""Muon for hidden layers and Adam for all else, behind a clip of the gradient's norm.

    A hidden layer's weight $W$ moves along the orthogonal matrix nearest to its momentum,
    $W \leftarrow (1 - \eta \lambda) W - \eta\, U V^\top$ where $U S V^\top$ is the momentum and
    $\eta$ is `HIDDEN_RATE` learning rates: as far along directions of small gradients, which hold
    an energy's fine structure, as along those of large ones.

    Args:
        max_norm: The norm that gradients are clipped to.
        learning_rate: Adam's learning rate, to which a trainer's schedule is a factor. The layers
            beside hidden ones have `OUTER_RATE` times as much.
        weight_decay: Share of the layers' parameters that a step takes off, in units of their
            learning rates; other parameters do not decay.

    Returns:
        The same object for the same numbers.

    Source: Jordan et al. (2024), *Muon: an optimizer for hidden layers in neural networks*;
    Loshchilov and Hutter (2019), *Decoupled weight decay regularization*.
    """
    by_role: dict[Hashable, optax.GradientTransformation] = {
        "hidden": optax.contrib.muon(
            HIDDEN_RATE * learning_rate,
            ns_steps=NEWTON_SCHULZ_STEPS,
            weight_decay=weight_decay,
            muon_weight_dimension_numbers=MuonDimensionNumbers(reduction_axis=1, output_axis=0),
        ),
        "outer": optax.adamw(OUTER_RATE * learning_rate, weight_decay=weight_decay, nesterov=True),
        "other": optax.adam(learning_rate),
    }
    return optax.chain(optax.clip_by_global_norm(max_norm), optax.partition(by_role, roles))


def roles(params: PyTree[Array]) -> PyTree[str]:
    """What optimizer a parameter is for.

    Args:
        params: Parameters of a model, in the model's own form.

    Returns:
        The same form: `hidden` at the weights of `Linear` layers behind the first that have several
        outputs, `outer` at all else of such layers, `other` elsewhere. Layers whose weights are
        stacked, as those of flows, or constrained do not count, nor does a single one.
    """
    nodes, form = jax.tree.flatten(params, is_leaf=_is_free_linear)
    n_layers = sum(map(_is_free_linear, nodes))
    n_before = 0
    role: list[PyTree[str]] = []
    for node in nodes:
        if n_layers < 2 or not _is_free_linear(node):  # A single one is other layers' readout.
            role.append(jax.tree.map(lambda _: "other", node))
            continue
        layer = jax.tree.map(lambda _: "outer", node)
        if n_before and min(node.weight.shape) > 1:
            layer = eqx.tree_at(lambda linear: linear.weight, layer, "hidden")
        role.append(layer)
        n_before += 1
    return jax.tree.unflatten(form, role)


def _is_free_linear(node: object) -> bool:
    """Whether a node is a `Linear` layer whose weight's entries are free, and one matrix."""
    if not isinstance(node, eqx.nn.Linear):
        return False
    weight: object = node.weight
    return getattr(weight, "ndim", 0) == 2

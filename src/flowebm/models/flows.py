"""Normalizing flows from flowjax, set up as proposals and as bases for points of any shape."""

from math import prod
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flowjax.bijections import Permute, Reshape
from flowjax.distributions import StandardNormal, Transformed
from flowjax.flows import coupling_flow, masked_autoregressive_flow
from jaxtyping import PRNGKeyArray

from flowebm.models.scalar_spline import ScalarSpline
from flowebm.models.shared_static import share_static
from flowebm.refusal import Refused

#: The kinds of flow that `make_flow` builds.
FlowKind = Literal["spline-coupling", "affine-coupling", "spline-autoregressive"]
FLOW_KINDS: tuple[str, ...] = get_args(FlowKind)


def make_flow(
    kind: str,
    shape: tuple[int, ...],
    *,
    layers: int = 6,
    width: int = 64,
    depth: int = 2,
    knots: int = 8,
    interval: float = 5.0,
    key: PRNGKeyArray,
) -> Transformed:
    """A normalizing flow over standardised points, from a standard normal.

    - `"spline-coupling"`: rational-quadratic spline couplings; one pass to sample and one to
      evaluate, which is what a proposal needs.
    - `"affine-coupling"`: affine couplings; cheaper and less expressive.
    - `"spline-autoregressive"`: masked autoregressive splines; the most accurate density,
      with as many passes as coordinates to draw a sample: a base rather than a proposal.

    Couplings come in pairs, of which the second transforms what the first has left; between pairs
    coordinates are shuffled. Points of one coordinate cannot be coupled; for them every kind is
    autoregressive.

    Args:
        kind: One of `FLOW_KINDS`.
        shape: Shape of one point; images are flattened.
        layers: Number of couplings or autoregressive transformations.
        width: Units of a conditioner's hidden layer.
        depth: Hidden layers of a conditioner.
        knots: Inner knots of a spline.
        interval: Splines act on [-interval, interval] and are the identity outside, in units
            of the standardised data.
        key: Random key of the initial weights.

    Returns:
        A flowjax distribution; evaluation (`log_prob`) is its fast direction where the two
        directions differ.

    Raises:
        ValueError: If `kind` is unknown.

    Source: Dinh et al. (2017) for couplings; Durkan et al. (2019), *Neural Spline Flows*;
    Papamakarios et al. (2017) for autoregressive flows.
    """
    if kind not in FLOW_KINDS:
        raise Refused(f"Unknown flow {kind!r}: choose one of {', '.join(FLOW_KINDS)}.")
    dimension = prod(shape)
    transformer = (
        None if kind == "affine-coupling" else ScalarSpline(knots=knots, interval=interval)
    )
    autoregressive = kind == "spline-autoregressive" or dimension == 1
    flow = (masked_autoregressive_flow if autoregressive else coupling_flow)(
        key,
        base_dist=StandardNormal((dimension,)),
        transformer=transformer,
        flow_layers=layers,
        nn_width=width,
        nn_depth=depth,
        nn_activation=jax.nn.silu,
    )
    flow = _nearly_identity(flow if autoregressive else _in_pairs(flow))
    bijection = flow.bijection if len(shape) == 1 else Reshape(flow.bijection, shape)
    built_from = ("flow", kind, shape, layers, width, depth, knots, interval)
    return share_static(Transformed(StandardNormal(shape), bijection), built_from)


def _in_pairs(flow: Transformed) -> Transformed:
    """The same flow of couplings with every other permutation an exchange of the halves.

    With permutations all drawn at random, as flowjax has them, one coordinate in sixteen is not
    transformed by any of four couplings, and its marginal stays Gaussian whatever the data.
    """

    def exchange(node):
        if not isinstance(node, Permute):
            return node
        (dimension,) = node.shape
        (permutations,), (inverses,) = node.permutation, node.inverse_permutation
        is_first = np.arange(permutations.shape[0])[:, None] % 2 == 0
        # A coupling transforms what comes behind the first half.
        halves = np.roll(np.arange(dimension), -(dimension // 2))
        return eqx.tree_at(
            lambda permute: (permute.permutation, permute.inverse_permutation),
            node,
            (
                (jnp.where(is_first, halves, permutations),),
                (jnp.where(is_first, np.argsort(halves), inverses),),
            ),
        )

    return jax.tree.map(exchange, flow, is_leaf=lambda node: isinstance(node, Permute))


def _nearly_identity(flow: Transformed) -> Transformed:
    """The same flow with conditioners whose last layer is shrunk to a hundredth.

    The flow then starts as the standard normal, up to permutations, rather than as a random
    distortion of it.
    """

    def is_mlp(node):
        return isinstance(node, eqx.nn.MLP)

    def shrink(node):
        if not is_mlp(node):
            return node
        last = jax.tree.map(
            lambda leaf: 0.01 * leaf if eqx.is_inexact_array(leaf) else leaf, node.layers[-1]
        )
        return eqx.tree_at(lambda mlp: mlp.layers[-1], node, last)

    return jax.tree.map(shrink, flow, is_leaf=is_mlp)

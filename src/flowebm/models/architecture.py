"""What a model is made of, as plain values: enough to rebuild it without running anything saved."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import paramax
from flowjax.distributions import AbstractDistribution
from jaxtyping import ArrayLike, Float, PRNGKeyArray

from flowebm.models.activations import Activation
from flowebm.models.bases import gaussian_base
from flowebm.models.defensive import DefensiveMixture
from flowebm.models.flows import FlowKind, make_flow
from flowebm.models.tilted import EnergyModel
from flowebm.models.tilts import ConvTilt, MLPTilt
from flowebm.options import Count, Share, check_options


@dataclass(frozen=True)
class Architecture:
    """The shape of an energy model and of its proposal.

    Attributes:
        tilt: Kind of network: `mlp`, or `conv` for images.
        width: Units of a hidden layer (`mlp`), or channels of the first convolution (`conv`).
        depth: Hidden layers of the tilt (`mlp`).
        activation: Smooth activation function of the tilt.
        residual: Whether the tilt's hidden layers are residual blocks (`mlp`).
        spectral_normalization: Whether the tilt's layers have Lipschitz constant at most one.
        base: Base density: a Gaussian fitted to the data, or a flow fitted to it first.
        base_flow: Kind of flow, where the base is one; of the proposal's own kind, the two
            start as the same fitted flow.
        train_base: Whether the base is trained along with the tilt.
        flow: Kind of the proposal flow.
        flow_layers: Transformations of a flow.
        flow_width: Units of a flow conditioner's hidden layer.
        flow_depth: Hidden layers of a flow's conditioner.
        flow_knots: Inner knots of a spline.
        defensive_fraction: Weight of the wide Gaussian in the proposal.
    """

    tilt: Literal["mlp", "conv"] = "mlp"
    width: Count = 128
    depth: Count = 3
    activation: Activation = "silu"
    residual: bool = False
    spectral_normalization: bool = False
    base: Literal["gaussian", "flow"] = "gaussian"
    base_flow: FlowKind = "spline-coupling"
    train_base: bool = False
    flow: FlowKind = "spline-coupling"
    flow_layers: Count = 4
    flow_width: Count = 64
    flow_depth: Count = 2
    flow_knots: Count = 8
    defensive_fraction: Share = 0.05

    def __post_init__(self):
        check_options(self)


class Components(NamedTuple):
    """An energy model and the proposal that samples it.

    Attributes:
        model: The energy model, over standardised points.
        proposal: The proposal over the same points.
    """

    model: EnergyModel
    proposal: DefensiveMixture


def build(
    architecture: Architecture,
    shape: tuple[int, ...],
    *,
    data: Float[ArrayLike, "n *shape"] | None = None,
    key: PRNGKeyArray,
) -> Components:
    """Build an energy model and its proposal, untrained.

    The tilt is zero, so the model is its base. Flows are not fitted yet.

    Args:
        architecture: What to build.
        shape: Shape of one point.
        data: Standardised points, to which Gaussian densities are fitted; without them these
            are standard normal (the skeleton into which saved arrays are read).
        key: Random key of the initial weights.

    Returns:
        The model and its proposal.

    Raises:
        ValueError: If a choice of the architecture is unknown or does not fit the points.
    """
    model_key, flow_key = jax.random.split(key)
    model = build_model(architecture, shape, data=data, key=model_key)
    wide = _wide(data, shape)
    flow = build_flow(architecture, architecture.flow, shape, key=flow_key)
    return Components(model, DefensiveMixture(flow, wide, architecture.defensive_fraction))


def build_model(
    architecture: Architecture,
    shape: tuple[int, ...],
    *,
    data: Float[ArrayLike, "n *shape"] | None = None,
    key: PRNGKeyArray,
) -> EnergyModel:
    """The energy model of `build`, without a proposal.

    Args:
        architecture: What to build.
        shape: Shape of one point.
        data: Standardised points, to which a Gaussian base is fitted.
        key: Random key of the initial weights.

    Returns:
        The model.

    Raises:
        ValueError: If a choice of the architecture is unknown or does not fit the points.
    """
    tilt_key, base_key = jax.random.split(key)
    if architecture.tilt == "conv":
        tilt = ConvTilt(
            shape,
            channels=architecture.width,
            activation=architecture.activation,
            spectral_normalization=architecture.spectral_normalization,
            key=tilt_key,
        )
    else:
        tilt = MLPTilt(
            shape,
            width=architecture.width,
            depth=architecture.depth,
            activation=architecture.activation,
            residual=architecture.residual,
            spectral_normalization=architecture.spectral_normalization,
            key=tilt_key,
        )
    if architecture.base == "flow":
        base = build_flow(architecture, architecture.base_flow, shape, key=base_key)
    else:
        base = gaussian_base(data, shape)
    if not architecture.train_base:
        base = paramax.non_trainable(base)
    return EnergyModel(tilt, base)


def _wide(
    data: Float[ArrayLike, "n *shape"] | None, shape: tuple[int, ...]
) -> AbstractDistribution:
    return paramax.non_trainable(gaussian_base(data, shape, inflation=1.5))


def build_flow(
    architecture: Architecture,
    kind: str,
    shape: tuple[int, ...],
    *,
    key: PRNGKeyArray,
) -> AbstractDistribution:
    """A flow of the architecture's size, unfitted: close to the standard normal.

    Args:
        architecture: The flow's size.
        kind: Its kind.
        shape: Shape of one point.
        key: Random key of the initial weights.

    Returns:
        The flow.

    Raises:
        ValueError: If the kind is unknown.
    """
    return make_flow(
        kind,
        shape,
        layers=architecture.flow_layers,
        width=architecture.flow_width,
        depth=architecture.flow_depth,
        knots=architecture.flow_knots,
        key=key,
    )

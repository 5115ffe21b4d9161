"""What an energy-based flow is made of, as plain values."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import PRNGKeyArray

from flowebm.models.ebflow import EBFlow
from flowebm.models.ebflow_architectures import (
    convolutional_ebflow,
    coupling_ebflow,
    fully_connected_ebflow,
    glow_ebflow,
)
from flowebm.options import Count, check_options
from flowebm.refusal import Refused


@dataclass(frozen=True)
class EBFlowArchitecture:
    """The shape of an energy-based flow.

    Attributes:
        architecture: `coupling`: linear layers, couplings and act-norms, for tables; `fc`: full
            linear layers and activations; `cnn`: convolutions and activations; `glow`: 1x1
            convolutions and convolutional couplings. `auto` is `coupling` for tables of two
            columns or more, and `fc` otherwise.
        n_blocks: Blocks of `coupling`, linear layers of `fc`, blocks of `cnn`, steps of a level
            of `glow`; each has its own default (10, 2, 3, 16).
        linear: Kind of the linear layers of `fc`.
        transformer: What the couplings of `coupling` do to a column: an affine map, a rational
            quadratic spline, or the map of a mixture of logistics. Mixtures fit large tables
            better, affine maps small ones, and splines mislead `ssm` and `exact`.
        whiten: Whether `fc`, `cnn` and `glow` whiten the data first; costs one matrix product of
            the points a step, and no gradient.
        conditioner_width: Units or channels of a coupling's hidden layers; by default 64 for
            `coupling` and 512 for `glow`.
    """

    architecture: Literal["auto", "coupling", "fc", "cnn", "glow"] = "auto"
    n_blocks: Count | None = None
    linear: Literal["full", "lower", "upper", "lu"] = "full"
    transformer: Literal["affine", "spline", "logistic-mixture"] = "affine"
    whiten: bool = True
    conditioner_width: Count | None = None

    def __post_init__(self):
        check_options(self)


def build_ebflow(
    architecture: EBFlowArchitecture, shape: tuple[int, ...], *, key: PRNGKeyArray
) -> EBFlow:
    """Build an energy-based flow, untrained.

    Args:
        architecture: What to build.
        shape: Shape of one point.
        key: Random key of the initial weights.

    Returns:
        The flow; start its act-norms and its whitening by `initialized`.

    Raises:
        ValueError: If the architecture does not fit the points.
    """
    kind = architecture.architecture
    if kind == "auto":
        kind = "coupling" if len(shape) == 1 and shape[0] > 1 else "fc"
    if kind in ("cnn", "glow") and len(shape) != 3:
        raise Refused(
            f"The architecture {kind} is for images of shape (channels, height, width); points "
            f"here have shape {shape}: choose coupling or fc, or give the shape of an image."
        )
    blocks, width = architecture.n_blocks, architecture.conditioner_width
    if kind == "coupling":
        if len(shape) != 1 or shape[0] < 2:
            raise Refused(
                f"The architecture coupling is for points of two columns or more; got {shape}: "
                "choose fc."
            )
        return coupling_ebflow(
            key,
            shape[0],
            transformer=architecture.transformer,
            **_given(n_blocks=blocks, width=width),
        )
    if kind == "fc":
        return fully_connected_ebflow(
            shape,
            linear=architecture.linear,
            whiten=architecture.whiten,
            **_given(n_linear=blocks),
        )
    if kind == "cnn":
        return convolutional_ebflow(shape, whiten=architecture.whiten, **_given(n_blocks=blocks))
    return glow_ebflow(
        key, shape, whiten=architecture.whiten, **_given(n_steps=blocks, width=width)
    )


def _given(**choices):
    """The choices that are not `None`, which leaves the others to the builder's defaults."""
    return {name: value for name, value in choices.items() if value is not None}

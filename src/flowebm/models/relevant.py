"""Models that spend themselves on the coordinates which matter."""

from math import prod
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from flowjax.bijections import Chain, Concatenate, Identity, Reshape
from flowjax.distributions import AbstractDistribution, StandardNormal, Transformed
from jaxtyping import Array, Float

from flowebm.models.linear_change import LinearChange
from flowebm.models.tilts import MLPTilt

#: The scale at which a tilt sees the coordinates that seem not to matter.
IDLE_SCALE = 0.1


def relevant_flow(flow: AbstractDistribution, change: LinearChange) -> Transformed:
    r"""A flow on the first coordinates of $z$, and a normal on the others, taken to $x = Mz + m$.

    What is Gaussian is left to a Gaussian, which 100 coordinates hardly make harder to fit; the
    flow has the few others to itself, and costs what it costs in these.

    Args:
        flow: A flow over the first $k$ coordinates, from a standard normal.
        change: The change of coordinates; it is not trained.

    Returns:
        The density over points $x$.
    """
    k, size = flow.shape[0], prod(change.shape)
    bijection = cast(Transformed, flow).bijection
    if k < size:
        bijection = Concatenate([bijection, Identity((size - k,))])
    if len(change.shape) > 1:
        bijection = Reshape(bijection, change.shape)
    return Transformed(
        StandardNormal(change.shape), Chain([bijection, paramax.non_trainable(change)])
    )


def in_front(flow: AbstractDistribution, known: AbstractDistribution) -> Transformed:
    r"""A flow in the latents of another: $q(x) = q_1(T^{-1}(x))\, |\det \nabla T^{-1}(x)|$.

    What the other has learned is nothing but a normal there.

    Args:
        flow: $q_1$, over latents of the points' shape.
        known: The other, a standard normal taken through $T$.

    Returns:
        The density over points $x$.

    Source: Papamakarios et al. (2021), *Normalizing flows for probabilistic modeling and
    inference*, section 2.1.
    """
    flow, known = cast(Transformed, flow), cast(Transformed, known)
    return Transformed(flow.base_dist, Chain([flow.bijection, known.bijection]))


class ShrunkWeight(paramax.AbstractUnwrappable[Array]):
    r"""The weight $W A$ of a linear map $W$ that sees its input through a fixed matrix $A$.

    A product of parameters, so that batches pay nothing for it. Scaling the initial $W$ instead
    would be undone at once by optimizers that are indifferent to the scale of gradients.

    Args:
        weight: $W$, shape `(out, D)`.
        matrix: $A$, shape `(D, D)`; it is not trained.
    """

    weight: Float[Array, "out d"] | paramax.AbstractUnwrappable[Array]
    matrix: Array | paramax.NonTrainable

    def __init__(self, weight: Array | paramax.AbstractUnwrappable[Array], matrix: Array):
        self.weight = weight
        self.matrix = paramax.NonTrainable(matrix)

    def unwrap(self) -> Array:
        # paramax unwraps from the leaves to the root: both are arrays by now.
        return jnp.asarray(self.weight) @ jnp.asarray(self.matrix)


def shrink_idle(tilt: MLPTilt, change: LinearChange, k: int, scale: float = IDLE_SCALE) -> MLPTilt:
    r"""The tilt that sees all but the first $k$ coordinates of $z = M^{-1}(x - m)$ shrunken.

    $$U(x) \mapsto U(M S M^{-1} x), \qquad S = \operatorname{diag}(1, \dots, 1, s, \dots, s)$$

    In many coordinates a network memorises noise in each before it finds the few that matter.
    Shrunken, the others cost it many steps to use and remain at its disposal.

    Args:
        tilt: The network.
        change: The change of coordinates, $M$ and $m$.
        k: Coordinates that keep their scale.
        scale: $s$; with 0 the tilt does not see the others, and its first weights are enlarged by
            $\sqrt{D / k}$, to those of a network with $k$ inputs. Such a tilt can be shrunken
            again, to another scale: it is then the same function, and sees them from there on.

    Returns:
        The tilt, with a weight that is a product in its first layer.

    Source: as a soft form of the reduction in Zahm et al. (2022), *Certified dimension reduction
    in nonlinear Bayesian inverse problems*.
    """
    size = change.matrix.shape[0]
    scales = jnp.where(jnp.arange(size) < k, 1.0, scale)
    matrix = jax.lax.stop_gradient((change.matrix * scales) @ change.inverse_matrix)

    # Too narrow a first layer does not find modes.
    gain = 1.0 if scale else (size / k) ** 0.5

    def shrink(weight: Array | paramax.AbstractUnwrappable[Array]) -> ShrunkWeight:
        # Not a product of three, in which what was shrunken to nothing would stay so.
        if isinstance(weight, ShrunkWeight) and isinstance(weight.weight, jax.Array):
            weight = cast(Array, paramax.unwrap(weight))
        return ShrunkWeight(jax.tree.map(lambda w: gain * w, weight), matrix)

    return eqx.tree_at(lambda t: t.layers[0].weight, tilt, replace_fn=shrink)

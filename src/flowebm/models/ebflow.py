"""Energy-based normalizing flows."""

from typing import ClassVar, Self

import equinox as eqx
import paramax
from flowjax.distributions import AbstractDistribution, StandardNormal
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from flowebm.layers import AbstractLayer, Chain
from flowebm.models.energy import AbstractEnergyModel
from flowebm.refusal import Refused


class EBFlow(AbstractEnergyModel, AbstractDistribution):
    r"""A flow $g$ to latents, read as an energy model whose normaliser is known.

    $$E(x) = -\log p_u(g(x)) - \sum_{i \in S_n} \log|\det J_i(x)|, \qquad
      \log Z = -\sum_{i \in S_l} \log|\det J_i|,$$

    $\log p(x) = -E(x) - \log Z$, where the Jacobians of the layers $S_l$ do not depend on the
    input and those of $S_n$ do. The energy computes no determinant of a layer in $S_l$, so a
    score-matching step costs $O(D^2 L)$ with full linear layers.

    It is a flowjax distribution as well: `log_prob`, `sample` and `sample_and_log_prob`.

    Args:
        layers: $g_1, \dots, g_L$; the first is applied to the data first.
        latent: $p_u$, over points of the last layer's `out_shape`; a standard normal if not
            given.

    Raises:
        TypeError: If a layer is not a flowebm layer.
        ValueError: If the layers' shapes, or the latent's, do not fit, or the latent is
            conditional.

    Source: Chao et al. (2023), section 4.1.
    """

    chain: Chain
    latent: AbstractDistribution
    cond_shape: ClassVar[None] = None

    def __init__(self, layers, latent: AbstractDistribution | None = None):
        self.chain = Chain(layers)
        self.latent = StandardNormal(self.chain.out_shape) if latent is None else latent
        if self.latent.cond_shape is not None:
            raise Refused("The latent of an EBFlow must be unconditional.")
        if self.latent.shape != self.chain.out_shape:
            raise Refused(
                f"The layers return points of shape {self.chain.out_shape}, but the latent has "
                f"shape {self.latent.shape}: make them equal."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.chain.shape

    @property
    def layers(self) -> tuple[AbstractLayer, ...]:
        """The layers, from data to latents."""
        return self.chain.layers

    def energy(self, x: Float[Array, "..."]) -> Scalar:
        model = paramax.unwrap(self)
        u, log_det = model.chain.forward_and_data_dependent_log_det(x)
        return -model.latent._log_prob(u) - log_det

    def log_normalizer(self) -> Scalar:
        r"""$\log Z$ in nats, exactly: the determinants that the energy leaves out."""
        return -paramax.unwrap(self).chain.constant_log_det()

    def to_latent(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The latent $g(x)$ of one point."""
        return paramax.unwrap(self).chain.forward(x)

    def from_latent(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """The point $g^{-1}(u)$ of one latent."""
        return paramax.unwrap(self).chain.inverse(u)

    def initialized(self, batch: Float[Array, "batch ..."]) -> Self:
        """The model with act-norms and whitening started from data, of shape `(n, *shape)`."""
        return eqx.tree_at(lambda model: model.chain, self, self.chain.initialized(batch))

    def _log_prob(self, x: Array, condition: Array | None = None) -> Scalar:
        return -self.energy(x) - self.log_normalizer()

    def _sample(self, key: PRNGKeyArray, condition: Array | None = None) -> Array:
        return self.from_latent(self.latent._sample(key))

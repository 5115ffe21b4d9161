"""The multi-scale architecture: half of the channels leave early."""

from math import prod
from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Scalar

from flowebm.layers.affine_coupling import AffineCoupling
from flowebm.layers.chain import Chain
from flowebm.layers.layer import AbstractCompositeLayer
from flowebm.refusal import Refused


class SplitPrior(AbstractCompositeLayer):
    r"""Sends the first half of the channels on through `rest`, the second half straight out.

    $y = (h(x_1),\; (x_2 - \mu(x_1)) / \sigma(x_1))$, flattened. Under a standard normal
    latent this is Glow's learnt prior $p(x_2 | x_1) = N(\mu(x_1), \sigma(x_1)^2)$.

    Args:
        prior: The coupling that standardises $x_2$ given $x_1$.
        rest: $h$: the layers of the coarser scales, for points of the shape of $x_1$.

    Raises:
        ValueError: If `rest` does not take the half that `prior` keeps.

    Source: Dinh, Sohl-Dickstein, Bengio (2017), section 3.6; Kingma, Dhariwal (2018).
    """

    prior: AffineCoupling
    rest: Chain

    def __init__(self, prior: AffineCoupling, rest: Chain):
        self.prior = prior
        self.rest = rest
        half = (self.prior.n_kept, *self.shape[1:])
        if self.rest.shape != half:
            raise Refused(
                f"A SplitPrior of shape {self.shape} sends points of shape {half} on, but its "
                f"rest takes {self.rest.shape}."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.prior.shape

    @property
    def out_shape(self) -> tuple[int, ...]:
        return (prod(self.shape),)

    def forward_and_data_dependent_log_det(
        self, x: Float[Array, "..."]
    ) -> tuple[Float[Array, " d"], Scalar]:
        x, prior_log_det = self.prior.forward_and_log_det(x)
        kept, done = x[: self.prior.n_kept], x[self.prior.n_kept :]
        kept, rest_log_det = self.rest.forward_and_data_dependent_log_det(kept)
        return jnp.concatenate([kept.ravel(), done.ravel()]), prior_log_det + rest_log_det

    def constant_log_det(self) -> Scalar:
        return self.rest.constant_log_det()

    def inverse(self, y: Float[Array, " d"]) -> Float[Array, "..."]:
        n = prod(self.rest.out_shape)
        kept = self.rest.inverse(y[:n].reshape(self.rest.out_shape))
        done = y[n:].reshape(self.shape[0] - self.prior.n_kept, *self.shape[1:])
        return self.prior.inverse(jnp.concatenate([kept, done]))

    def initialized(self, batch: Float[Array, "batch ..."]) -> Self:
        kept = jax.vmap(paramax.unwrap(self.prior).forward)(batch)[:, : self.prior.n_kept]
        return eqx.tree_at(lambda layer: layer.rest, self, self.rest.initialized(kept))

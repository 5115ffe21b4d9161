"""The three kinds of invertible layer, told apart by where their log-determinant goes."""

from abc import abstractmethod
from typing import Self

import equinox as eqx
from equinox import AbstractVar
from jaxtyping import Array, Float, Scalar


class AbstractLayer(eqx.Module):
    r"""An invertible map $y = g(x)$ of one point; `jax.vmap` belongs to the caller.

    A layer is abstract in one of three ways and every concrete layer picks one, which says
    in which half of $\log p(x) = -E(x) - \log Z$ its log-determinant belongs:
    `AbstractConstantJacobianLayer` ($\log Z$), `AbstractDataDependentLayer` ($E$), or
    `AbstractCompositeLayer` (made of layers of both kinds).

    Parameters may be wrapped by paramax (`paramax.non_trainable`); the models unwrap them, and
    a layer used on its own is unwrapped by `paramax.unwrap(layer)`.

    Attributes:
        shape: Shape of one input.

    Source: Chao et al. (2023), section 4.1.
    """

    shape: AbstractVar[tuple[int, ...]]

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of one output."""
        return self.shape

    @abstractmethod
    def forward(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The output $g(x)$, of shape `out_shape`, of one input of shape `shape`."""

    @abstractmethod
    def inverse(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        """The input $g^{-1}(y)$, of shape `shape`, of one output of shape `out_shape`."""

    def initialized(self, batch: Float[Array, "batch ..."]) -> Self:
        """The layer as it starts from a first batch of its inputs; most layers ignore it."""
        return self


class AbstractConstantJacobianLayer(AbstractLayer):
    r"""A layer whose Jacobian is the same at every input, so that it belongs in $\log Z$.

    `forward` never computes the determinant: score matching never asks for it.
    """

    @abstractmethod
    def log_det(self) -> Scalar:
        r"""$\log|\det \partial g / \partial x|$, in nats; it does not depend on $x$."""


class AbstractDataDependentLayer(AbstractLayer):
    """A layer whose Jacobian varies with the input, so that it belongs in the energy."""

    @abstractmethod
    def forward_and_log_det(self, x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Scalar]:
        r"""The output and $\log|\det \partial g / \partial x|$ (nats) at one input."""

    def forward(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.forward_and_log_det(x)[0]


class AbstractCompositeLayer(AbstractLayer):
    """A layer made of layers of both kinds, which keeps their log-determinants apart."""

    @abstractmethod
    def forward_and_data_dependent_log_det(
        self, x: Float[Array, "..."]
    ) -> tuple[Float[Array, "..."], Scalar]:
        """The output and the summed log-determinants (nats) of the data-dependent layers."""

    @abstractmethod
    def constant_log_det(self) -> Scalar:
        """The summed log-determinants (nats) of the constant-Jacobian layers inside."""

    def forward(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.forward_and_data_dependent_log_det(x)[0]

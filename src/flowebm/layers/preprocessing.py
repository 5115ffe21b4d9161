"""A preprocessing of the data as the first layer of a flow."""

from flowjax.bijections import AbstractBijection
from jaxtyping import Array, Float, Scalar

from flowebm.layers.layer import AbstractDataDependentLayer


class Preprocessing(AbstractDataDependentLayer):
    r"""A bijection of the data, such as `Standardise` or `LogitPixels`, as a layer.

    In front of an EBFlow's layers it makes a density of the data in their own units, and an
    energy with the preprocessing's $\log|\det J|$ in it. Score matching of that energy is what
    *match after preprocessing* avoids: there the flow is fitted to preprocessed points.

    Args:
        bijection: A flowjax bijection from data to preprocessed points, without condition.

    Source: Chao et al. (2023), section 4.2 (MaP).
    """

    bijection: AbstractBijection

    # Written out because type checkers take the abstract attribute for the first field.
    def __init__(self, bijection: AbstractBijection):
        self.bijection = bijection

    @property
    def shape(self) -> tuple[int, ...]:
        return self.bijection.shape

    def forward_and_log_det(self, x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Scalar]:
        return self.bijection.transform_and_log_det(x)

    def inverse(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.bijection.inverse(y)

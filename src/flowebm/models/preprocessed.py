"""An energy model of standardised points, as a density of the points themselves."""

from flowjax.bijections import AbstractBijection
from jaxtyping import Array, Float, Scalar

from flowebm.models.energy import AbstractEnergyModel


class PreprocessedModel(AbstractEnergyModel):
    r"""A model behind an invertible preprocessing, $E(x) = E_0(f(x)) - \log|\det J_f(x)|$.

    The normaliser is that of the inner model, $Z = Z_0$: densities in the data's own units
    come without further work.

    Args:
        model: The energy model of the preprocessed points.
        preprocessing: The bijection $f$ from data to preprocessed points.

    Source: Papamakarios et al. (2021), *Normalizing flows for probabilistic modeling and
    inference*, section 2.1.
    """

    model: AbstractEnergyModel
    preprocessing: AbstractBijection

    # Written out because type checkers take the abstract attribute for the first field.
    def __init__(self, model: AbstractEnergyModel, preprocessing: AbstractBijection):
        self.model = model
        self.preprocessing = preprocessing

    @property
    def shape(self) -> tuple[int, ...]:
        return self.preprocessing.shape

    def energy(self, x: Float[Array, "..."]) -> Scalar:
        z, log_det = self.preprocessing.transform_and_log_det(x)
        return self.model.energy(z) - log_det

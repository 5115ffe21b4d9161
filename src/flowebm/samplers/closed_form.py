"""Stacks of mixtures of Gaussians: conditional draws and marginal densities without error."""

from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
import paramax
from jaxtyping import Float

from flowebm.models.bounded import NoTilt
from flowebm.models.energy import AbstractEnergyModel
from flowebm.models.marginals import Marginals
from flowebm.models.stack import Stack, closed_form
from flowebm.models.tilted import EnergyModel
from flowebm.samplers.gap_mixture import GapMixture

#: Numbers that the covariances of all components given a part of the rows take at most.
MOST_NUMBERS = 10_000_000


class ClosedForm(NamedTuple):
    r"""$\sum_j s_j\, q_j(x)$ of mixtures of Gaussians $q_j$, behind marginal transforms or not.

    Attributes:
        log_shares: $\log s_j$.
        parts: The mixtures, each with the transform in front of it; `None` where there is none.
    """

    log_shares: Float[np.ndarray, " parts"]
    parts: tuple[tuple[GapMixture, Marginals | None], ...]

    @classmethod
    def of(cls, model: AbstractEnergyModel) -> Self | None:
        """That of a model.

        Args:
            model: Any model.

        Returns:
            `None` where there is a tilt, or a component is no mixture of Gaussians.
        """
        if not isinstance(model, EnergyModel) or not isinstance(model.tilt, NoTilt):
            return None
        components, log_shares = (model.base,), np.zeros(1)
        if isinstance(model.base, Stack):
            components = model.base.components
            log_shares = np.asarray(paramax.unwrap(model.base.log_shares), np.float64)
        parts = [closed_form(component) for component in components]
        found = [(GapMixture(*m.parameters()), marginals) for m, marginals in filter(None, parts)]
        return cls(log_shares, tuple(found)) if len(found) == len(parts) else None

    def log_prob(self, rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Log-density of the entries that are there, nats.

        Args:
            rows: Rows, NaN where an entry is missing.
        """
        found = [np.logaddexp.reduce(self._log_joint(part), axis=0) for part in self._split(rows)]
        return np.concatenate(found) if found else np.zeros(0)

    def fill(
        self, rng: np.random.Generator, rows: Float[np.ndarray, "n d"]
    ) -> Float[np.ndarray, "n d"]:
        """Independent draws in the place of missing entries, given the others.

        Args:
            rng: Source of the draws.
            rows: Rows, NaN where an entry is missing.
        """
        found = [self._filled(rng, part) for part in self._split(rows)]
        return np.concatenate(found) if found else rows

    def _split(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Some rows at a time, as memory allows."""
        most = max(len(mixture.weights) for mixture, _ in self.parts) * rows.shape[1] ** 2
        size = max(1, MOST_NUMBERS // most)
        return (rows[start : start + size] for start in range(0, len(rows), size))

    def _log_joint(self, rows: np.ndarray) -> Float[np.ndarray, "parts n"]:
        joint = []
        for log_share, (mixture, marginals) in zip(self.log_shares, self.parts, strict=True):
            z, log_det = (rows, 0.0) if marginals is None else marginals.transform_rows(rows)
            joint.append(log_share + mixture.log_prob(z) + log_det)
        return np.stack(joint)

    def _filled(self, rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
        joint = self._log_joint(rows)
        # The largest of log-weights with Gumbel noise is a draw in proportion to the weights.
        chosen = np.argmax(joint + rng.gumbel(size=joint.shape), axis=0)
        filled = rows.copy()
        for number, (mixture, marginals) in enumerate(self.parts):
            mine = chosen == number
            if marginals is None:
                filled[mine] = mixture.fill(rng, rows[mine]).rows
            elif mine.any():
                z = mixture.fill(rng, marginals.transform_rows(rows[mine])[0]).rows
                drawn = marginals.inverse_rows(z)
                filled[mine] = np.where(np.isnan(rows[mine]), drawn, rows[mine])
        return filled

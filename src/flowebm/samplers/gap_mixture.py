"""A mixture of normals fitted to rows with gaps, and what it draws into them."""

from math import log, tau
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Float

from flowebm.models.expectation_maximisation import centres, em, responsibilities

#: Components that are tried, rows that they are fitted to at most, and the share that chooses.
COMPONENTS, MOST_ROWS, CHOOSING = (1, 2, 4, 8, 16), 5000, 0.2

#: The gain in nats a row of a step of the EM algorithm below which it ends.
LEAST_GAIN = 1e-3

#: Rows of a component's covariance that are those of a narrow normal, and its variance.
PRIOR_ROWS, PRIOR_VARIANCE = 2.0, 0.05


class Filled(NamedTuple):
    """Rows without gaps.

    Attributes:
        rows: The rows, with draws in the place of what was missing.
        log_q: Log-density of these draws given the rest of each row.
    """

    rows: Float[np.ndarray, "n d"]
    log_q: Float[np.ndarray, " n"]


class _Given(NamedTuple):
    """What each component says of each row's missing entries."""

    log_joint: Float[np.ndarray, "n k"]
    means: Float[np.ndarray, "k n d"]
    covariances: Float[np.ndarray, "k n d d"]


class GapMixture(NamedTuple):
    r"""$\sum_k w_k\, \mathcal N(\mu_k, \Sigma_k)$, of which rows may lack entries.

    Attributes:
        weights: $w_k$.
        means: $\mu_k$.
        covariances: $\Sigma_k$.
    """

    weights: Float[np.ndarray, " k"]
    means: Float[np.ndarray, "k d"]
    covariances: Float[np.ndarray, "k d d"]

    @classmethod
    def fit(cls, rng: np.random.Generator, rows: Float[np.ndarray, "n d"]) -> Self:
        """The mixture under which the entries that are there are likeliest, held out.

        Args:
            rng: Source of the choice of rows and of the starts.
            rows: Rows, NaN where an entry is missing; none without any entry.

        Returns:
            The mixture.

        Source: Ghahramani and Jordan (1994), *Supervised learning from incomplete data via an EM
        approach*.
        """
        some = rng.permutation(rows)[:MOST_ROWS]
        n_choosing = max(2, round(CHOOSING * len(some)))
        chooses, fits = some[:n_choosing], some[n_choosing:]
        best, highest = None, -np.inf
        for k in COMPONENTS:
            if k > 1 and len(fits) < 5 * k * rows.shape[1]:
                break
            mixture = cls._of(rng, fits, k)
            likelihood = float(mixture.log_prob(chooses).mean())
            if likelihood <= highest:
                break
            best, highest = mixture, likelihood
        assert best is not None
        return best

    @classmethod
    def _of(cls, rng: np.random.Generator, rows: np.ndarray, k: int) -> Self:
        mean, sd = np.nanmean(rows, axis=0), np.maximum(np.nanstd(rows, axis=0), 1e-3)
        prior = np.diag(PRIOR_VARIANCE * sd**2)
        filled = np.where(np.isnan(rows), mean, rows)
        width = np.diag(sd**2) * (1.0 if k == 1 else 0.5)
        start = cls(
            np.full(k, 1 / k),
            centres(rng, filled / sd, k) * sd,
            np.tile(width, (k, 1, 1)),
        )

        def step(mixture: Self) -> tuple[Self, float]:
            given = mixture._given(rows)
            belongs, log_prob = responsibilities(given.log_joint)
            counts = belongs.sum(axis=0) + 1e-9
            means = np.einsum("nk,knd->kd", belongs, given.means) / counts[:, None]
            apart = given.means - means[:, None]
            scatter = np.einsum("nk,knd,kne->kde", belongs, apart, apart)
            scatter += np.einsum("nk,knde->kde", belongs, given.covariances)
            shrunk = (scatter + PRIOR_ROWS * prior) / (counts + PRIOR_ROWS)[:, None, None]
            return cls(counts / counts.sum(), means, shrunk), log_prob.mean()

        return em(step, start, tolerance=LEAST_GAIN)

    def log_prob(self, rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Log-density of the entries that are there.

        Args:
            rows: Rows, NaN where an entry is missing.
        """
        return responsibilities(self._given(rows).log_joint)[1]

    def fill(
        self, rng: np.random.Generator, rows: Float[np.ndarray, "n d"], *, wide: float = 0.0
    ) -> Filled:
        """Draws in the place of missing entries, given the others.

        Args:
            rng: Source of the draws.
            rows: Rows, NaN where an entry is missing.
            wide: Share of the draws that are of components twice as wide, for importance weights
                of finite variance.
        """
        missing = np.isnan(rows)
        given = self._given(rows)
        n = len(rows)
        belongs = responsibilities(given.log_joint)[0].T
        chosen = (np.cumsum(belongs, axis=0) < rng.random(n) * belongs.sum(axis=0)).sum(axis=0)
        chosen = np.minimum(chosen, len(self.weights) - 1)
        # The entries that are there have no part: a unit variance, and the factor's other
        # columns are zero.
        eye = np.eye(rows.shape[1])
        both = missing[:, :, None] & missing[:, None, :]
        covariances = np.where(both, given.covariances, eye)
        factors = np.linalg.cholesky(covariances)
        scale = np.where(rng.random(n) < wide, 2.0, 1.0)
        noise = rng.normal(size=rows.shape) * missing * scale[:, None]
        at = np.arange(n)
        moved = given.means[chosen, at] + np.einsum("nde,ne->nd", factors[chosen, at], noise)
        filled = np.where(missing, moved, rows)
        apart = np.where(missing, filled - given.means, 0.0)
        z = np.linalg.solve(factors, apart[..., None])[..., 0]
        squares = (z**2).sum(axis=-1)
        log_det = np.log(np.diagonal(factors, axis1=-2, axis2=-1)).sum(axis=-1)
        size = missing.sum(axis=1)
        log_normal = -log_det - 0.5 * size * log(tau)
        with np.errstate(divide="ignore"):
            mixed = np.logaddexp(
                np.log1p(-wide) - 0.5 * squares,
                np.log(wide) - squares / 8 - size * log(2.0),
            )
            log_q = np.logaddexp.reduce(np.log(belongs) + log_normal + mixed, axis=0)
        return Filled(filled, log_q)

    def _given(self, rows: np.ndarray) -> _Given:
        missing = np.isnan(rows)
        there: Bool[np.ndarray, "n d d"] = ~missing[:, :, None] & ~missing[:, None, :]
        eye = np.eye(rows.shape[1])
        log_joint, means, covariances = [], [], []
        for weight, mean, covariance in zip(*self, strict=True):
            # Missing entries are independent of the others here, with a unit variance.
            observed = np.where(there, covariance, eye)
            apart = np.where(missing, 0.0, rows - mean)
            solved = np.linalg.solve(observed, apart[..., None])[..., 0]
            log_det = np.linalg.slogdet(observed)[1]
            size = (~missing).sum(axis=1)
            log_normal = -0.5 * ((apart * solved).sum(axis=1) + log_det + size * log(tau))
            log_joint.append(np.log(weight) + log_normal)
            means.append(np.where(missing, mean + solved @ covariance, rows))
            # Of missing entries alone; those that are there have no variance.
            crossed = np.where(missing[:, None, :], covariance, 0.0)
            crossed = np.where(missing[:, :, None], 0.0, crossed)
            explained = np.einsum("nde,ndf->nef", crossed, np.linalg.solve(observed, crossed))
            both = missing[:, :, None] & missing[:, None, :]
            covariances.append(np.where(both, covariance - explained, 0.0))
        return _Given(np.transpose(log_joint), np.array(means), np.array(covariances))

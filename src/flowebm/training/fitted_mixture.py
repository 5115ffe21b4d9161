"""Mixtures of normals with tails, fitted to weighted points in each of their modes."""

from typing import NamedTuple

import numpy as np
from scipy.special import gammaln, logsumexp

from flowebm.models.elliptical_mixture import EllipticalMixture

#: Share and scale of the heavy-tailed part of a component.
TAIL_FRACTION, TAIL_SCALE, TAIL_DF = 0.15, 1.5, 4

#: Components of a mode that are tried, fewest first, and iterations of EM.
COMPONENTS = (1, 2, 4, 8, 16, 32)
EM_STEPS = 25

#: How much the mean log-density of points left out must rise for more components, in nats.
SMALLEST_GAIN = 0.01

#: Numbers of components that distributions are padded to: each compiles programs of its own.
PADDED = (8, 32, 128)


class Mixture(NamedTuple):
    r"""A mixture on the host, of components that belong to modes.

    Attributes:
        weights: Adding up to one, of shape `(K,)`.
        means: Of shape `(K, d)`.
        factors: Lower triangular factors of the covariances, of shape `(K, d, d)`.
        mode: Which mode each component is of; -1 for none.
    """

    weights: np.ndarray
    means: np.ndarray
    factors: np.ndarray
    mode: np.ndarray

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Independent draws, one a row, those of a component one after the other."""
        counts = rng.multinomial(n, self.weights)
        d = self.means.shape[1]
        normal = rng.standard_normal((n, d))
        radius = TAIL_SCALE * np.sqrt(TAIL_DF / rng.chisquare(TAIL_DF, n))
        normal *= np.where(rng.random(n) < TAIL_FRACTION, radius, 1.0)[:, None]
        parts = np.split(normal, np.cumsum(counts)[:-1])
        drawn = [m + p @ f.T for m, f, p in zip(self.means, self.factors, parts, strict=True)]
        return np.concatenate(drawn).astype(np.float32)

    def components_log_prob(self, x: np.ndarray) -> np.ndarray:
        r"""$\log w_k$ and the component's log-density, of shape `(n, K)`."""
        d = x.shape[1]
        scale = TAIL_DF * TAIL_SCALE**2
        tail = gammaln((TAIL_DF + d) / 2) - gammaln(TAIL_DF / 2) - 0.5 * d * np.log(scale * np.pi)
        squares = _squares(np.asarray(x, float), self.means, self.factors)
        log_prob = np.logaddexp(
            np.log1p(-TAIL_FRACTION) - 0.5 * squares - 0.5 * d * np.log(2 * np.pi),
            np.log(TAIL_FRACTION) + tail - 0.5 * (TAIL_DF + d) * np.log1p(squares / scale),
        )
        with np.errstate(divide="ignore"):
            return log_prob + np.log(self.weights) - _log_dets(self.factors)

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(logsumexp(self.components_log_prob(x), axis=1))

    def modes_of(self, x: np.ndarray) -> np.ndarray:
        """The mode of each point: that of the component which is likeliest to have made it."""
        own = np.flatnonzero(self.mode >= 0)
        return self.mode[own[np.argmax(self.components_log_prob(x)[:, own], axis=1)]]

    def with_wide(self, mean: np.ndarray, sd: np.ndarray, share: float) -> "Mixture":
        """The mixture with one more component, of no mode."""
        return Mixture(
            np.append(self.weights * (1 - share), share),
            np.concatenate([self.means, mean[None]]),
            np.concatenate([self.factors, np.diag(sd)[None]]),
            np.append(self.mode, -1),
        )

    def distribution(self) -> EllipticalMixture:
        """The same density for compiled programs, with components of weight zero added."""
        k = len(self.weights)
        missing = next((n for n in PADDED if n >= k), k) - k

        def pad(leaf, value):
            return np.concatenate([leaf, np.repeat(value[None], missing, axis=0)])

        return EllipticalMixture(
            np.concatenate([self.weights, np.zeros(missing)]),
            pad(self.means, self.means[0]),
            pad(self.factors, self.factors[0]),
            tail_fraction=TAIL_FRACTION,
            tail_scale=TAIL_SCALE,
        )


def fit_mixture(
    rng: np.random.Generator,
    points: np.ndarray,
    labels: np.ndarray,
    peaks: list[tuple[np.ndarray, np.ndarray]],
    shares: np.ndarray,
) -> Mixture:
    r"""Fit each mode's own mixture by EM, of as many components as points left out ask for.

    Args:
        rng: Random numbers.
        points: Draws of the target, one a row; copies allowed.
        labels: The mode of each.
        peaks: A point and a covariance of each mode, which stand for it where it has no points.
        shares: The mixture's weight of each mode.

    Returns:
        The mixture.
    """
    parts = []
    d = points.shape[1]
    for mode, (peak, covariance) in enumerate(peaks):
        own = points[labels == mode]
        if len(np.unique(own[:, 0])) < 2 * (d + 1):
            fitted = (np.ones(1), peak[None], np.linalg.cholesky(covariance)[None])
        else:
            fitted = _fit_mode(rng, own)
        parts.append((shares[mode] * fitted[0], *fitted[1:], np.full(len(fitted[0]), mode)))
    weights, means, factors, modes = (np.concatenate(p) for p in zip(*parts, strict=True))
    return Mixture(weights / weights.sum(), means, factors, modes)


def _fit_mode(rng, points):
    points = points[rng.permutation(len(points))].astype(float)
    # Copies of a point stay together, so that points left out are new.
    _, first = np.unique(points, axis=0, return_inverse=True)
    left_out = first.ravel() % 3 == 0
    train, held = points[~left_out], points[left_out]
    best, best_score = _em(rng, train, 1), -np.inf
    for k in COMPONENTS:
        if k > 1 and len(train) < 4 * k * (points.shape[1] + 1):
            break
        fitted = _em(rng, train, k)
        score = np.mean(logsumexp(_normals(held, *fitted), axis=1)) if len(held) else 0.0
        if k > 1 and score < best_score + SMALLEST_GAIN:
            break
        best, best_score = fitted, score
    return best


def _squares(x, means, factors):
    """Squared distances of points to components, each in its own metric: shape `(n, K)`."""
    k, d = means.shape
    inverse = np.linalg.inv(factors)
    standard = x @ inverse.reshape(k * d, d).T - np.einsum("kij,kj->ki", inverse, means).ravel()
    return np.sum(standard.reshape(-1, k, d) ** 2, axis=2)


def _log_dets(factors):
    return np.log(np.abs(np.diagonal(factors, axis1=1, axis2=2))).sum(axis=1)


def _normals(x, weights, means, factors):
    constant = np.log(weights) - _log_dets(factors) - 0.5 * x.shape[1] * np.log(2 * np.pi)
    return constant - 0.5 * _squares(x, means, factors)


def _em(rng, x, k):
    """Weights, means and factors after EM from centres that lie apart."""
    n, d = x.shape
    whole = _definite(np.cov(x.T, bias=True).reshape(d, d))
    scaled = (x - x.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(whole)).T
    # k-means++ in whitened coordinates.
    picks = [rng.integers(n)]
    distances = np.sum((scaled - scaled[picks[0]]) ** 2, axis=1)[None]
    for _ in range(k - 1):
        nearest = distances.min(axis=0)
        total = nearest.sum()
        picks.append(rng.choice(n, p=nearest / total) if total > 0 else rng.integers(n))
        latest = np.sum((scaled - scaled[picks[-1]]) ** 2, axis=1)
        distances = np.concatenate([distances, latest[None]])
    shares = np.eye(k)[np.argmin(distances, axis=0)]
    # A little of the mode's own covariance keeps components of few points definite.
    prior = whole * k ** (-2 / d)
    for _ in range(EM_STEPS if k > 1 else 1):
        mass = shares.sum(axis=0) + 1e-10
        weights = (mass + 1e-3) / (mass + 1e-3).sum()
        means = shares.T @ x / mass[:, None]
        # Moments about the common mean, so that little is lost by the difference.
        centred = x - x.mean(axis=0)
        weighted = (shares.T[:, :, None] * centred).transpose(0, 2, 1) @ centred
        offset = means - x.mean(axis=0)
        weighted -= mass[:, None, None] * offset[:, :, None] * offset[:, None, :]
        factors = _factors((weighted + prior) / (mass + 1)[:, None, None])
        if k > 1:
            log_shares = _normals(x, weights, means, factors)
            log_shares -= log_shares.max(axis=1, keepdims=True)
            shares = np.exp(log_shares)
            shares /= shares.sum(axis=1, keepdims=True)
    return weights, means, factors


def _factors(covariances):
    try:
        return np.linalg.cholesky(covariances)
    except np.linalg.LinAlgError:
        return np.linalg.cholesky(np.stack([_definite(c) for c in covariances]))


def _definite(covariance):
    """The nearest matrix whose correlations a factor exists of."""
    sd = np.sqrt(np.maximum(np.diag(covariance), 1e-30))
    correlation = covariance / sd / sd[:, None]
    values, vectors = np.linalg.eigh((correlation + correlation.T) / 2)
    if values[0] > 1e-8:
        return covariance
    return (vectors * np.maximum(values, 1e-8)) @ vectors.T * sd * sd[:, None]

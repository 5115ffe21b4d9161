"""Mixtures of normals with tails, fitted to weighted points in each of their modes."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.linalg import solve_triangular
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
        mode: Which mode each component is of.
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
        n, d = x.shape
        out = np.empty((n, len(self.weights)))
        scale = TAIL_DF * TAIL_SCALE**2
        tail = gammaln((TAIL_DF + d) / 2) - gammaln(TAIL_DF / 2) - 0.5 * d * np.log(scale * np.pi)
        for k, (weight, mean, factor) in enumerate(
            zip(self.weights, self.means, self.factors, strict=True)
        ):
            squares = np.sum(solve_triangular(factor, (x - mean).T, lower=True) ** 2, axis=0)
            out[:, k] = np.logaddexp(
                np.log1p(-TAIL_FRACTION) - 0.5 * squares - 0.5 * d * np.log(2 * np.pi),
                np.log(TAIL_FRACTION) + tail - 0.5 * (TAIL_DF + d) * np.log1p(squares / scale),
            )
            with np.errstate(divide="ignore"):
                out[:, k] += np.log(weight) - np.log(np.abs(np.diag(factor))).sum()
        return out

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        return logsumexp(self.components_log_prob(x), axis=1)

    def modes_of(self, x: np.ndarray) -> np.ndarray:
        """The mode of each point: that of the component which is likeliest to have made it."""
        return self.mode[np.argmax(self.components_log_prob(x), axis=1)]

    def distribution(self) -> EllipticalMixture:
        """The same density for compiled programs, with components of weight zero added."""
        k = len(self.weights)
        missing = next((n for n in PADDED if n >= k), k) - k
        pad = lambda leaf, value: np.concatenate([leaf, np.repeat(value[None], missing, axis=0)])
        return EllipticalMixture(
            jnp.asarray(np.concatenate([self.weights, np.zeros(missing)])),
            jnp.asarray(pad(self.means, self.means[0])),
            jnp.asarray(pad(self.factors, self.factors[0])),
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
    best, best_score = 1, -np.inf
    for k in COMPONENTS:
        if k > 1 and len(train) < 4 * k * (points.shape[1] + 1):
            break
        fitted = _em(rng, train, k)
        score = _normals(held, *fitted)
        score = float(np.mean(logsumexp(score, axis=1))) if len(held) else -np.inf
        if k > 1 and score < best_score + SMALLEST_GAIN:
            break
        best, best_score = k, score
    return _em(rng, points, best)


def _normals(x, weights, means, factors):
    d = x.shape[1]
    columns = []
    for weight, mean, factor in zip(weights, means, factors, strict=True):
        squares = np.sum(solve_triangular(factor, (x - mean).T, lower=True) ** 2, axis=0)
        log_det = np.log(np.diag(factor)).sum()
        columns.append(np.log(weight + 1e-300) - 0.5 * squares - log_det)
    return np.stack(columns, axis=1) - 0.5 * d * np.log(2 * np.pi)


def _em(rng, x, k):
    """Weights, means and factors after EM from centres that lie apart."""
    n, d = x.shape
    whole = np.cov(x.T, bias=True).reshape(d, d)
    whole += np.diag(1e-9 * np.diag(whole) + 1e-30)
    whole = _definite(whole)
    scaled = solve_triangular(np.linalg.cholesky(whole), (x - x.mean(0)).T, lower=True).T
    # k-means++ in whitened coordinates.
    centres = [rng.integers(n)]
    distance = np.sum((scaled - scaled[centres[0]]) ** 2, axis=1)
    for _ in range(k - 1):
        total = distance.sum()
        pick = rng.choice(n, p=distance / total) if total > 0 else rng.integers(n)
        centres.append(pick)
        distance = np.minimum(distance, np.sum((scaled - scaled[pick]) ** 2, axis=1))
    nearest = np.argmin(
        np.stack([np.sum((scaled - scaled[c]) ** 2, axis=1) for c in centres]), axis=0
    )
    resp = np.eye(k)[nearest]
    prior = whole * k ** (-2 / d)
    for step in range(EM_STEPS if k > 1 else 1):
        mass = resp.sum(0) + 1e-10
        weights = (mass + 1e-3) / (mass + 1e-3).sum()
        means = resp.T @ x / mass[:, None]
        factors = np.empty((k, d, d))
        for j in range(k):
            centred = x - means[j]
            covariance = (centred * resp[:, j : j + 1]).T @ centred
            # A little of the mode's own covariance keeps components of few points definite.
            covariance = (covariance + prior) / (mass[j] + 1)
            factors[j] = np.linalg.cholesky(_definite(covariance))
        if k == 1:
            break
        log_resp = _normals(x, weights, means, factors)
        resp = np.exp(log_resp - logsumexp(log_resp, axis=1, keepdims=True))
    return weights, means, factors


def _definite(covariance):
    """The nearest matrix whose correlations a factor exists of."""
    sd = np.sqrt(np.maximum(np.diag(covariance), 1e-30))
    correlation = covariance / sd / sd[:, None]
    values, vectors = np.linalg.eigh((correlation + correlation.T) / 2)
    if values[0] > 1e-8:
        return covariance
    return (vectors * np.maximum(values, 1e-8)) @ vectors.T * sd * sd[:, None]

"""Mixtures of normals with tails, fitted to weighted points in each of their modes."""

from contextlib import suppress
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln, logsumexp

from flowebm.models.elliptical_mixture import EllipticalMixture
from flowebm.models.expectation_maximisation import (
    Moments,
    Parameters,
    Whitening,
    centres,
    em,
    squared_distances,
)

#: Share and scale of the heavy-tailed part of a component.
TAIL_FRACTION, TAIL_SCALE, TAIL_DF = 0.15, 1.5, 4

#: Components of a mode that are tried after one, fewest first, and iterations of EM at most.
COMPONENTS = (2, 4, 8, 16, 32)
EM_STEPS = 25

#: Products of coordinates at all points up to which several components are tried: 256 MB.
MOST_PRODUCTS = 1 << 25

#: Variance of a mode's standardised coordinates that a direction is whitened by at least: draws
#: are in single precision.
LEAST_VARIANCE = 1e-8

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
        inverse_factors = np.linalg.inv(self.factors)
        squares = squared_distances(np.asarray(x, float), self.means, inverse_factors)
        log_dets = np.log(np.abs(np.diagonal(inverse_factors, axis1=1, axis2=2))).sum(axis=1)
        log_prob = np.logaddexp(
            np.log1p(-TAIL_FRACTION) - 0.5 * squares - 0.5 * d * np.log(2 * np.pi),
            np.log(TAIL_FRACTION) + tail - 0.5 * (TAIL_DF + d) * np.log1p(squares / scale),
        )
        with np.errstate(divide="ignore"):
            return log_prob + np.log(self.weights) + log_dets

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(logsumexp(self.components_log_prob(x), axis=1))

    def modes_of(self, x: np.ndarray) -> np.ndarray:
        """The mode of each point: that of the component which is likeliest to have made it."""
        own = np.flatnonzero(self.mode >= 0)
        return self.mode[own[np.argmax(self.components_log_prob(x)[:, own], axis=1)]]

    def with_components(
        self, weights: np.ndarray, means: np.ndarray, factors: np.ndarray
    ) -> "Mixture":
        """The mixture with more components, of no mode."""
        return Mixture(
            np.concatenate([self.weights * (1 - weights.sum()), weights]),
            np.concatenate([self.means, means]),
            np.concatenate([self.factors, factors]),
            np.concatenate([self.mode, np.full(len(weights), -1)]),
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
            fitted = _fit_mode(rng, own, peak, covariance)
        parts.append((shares[mode] * fitted[0], *fitted[1:], np.full(len(fitted[0]), mode)))
    weights, means, factors, modes = (np.concatenate(p) for p in zip(*parts, strict=True))
    return Mixture(weights / weights.sum(), means, factors, modes)


def _fit_mode(rng, points, peak, laplace):
    points = points[rng.permutation(len(points))].astype(float)
    # Copies of a point stay together, so that points left out are new.
    _, first = np.unique(points, axis=0, return_inverse=True)
    left_out = first.ravel() % 3 == 0
    train, d = points[~left_out], points.shape[1]
    even = np.full(len(train), 1 / len(train))
    whitening = Whitening.of(train, even, LEAST_VARIANCE)
    z, held_out = whitening(train), whitening(points[left_out])
    # A point's worth of the mode's own covariance keeps components of few points definite.
    prior = 1 / len(z)
    covariance = np.cov(z, rowvar=False, bias=True).reshape(1, d, d)
    best = Parameters(np.ones(1), np.zeros((1, d)), (covariance + prior * np.eye(d)) / (1 + prior))
    highest = _mean_log_normal(held_out, best)
    # Of a mode that is nearly normal its peak says more than points in many coordinates.
    of_peak = whitening(peak[None]), whitening.matrix @ laplace[None] @ whitening.matrix.T
    of_peak = Parameters(np.ones(1), *of_peak)
    with suppress(np.linalg.LinAlgError):
        if (score := _mean_log_normal(held_out, of_peak)) > highest:
            best, highest = of_peak, score
    most = len(z) // (4 * (d + 1)) if z.size * d < 2 * MOST_PRODUCTS else 1
    if most >= COMPONENTS[0]:
        moments, judging = Moments.of(z), Moments.of(held_out)
    for k in (number for number in COMPONENTS if number <= most):
        # Of single draws more lie far out, where proposals must reach; their components take all
        # steps to get there.
        seeds = centres(rng, z, k, 1)
        nearest = np.argmin((seeds**2).sum(axis=1) - 2 * z @ seeds.T, axis=1)
        first = moments.parameters(np.eye(k)[nearest] * even[:, None], prior=prior)
        found = em(moments.step, first, even, 0.0, prior, iterations=EM_STEPS, tolerance=-np.inf)
        score = judging.log_prob(found).mean()
        if score < highest + SMALLEST_GAIN:
            break
        best, highest = found, score
    weights, means, covariances = whitening.back(best)
    return weights, means, np.linalg.cholesky(covariances)


def _mean_log_normal(points, of_one: Parameters) -> float:
    """The mean log-density of a mixture of one component."""
    factor = np.linalg.cholesky(of_one.covariances[0])
    squares = squared_distances(points, of_one.means, np.linalg.inv(factor)[None])
    log_det, d = np.log(np.diag(factor)).sum(), points.shape[1]
    return float(-0.5 * squares.mean() - log_det - 0.5 * d * np.log(2 * np.pi))

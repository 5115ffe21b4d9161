"""Mixtures of Gaussians by the EM algorithm, in double precision; nothing here is compiled."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

P = TypeVar("P")


class Parameters(NamedTuple):
    """A mixture of Gaussians in numbers.

    Attributes:
        weights: Of the components, adding up to one.
        means: One a component.
        covariances: Of full rank.
    """

    weights: Float[np.ndarray, " k"]
    means: Float[np.ndarray, "k d"]
    covariances: Float[np.ndarray, "k d d"]


class Whitening(NamedTuple):
    r"""$z = W (x - m)$ with $W \hat\Sigma W^\top = I$, in double precision."""

    mean: Float[np.ndarray, " d"]
    matrix: Float[np.ndarray, "d d"]
    inverse: Float[np.ndarray, "d d"]

    @classmethod
    def of(
        cls,
        points: Float[np.ndarray, "n d"],
        weights: Float[np.ndarray, " n"],
        least: float = 1e-14,
    ) -> "Whitening":
        """The whitening of points, whatever their columns' units.

        Args:
            points: The points.
            weights: How much they count, adding up to one.
            least: Variance of the standardised columns, as a share of the largest, below which
                directions have no spread and are left as they are.
        """
        covariance = np.atleast_2d(np.cov(points, rowvar=False, bias=True, aweights=weights))
        sd = np.sqrt(np.diag(covariance) + (np.diag(covariance) == 0))
        variances, directions = np.linalg.eigh(covariance / sd / sd[:, None])
        scales = np.sqrt(np.maximum(variances, least * variances[-1]))
        inverse = sd[:, None] * directions * scales
        return cls(weights @ points, directions.T / scales[:, None] / sd, inverse)

    def __call__(self, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        return (points - self.mean) @ self.matrix.T

    def back(self, fitted: Parameters) -> Parameters:
        """The mixture of points that whitened ones have."""
        means = fitted.means @ self.inverse.T + self.mean
        return Parameters(fitted.weights, means, self.inverse @ fitted.covariances @ self.inverse.T)


class Moments(NamedTuple):
    r"""Points as $\phi(x) = (1, x, \{x_i x_j\}_{i \le j})$, in which EM is linear.

    The log-densities of all components at all points are one matrix product, and so are the
    moments that the next parameters are made of: twenty times as fast as a loop over components
    for a hundred of them in ten columns.

    Attributes:
        features: One row a point.
        pairs: $i$ and $j$ of the products.
    """

    features: Float[np.ndarray, "n f"]
    pairs: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, points: Float[np.ndarray, "n d"]) -> "Moments":
        """The features of points."""
        # Contiguous in points: twice as fast to make.
        columns = np.ascontiguousarray(points.T)
        products = [column * columns[i:] for i, column in enumerate(columns)]
        features = np.vstack([np.ones((1, len(points))), columns, *products])
        return cls(features.T, np.triu_indices(len(columns)))

    def log_densities(self, parameters: Parameters) -> Float[np.ndarray, "n k"]:
        r"""$\log w_k \mathcal N(x; \mu_k, \Sigma_k)$ of every point and component."""
        weights, means, covariances = parameters
        factors = np.linalg.inv(np.linalg.cholesky(covariances))
        precisions = np.swapaxes(factors, 1, 2) @ factors
        linear = np.einsum("kij,kj->ki", precisions, means)
        log_dets = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
        constant = np.log(weights) + log_dets - 0.5 * means.shape[1] * np.log(2 * np.pi)
        constant -= 0.5 * (linear * means).sum(axis=1)
        products = np.where(np.equal(*self.pairs), -0.5, -1.0) * precisions[:, *self.pairs]
        return self.features @ np.hstack([constant[:, None], linear, products]).T

    def log_prob(self, parameters: Parameters) -> Float[np.ndarray, " n"]:
        """The mixture's log-density at every point."""
        return responsibilities(self.log_densities(parameters))[1]

    def parameters(
        self, shares: Float[np.ndarray, "n k"], ridge: float = 0.0, prior: float = 0.0
    ) -> Parameters:
        r"""The parameters of highest posterior density, given the points' shares in components.

        $$\Sigma_k = \frac{n_k S_k + \nu\, K^{-2/d} I}{n_k + \nu} + \rho I$$

        Args:
            shares: Of each point in each component, times weights of the points; all add up to one.
                $n_k$ is a component's sum, and $S_k$ the covariance.
            ridge: $\rho$, what is added to every variance.
            prior: $\nu$, a pseudo-count that keeps components of few whitened points definite: the
                weight, beside that of all points, of a ball of which $K$ fill the unit ball.
        """
        moments = shares.T @ self.features
        k, d = len(moments), self.pairs[1][-1] + 1
        total = np.maximum(moments[:, :1], 1e-10)
        means = moments[:, 1 : d + 1] / total
        covariances = np.empty((k, d, d))
        covariances[:, *self.pairs] = moments[:, d + 1 :] / total
        covariances[:, *self.pairs[::-1]] = moments[:, d + 1 :] / total
        covariances -= means[:, :, None] * means[:, None, :]
        own = (total / (total + prior))[..., None]
        added = (1 - own) * k ** (-2 / d) + ridge
        return Parameters(total[:, 0] / total.sum(), means, own * covariances + added * np.eye(d))

    def step(
        self,
        parameters: Parameters,
        row_weights: Float[np.ndarray, " n"],
        ridge: float = 0.0,
        prior: float = 0.0,
    ) -> tuple[Parameters, float]:
        """A step of `em`, for weights of the points that add up to one.

        Raises:
            numpy.linalg.LinAlgError: If a component has collapsed.
        """
        shares, log_prob = responsibilities(self.log_densities(parameters))
        shares *= row_weights[:, None]
        return self.parameters(shares, ridge, prior), float(row_weights @ log_prob)


def squared_distances(
    points: Float[np.ndarray, "n d"],
    means: Float[np.ndarray, "k d"],
    inverse_factors: Float[np.ndarray, "k d d"],
) -> Float[np.ndarray, "n k"]:
    r"""$|L_k^{-1} (x - \mu_k)|^2$ of every point and component."""
    squares = np.empty((len(means), len(points)))
    for row, mean, inverse_factor in zip(squares, means, inverse_factors, strict=True):
        z = (points - mean) @ inverse_factor.T
        np.einsum("nd,nd->n", z, z, out=row)
    return squares.T


def responsibilities(
    log_joint: Float[np.ndarray, "n k"],
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, " n"]]:
    r"""Each component's probability given the point, and the point's log-density.

    Args:
        log_joint: $\log w_k p_k(x)$.
    """
    highest = log_joint.max(axis=1, keepdims=True)
    shares = np.exp(log_joint - highest)
    total = shares.sum(axis=1, keepdims=True)
    shares /= total
    return shares, (highest + np.log(total))[:, 0]


def em(
    step: Callable[..., tuple[P, float]],
    start: P,
    *args: Any,
    iterations: int = 60,
    tolerance: float = 3e-4,
) -> P:
    """The EM algorithm.

    Args:
        step: Makes the next parameters of the last, and says what mean log-density those gave.
        start: Parameters to start from.
        *args: More arguments of `step`.
        iterations: Steps at most.
        tolerance: Nats that a step must gain for another to follow.

    Returns:
        The parameters after convergence.

    Source: Dempster, Laird and Rubin (1977), *Maximum likelihood from incomplete data via the EM
    algorithm*.
    """
    parameters, before = start, -np.inf
    for _ in range(iterations):
        parameters, mean = step(parameters, *args)
        if mean - before < tolerance:
            break
        before = mean
    return parameters


def centres(
    rng: np.random.Generator, points: Float[np.ndarray, "n d"], k: int, tries: int | None = None
) -> Float[np.ndarray, "k d"]:
    """Points far apart, by k-means++.

    Args:
        rng: Random numbers.
        points: Points to choose from.
        k: How many.
        tries: Draws for each, of which the one that leaves the others nearest is taken; by default
            two and the logarithm of `k`.

    Source: Arthur and Vassilvitskii (2007), *k-means++: the advantages of careful seeding*.
    """
    squares = np.einsum("nd,nd->n", points, points)

    def distances(rows: np.ndarray) -> Float[np.ndarray, "r n"]:
        apart = squares - 2 * points[rows] @ points.T + squares[rows, None]
        return np.maximum(apart, 1e-300)

    chosen = [rng.integers(len(points))]
    nearest = distances(np.array(chosen))[0]
    for _ in range(k - 1):
        tried = rng.choice(len(points), tries or 2 + int(np.log(k)), p=nearest / nearest.sum())
        left = np.minimum(nearest, distances(tried))
        best = np.argmin(left.sum(axis=1))
        chosen.append(tried[best])
        nearest = left[best]
    return points[chosen]

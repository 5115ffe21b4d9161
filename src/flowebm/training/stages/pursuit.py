"""A mixture of Gaussians of many columns, started from the few directions that are not Gaussian."""

import numpy as np
from jaxtyping import Float

from flowebm.models.expectation_maximisation import Parameters, Whitening, em
from flowebm.models.gaussian_mixture import GaussianMixture, gaussian_mixture_of
from flowebm.training.stages.mixtures import RIDGE, fit_mixture

#: Starts of the search for a direction at columns or axes, and at random, its steps, and the cosine
#: between two of them where it ends.
STARTS, STEPS, CONVERGED = 3, 60, 1 - 1e-6

#: Standard errors, and nats, that a mixture of a direction's values gains on held-out points where
#: the direction is not Gaussian.
SIGNIFICANCE, LEAST_GAIN = 3.0, 0.005

#: Directions at most: with more, those beside them are hardly Gaussian.
MOST_DIRECTIONS = 8

#: Rows that directions are searched for in, at most.
MOST_ROWS = 20_000

#: Steps of EM with all columns at most, from components that are told apart already.
ITERATIONS = 20


def non_gaussian_directions(
    seed: int,
    points: Float[np.ndarray, "n d"],
    held_out: Float[np.ndarray, "m d"],
    columns: Float[np.ndarray, "c d"],
) -> Float[np.ndarray, "k d"] | None:
    r"""Directions of whitened points that are not Gaussian, each the least so beside the others.

    By FastICA, one after the other: $w \leftarrow \mathbb E[z\, g(w^\top z)] - \mathbb E[g'(w^\top
    z)]\, w$ with $g = \tanh$ or the square has its fixed points where a contrast is extreme. It
    starts at the columns and principal axes of largest negentropy, and at random. A direction
    counts where a mixture of Gaussians of its values gains on held-out points.

    Args:
        seed: Seed of the starts.
        points: Whitened points.
        held_out: Whitened points that directions are judged by.
        columns: Directions to start from: those of the columns.

    Returns:
        Orthonormal rows; `None` where there are none, or so many that the last one found is not
        Gaussian either.

    Source: Hyvärinen (1999), *Fast and robust fixed-point algorithms for independent component
    analysis*.
    """
    rng, d = np.random.default_rng(seed), points.shape[1]
    # Whitened coordinates are along the principal axes.
    starts = np.vstack([columns, np.eye(d), rng.standard_normal((STARTS, d))])
    found = np.zeros((0, d))
    for _ in range(min(MOST_DIRECTIONS, d // 2)):
        direction = _least_gaussian(points, starts, found)
        values, judging = points @ direction[:, None], held_out @ direction[:, None]
        mixture = fit_mixture(seed, values, judging, most_components=4)
        gain = mixture.log_prob_rows(judging)
        # The logarithm of the density of one normal number.
        gain += 0.5 * ((judging[:, 0] - values.mean()) / values.std()) ** 2
        gain += np.log(values.std()) + 0.5 * np.log(2 * np.pi)
        if gain.mean() < max(LEAST_GAIN, SIGNIFICANCE * gain.std() / len(gain) ** 0.5):
            return found if len(found) else None
        found = np.vstack([found, direction])
    return None


def _least_gaussian(points: np.ndarray, starts: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The direction of largest negentropy, perpendicular to those found."""

    def perpendicular(w):
        w = w - (w @ found.T) @ found
        return w / np.linalg.norm(w, axis=-1, keepdims=True)

    # What lies along those found has nothing left.
    rest = starts - (starts @ found.T) @ found
    lengths = np.linalg.norm(rest, axis=1) / np.linalg.norm(starts, axis=1)
    starts = perpendicular(starts[lengths > 0.1])
    negentropies = _negentropies(points @ starts.T)
    some = np.vstack([starts[np.argsort(-negentropies)[:STARTS]], starts[-STARTS:]])
    ends = [*some]
    for start in some:
        # Of what is skewed tanh sees nothing, and the square nothing of what is not.
        for is_square in (False, True):
            w = start
            for _ in range(STEPS):
                y = points @ w
                values, slopes = (y**2, 2 * y) if is_square else (t := np.tanh(y), 1 - t**2)
                before = w
                w = perpendicular(points.T @ values / len(points) - slopes.mean() * w)
                if abs(before @ w) > CONVERGED:
                    break
            ends.append(w)
    return ends[int(np.argmax(_negentropies(points @ np.transpose(ends))))]


def _negentropies(values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " k"]:
    r"""How far from normal numbers of mean 0 and variance 1 are, in each column.

    $\frac{36}{8\sqrt3 - 9} (\mathbb E\, y e^{-y^2/2})^2 + \frac{1}{2 - 6/\pi} (\mathbb E |y| -
    \sqrt{2/\pi})^2$, nats.

    Source: Hyvärinen (1998), *New approximations of differential entropy*.
    """
    odd = (values * np.exp(-0.5 * values**2)).mean(axis=0)
    even = np.abs(values).mean(axis=0) - (2 / np.pi) ** 0.5
    return 36 / (8 * 3**0.5 - 9) * odd**2 + even**2 / (2 - 6 / np.pi)


def pursue_mixture(
    seed: int, points: Float[np.ndarray, "n d"], validation: Float[np.ndarray, "m d"]
) -> GaussianMixture | None:
    """A mixture of all columns whose components are told apart along few directions.

    Starts at random would not tell them apart: in a hundred columns most of the distance between
    two points is noise. A mixture of the directions that are not Gaussian says which point belongs
    to which component, and EM goes on from there with all columns; held-out points choose whether
    components have covariances of their own.

    Args:
        seed: Seed of the starts.
        points: Training points, one a row.
        validation: Validation points.

    Returns:
        The mixture; `None` where there is no such direction, or where there are many.

    Source: Blanchard et al. (2006), *In search of non-Gaussian components of a high-dimensional
    distribution*.
    """
    even = np.full(len(points), 1 / len(points))
    whitening = Whitening.of(points, even)
    z, z_validation = whitening(points), whitening(validation)
    # Directions show on some rows as well as on a million.
    some = np.random.default_rng(seed).permutation(len(z))[:MOST_ROWS]
    searched = z if len(some) == len(z) else z[some]
    directions = non_gaussian_directions(seed, searched, z_validation, whitening.inverse)
    if directions is None:
        return None
    along, judging = z @ directions.T, z_validation @ directions.T
    lens = fit_mixture(seed, along, judging, most_components=8)
    belongs = lens.responsibilities(along)[0]
    fits = [_of_all_columns(z, belongs, rows) for rows in (points.shape[1], np.inf)]
    best = max(fits, key=lambda fit: gaussian_mixture_of(*fit).log_prob_rows(z_validation).mean())
    return gaussian_mixture_of(*whitening.back(best))


def _of_all_columns(z: np.ndarray, belongs: np.ndarray, prior_rows: float) -> Parameters:
    """EM of all columns, each covariance with that within all components for some more rows."""

    def maximised(belongs: np.ndarray) -> Parameters:
        counts = belongs.sum(axis=0) + 1e-6
        means = belongs.T @ z / counts[:, None]
        centred = ((z - mean, share) for mean, share in zip(means, belongs.T, strict=True))
        scatters = np.array([part.T @ (share[:, None] * part) for part, share in centred])
        within = scatters.sum(axis=0) / len(z) + RIDGE * np.eye(z.shape[1])
        own = (counts / (counts + prior_rows))[:, None, None]
        covariances = own * scatters / counts[:, None, None] + (1 - own) * within
        return Parameters(counts / counts.sum(), means, covariances)

    def step(fitted: Parameters) -> tuple[Parameters, float]:
        belongs, log_prob = gaussian_mixture_of(*fitted).responsibilities(z)
        return maximised(belongs), float(log_prob.mean())

    return em(step, maximised(belongs), iterations=ITERATIONS)

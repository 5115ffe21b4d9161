"""Mixtures of Gaussians by the EM algorithm, in double precision; nothing here is compiled."""

import math
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Float

from flowebm.models.gaussian_mixture import GaussianMixture, gaussian_mixture_of

#: Rows up to which cross-validation chooses, because a tenth of them could not.
FEW_ROWS = 1000

#: Mixtures that cross-validation tries, fewest components first, and what it adds to variances.
FEW_COMPONENTS = (1, 2, 3, 4, 5, 7, 10)
RIDGES = (1e-1, 1e-2, 1e-3, 1e-4)

#: Ridges that follow while each is better than all before: clusters far narrower than the table.
FINER_RIDGES = (1e-6, 1e-8, 1e-10)

#: Larger mixtures that may be worse before no more are tried, and components up to which numbers
#: between the doubled ones are.
PATIENCE, HALF_WAY = 1, 32

#: Folds of the cross-validation, and starts of the chosen mixture's fit.
N_FOLDS, N_STARTS = 5, 5

#: Starts of mixtures of few components where rows are many, at least and at most (the fewer there
#: are the more: one start in three misses one of four), the columns from which more cost too much,
#: and the rows that choose one.
STARTS, MANY_COLUMNS, SOME_ROWS = (3, 8), 16, 4000

#: Standard errors that fewer components may cost, the best being the luckiest of several, and nats
#: at most, where single points make the standard error large.
ERRORS, MOST_LOSS = 2.0, 0.01

#: Components that are tried whatever fewer were worth.
LEAST_TRIED = 8

#: What is added to variances of whitened points where rows are many: enough for single points, and
#: so little that clusters narrower than a thousandth of the table's width keep theirs.
RIDGE, LEAST_RIDGE = 1e-6, 1e-8

#: Iterations of EM, and nats a row that one must gain for another to follow.
ITERATIONS, TOLERANCE = 60, 3e-4


class MixtureFit(NamedTuple):
    """A fitted mixture.

    Attributes:
        mixture: The density over points.
        components: Its number of Gaussians.
    """

    mixture: GaussianMixture
    components: int


class Whitening(NamedTuple):
    r"""$z = W (x - m)$ with $W \hat\Sigma W^\top = I$, in double precision."""

    mean: Float[np.ndarray, " d"]
    matrix: Float[np.ndarray, "d d"]
    inverse: Float[np.ndarray, "d d"]

    @classmethod
    def of(cls, points: Float[np.ndarray, "n d"], weights: Float[np.ndarray, " n"]) -> "Whitening":
        """The whitening of points; directions without any spread are left as they are."""
        mean = weights @ points
        covariance = np.cov(points, rowvar=False, bias=True, aweights=weights)
        variances, directions = np.linalg.eigh(np.atleast_2d(covariance))
        scales = np.sqrt(np.maximum(variances, 1e-14 * variances[-1]))
        return cls(mean, directions.T / scales[:, None], directions * scales)

    def __call__(self, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        return (points - self.mean) @ self.matrix.T

    def back(self, fitted: "Parameters") -> "Parameters":
        """The mixture of points that whitened ones have."""
        means = fitted.means @ self.inverse.T + self.mean
        return Parameters(fitted.weights, means, self.inverse @ fitted.covariances @ self.inverse.T)


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


class Moments(NamedTuple):
    r"""Points as $\phi(x) = (1, x, \{x_i x_j\}_{i \le j})$, in which EM is linear.

    The log-densities of all components at all points are one matrix product, and so are the
    moments that the next parameters are made of: twenty times as fast as a loop over components
    for a hundred of them in ten columns.

    Attributes:
        features: One row a point.
        rows: $i$ of the products.
        columns: $j$ of them.
    """

    features: Float[np.ndarray, "n f"]
    rows: np.ndarray
    columns: np.ndarray

    @classmethod
    def of(cls, points: Float[np.ndarray, "n d"]) -> "Moments":
        """The features of points."""
        rows, columns = np.triu_indices(points.shape[1])
        products = points[:, rows] * points[:, columns]
        return cls(np.hstack([np.ones((len(points), 1)), points, products]), rows, columns)

    def log_densities(self, parameters: Parameters) -> Float[np.ndarray, "n k"]:
        r"""$\log w_k \mathcal N(x; \mu_k, \Sigma_k)$ of every point and component."""
        weights, means, covariances = parameters
        d = means.shape[1]
        factors = np.linalg.inv(np.linalg.cholesky(covariances))
        precisions = np.swapaxes(factors, 1, 2) @ factors
        linear = np.einsum("kij,kj->ki", precisions, means)
        log_dets = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
        constant = np.log(weights) + log_dets - 0.5 * d * np.log(2 * np.pi)
        constant -= 0.5 * (linear * means).sum(axis=1)
        products = -precisions[:, self.rows, self.columns] * np.where(
            self.rows == self.columns, 0.5, 1.0
        )
        return self.features @ np.hstack([constant[:, None], linear, products]).T

    def parameters(self, shares: Float[np.ndarray, "n k"], ridge: float) -> Parameters:
        """The parameters of highest likelihood, given each point's shares in the components."""
        moments = shares.T @ self.features
        d = self.features.shape[1] - 1 - len(self.rows)
        total = np.maximum(moments[:, :1], 1e-10)
        means = moments[:, 1 : d + 1] / total
        covariances = np.empty((len(means), d, d))
        covariances[:, self.rows, self.columns] = moments[:, d + 1 :] / total
        covariances[:, self.columns, self.rows] = moments[:, d + 1 :] / total
        covariances -= means[:, :, None] * means[:, None, :]
        return Parameters(total[:, 0] / total.sum(), means, covariances + ridge * np.eye(d))


def em(
    moments: Moments, start: Parameters, row_weights: Float[np.ndarray, " n"], ridge: float
) -> Parameters:
    """The EM algorithm, in double precision.

    Args:
        moments: The points' features.
        start: Parameters to start from.
        row_weights: How much the points count, adding up to one.
        ridge: What is added to every variance.

    Returns:
        The parameters after convergence.

    Raises:
        numpy.linalg.LinAlgError: If a component has collapsed.

    Source: Dempster, Laird and Rubin (1977), *Maximum likelihood from incomplete data via the EM
    algorithm*.
    """
    parameters, before = start, -np.inf
    for _ in range(ITERATIONS):
        log_densities = moments.log_densities(parameters)
        highest = log_densities.max(axis=1, keepdims=True)
        shares = np.exp(log_densities - highest)
        total = shares.sum(axis=1, keepdims=True)
        mean = row_weights @ (highest + np.log(total))[:, 0]
        parameters = moments.parameters(shares * (row_weights[:, None] / total), ridge)
        if mean - before < TOLERANCE:
            break
        before = mean
    return parameters


def mean_log_density(
    moments: Moments, parameters: Parameters, row_weights: Float[np.ndarray, " n"]
) -> float:
    """The weighted mean log-density of points, nats."""
    log_densities = moments.log_densities(parameters)
    return float(row_weights @ np.logaddexp.reduce(log_densities, axis=1))


def fit_mixture(
    seed: int,
    points: Float[np.ndarray, "n d"],
    validation: Float[np.ndarray, "m d"],
    *,
    weights: Float[np.ndarray, " n"] | None = None,
    validation_weights: Float[np.ndarray, " m"] | None = None,
    least_components: int = 1,
    most_components: int = 128,
    gap: float = -math.inf,
    out_of_time: Callable[[], bool] = lambda: False,
) -> MixtureFit:
    """The mixture of Gaussians that held-out rows choose.

    Points are whitened first, so that what is added to variances is relative to them. Where rows
    are many the number of components is doubled while validation points gain, and then tried
    half-way to both neighbours. Where they are few, it and the ridge are chosen by five-fold
    cross-validation of the training rows.

    Args:
        seed: Seed of the starts.
        points: Training points, one a row.
        validation: Validation points, one a row.
        weights: How much the training points count; all alike by default.
        validation_weights: How much the validation points count.
        least_components: Components that are tried first, where rows are many.
        most_components: Components at most.
        gap: Nats a row that a mixture of `least_components` is behind another density: where rows
            are many, it ends when twice as many, and so on, will not come up to that.
        out_of_time: Whether no further mixture is to be tried.

    Returns:
        The mixture of fewest components within two standard errors of the best.

    Source: Breiman et al. (1984) for the standard error; Smyth (2000), *Model selection for
    probabilistic clustering using cross-validated likelihood*.
    """
    from threadpoolctl import threadpool_limits

    counts, held_out_counts = (
        np.ones(len(x)) if w is None else np.asarray(w, np.float64)
        for x, w in ((points, weights), (validation, validation_weights))
    )
    counts, held_out_counts = counts / counts.sum(), held_out_counts / held_out_counts.sum()
    whitening = Whitening.of(points, counts)
    z, z_validation = whitening(points), whitening(validation)
    # Products as small as these take many times as long in threads that wait for each other, where
    # the machine has other work.
    with threadpool_limits(1):
        if len(points) <= FEW_ROWS:
            fitted = _by_cross_validation(seed, z, counts, most_components, out_of_time)
        else:
            fitted = _by_doubling(
                seed,
                (z, z_validation),
                (counts, held_out_counts),
                (least_components, most_components),
                gap,
                out_of_time,
            )
    return MixtureFit(gaussian_mixture_of(*whitening.back(fitted)), len(fitted.weights))


def _start(seed: int, points: np.ndarray, weights: np.ndarray, components: int) -> Parameters:
    """Components at centres far apart, as wide as the points that are nearest to each."""
    # Imported here: it takes a while, and other methods have no use for it.
    from sklearn.cluster import kmeans_plusplus

    if components == 1:
        means = weights[None] @ points
    else:
        rng = np.random.default_rng(seed)
        some = rng.choice(len(points), min(len(points), 50 * components), p=weights)
        means, _ = kmeans_plusplus(points[some], components, random_state=seed)
    d = points.shape[1]
    # Of whitened points: each component has its share of the unit ball.
    width = max(components ** (-2 / d), 0.05)
    covariances = np.broadcast_to(width * np.eye(d), (len(means), d, d))
    return Parameters(np.full(len(means), 1 / len(means)), means, covariances)


def _best_of_starts(
    seed: int,
    moments: Moments,
    points: np.ndarray,
    weights: np.ndarray,
    components: int,
    ridge: float,
    starts: int,
) -> Parameters | None:
    """The likeliest fit of several starts; none if each of them collapsed."""
    fits = []
    for number in range(starts if components > 1 else 1):
        with suppress(np.linalg.LinAlgError):
            start = _start(seed + number, points, weights, components)
            fitted = em(moments, start, weights, ridge)
            fits.append((mean_log_density(moments, fitted, weights), number, fitted))
    return max(fits)[2] if fits else None


def _by_doubling(
    seed: int,
    points: tuple[np.ndarray, np.ndarray],
    weights: tuple[np.ndarray, np.ndarray],
    components: tuple[int, int],
    gap: float,
    out_of_time: Callable[[], bool],
) -> Parameters:
    """The best of twice as many components, and so on, or of those half-way to its neighbours.

    Args:
        seed: Seed of the starts.
        points: Training and validation points.
        weights: How much they count.
        components: Components at the start and at most.
        gap: Nats that the first mixture is behind what the best must come up to.
        out_of_time: Whether no further mixture is to be tried.
    """
    moments, held_out = Moments.of(points[0]), Moments.of(points[1])
    number, most = components
    most = min(most, len(points[0]) // 10)

    # Which start is best shows on some rows as well.
    rng = np.random.default_rng(seed)
    n_some = min(np.count_nonzero(weights[0]), SOME_ROWS)
    some = rng.choice(len(points[0]), n_some, False, weights[0])
    few, of_few = Moments.of(points[0][some]), np.full(len(some), 1 / len(some))

    def n_starts(components: int) -> int:
        is_wide = points[0].shape[1] >= MANY_COLUMNS
        return STARTS[0] if is_wide else int(np.clip(32 // components, *STARTS))

    def fit(components: int, ridge: float) -> _Trial:
        is_small = components <= 2 * LEAST_TRIED
        fitted = _best_of_starts(
            seed,
            few if is_small else moments,
            points[0][some] if is_small else points[0],
            of_few if is_small else weights[0],
            components,
            ridge,
            n_starts(components) if is_small else 1,
        )
        of_held_out = np.full(len(points[1]), -np.inf)
        if fitted is not None:
            with suppress(np.linalg.LinAlgError):
                if is_small:
                    fitted = em(moments, fitted, weights[0], ridge)
                log_densities = held_out.log_densities(fitted)
                of_held_out = np.logaddexp.reduce(log_densities, axis=1)
        return _Trial(float(weights[1] @ of_held_out), -components, of_held_out, fitted)

    def fit_with_ridge(components: int, ridge: float) -> tuple[_Trial, float]:
        found = fit(components, ridge)
        # Clusters that the ridge would blur show where it costs likelihood.
        if ridge == RIDGE and components in (2, LEAST_TRIED):
            finer = fit(components, LEAST_RIDGE)
            if finer.score > found.score + 0.01:
                return finer, LEAST_RIDGE
        return found, ridge

    first, ridge = fit_with_ridge(min(number, max(most, 1)), RIDGE)
    # One component of whitened points does not collapse.
    trials, worse = [first if first.parameters is not None else fit(1, RIDGE)], 0
    while (number := 2 * number) <= most and not out_of_time():
        # What is round may look like one Gaussian to two, but not to eight.
        if worse >= PATIENCE and number > LEAST_TRIED:
            break
        before = max(trials)
        found, ridge = fit_with_ridge(number, ridge)
        worse = 0 if found.score > before.score else worse + 1
        trials.append(found)
        # Twice as many gain less each time: what would not come into reach is not waited for.
        doublings = math.log2(most / number)
        ahead = trials[0].score + gap - found.score
        if number > LEAST_TRIED and ahead > doublings * (found.score - before.score):
            break
    chosen = -max(trials).minus_components
    for number in (3 * chosen // 4, 3 * chosen // 2):
        if 4 <= chosen <= HALF_WAY and number <= most and not out_of_time():
            trials.append(fit(number, ridge))
    best = max(trials)
    enough = [
        trial
        for trial in trials
        if trial.parameters is not None
        and best.score - trial.score
        <= min(MOST_LOSS, ERRORS * _stderr(best.of_held_out - trial.of_held_out, weights[1]))
    ]
    return cast(Parameters, max(enough, key=lambda trial: trial.minus_components).parameters)


class _Trial(NamedTuple):
    """A mixture of a number of components, and what held-out points say of it."""

    score: float
    minus_components: int
    of_held_out: Float[np.ndarray, " m"]
    parameters: Parameters | None

    def __lt__(self, other) -> bool:
        # Of equal scores the fewer components are better.
        return self[:2] < other[:2]

    def __gt__(self, other) -> bool:
        return self[:2] > other[:2]


def _stderr(values: Float[np.ndarray, " m"], weights: Float[np.ndarray, " m"]) -> float:
    """The standard error of a weighted mean, weights adding up to one."""
    return float(np.sqrt(weights**2 @ (values - weights @ values) ** 2))


def _by_cross_validation(
    seed: int,
    points: np.ndarray,
    weights: np.ndarray,
    most_components: int,
    out_of_time: Callable[[], bool],
) -> Parameters:
    """The best number of components and ridge of a few rows, fitted to all of them."""
    n_folds = min(N_FOLDS, len(points))
    folds = np.random.default_rng(seed).permutation(len(points)) % n_folds
    parts = [
        (points[folds != f], weights[folds != f], Moments.of(points[folds != f]),
         Moments.of(points[folds == f]), weights[folds == f])
        for f in range(n_folds)
    ]  # fmt: skip

    def score(components: int, ridge: float) -> float:
        total = 0.0
        for train, of_train, moments, held_out, of_held_out in parts:
            share = of_train / of_train.sum()
            fitted = _best_of_starts(seed, moments, train, share, components, ridge, 1)
            if fitted is None:
                return -np.inf
            total += mean_log_density(held_out, fitted, of_held_out)
        return total

    scores: dict[tuple[int, float], float] = {}
    before = RIDGES[0]
    for ridge in RIDGES + FINER_RIDGES:
        if ridge in FINER_RIDGES and max(scores, key=scores.__getitem__)[1] != before:
            break
        worse, best, before = 0, -np.inf, ridge
        for components in FEW_COMPONENTS:
            is_too_many = components > min(most_components, max(1, len(points) // 4))
            if worse == PATIENCE or is_too_many or (scores and out_of_time()):
                break
            found = scores[components, ridge] = score(components, ridge)
            worse, best = (0, found) if found > best else (worse + 1, best)
    components, ridge = max(scores, key=scores.__getitem__)
    moments = Moments.of(points)
    fitted = _best_of_starts(seed, moments, points, weights, components, ridge, N_STARTS)
    # A ridge keeps a single component from collapsing.
    return cast(
        Parameters, fitted or _best_of_starts(seed, moments, points, weights, 1, RIDGES[0], 1)
    )

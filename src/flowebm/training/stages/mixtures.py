"""The mixture of Gaussians, and the number of them, that held-out rows choose."""

import math
from collections.abc import Callable
from contextlib import suppress
from operator import itemgetter
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from flowebm.models.expectation_maximisation import Moments, Parameters, Whitening, centres, em
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

#: Variances of a scale mixture, as multiples of its covariance, and steps of its EM algorithm.
SCALES, SCALE_STEPS = 4.0 ** np.arange(-1, 6), 20


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
) -> GaussianMixture:
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
    return gaussian_mixture_of(*whitening.back(fitted))


def fit_scale_mixture(
    points: Float[np.ndarray, "n d"], weights: Float[np.ndarray, " n"] | None = None
) -> GaussianMixture:
    r"""One Gaussian at several scales, $\sum_k w_k\, \mathcal N(x; \mu, c_k \Sigma)$, by EM.

    Its tails are as heavy as those of the rows: what a Gaussian takes for impossible, because its
    covariance is that of the many, is improbable. Every scale keeps some weight, a row's among all
    of them.

    Args:
        points: Training points, one a row.
        weights: How much they count; all alike by default.

    Returns:
        The mixture.

    Source: Andrews and Mallows (1974), *Scale mixtures of normal distributions*; Ledoit and Wolf
    (2004) for the covariance.
    """
    from sklearn.covariance import ledoit_wolf

    (n, d), k = points.shape, len(SCALES)
    counts = (
        np.ones(n) if weights is None else n * np.asarray(weights, np.float64) / np.sum(weights)
    )
    whitening = Whitening.of(points, counts / n)
    z = whitening(points)
    mean, covariance, shares = np.median(z, axis=0), np.eye(d), np.full(k, 1 / k)
    for _ in range(SCALE_STEPS):
        squares = ((z - mean) @ np.linalg.inv(np.linalg.cholesky(covariance)).T) ** 2
        log_terms = np.log(shares) - 0.5 * (
            squares.sum(axis=1)[:, None] / SCALES + d * np.log(SCALES)
        )
        belongs = counts[:, None] * softmax(log_terms, axis=1)
        shares = (belongs.sum(axis=0) + 1 / k) / (n + 1)
        precisions = belongs @ (1 / SCALES)
        mean = precisions @ z / precisions.sum()
        scatter = np.sqrt(precisions)[:, None] * (z - mean)
        # Rows in a plane have none across it, nor have most rows where they are all alike.
        covariance = ledoit_wolf(scatter, assume_centered=True)[0] + RIDGE * np.eye(d)
    return gaussian_mixture_of(
        *whitening.back(
            Parameters(shares, np.repeat(mean[None], k, 0), SCALES[:, None, None] * covariance)
        )
    )


def _start(seed: int, points: np.ndarray, weights: np.ndarray, components: int) -> Parameters:
    """Components at centres far apart, each with its share of the unit ball of whitened points."""
    rng, d = np.random.default_rng(seed), points.shape[1]
    some = points[rng.choice(len(points), min(len(points), 50 * components), p=weights)]
    widths = np.full((components, 1, 1), max(components ** (-2 / d), 0.05))
    even = np.full(components, 1 / components)
    return Parameters(even, centres(rng, some, components), widths * np.eye(d))


#: Features of points, the points, and how much they count.
_Data = tuple[Moments, np.ndarray, np.ndarray]


def _best_of_starts(
    seed: int, data: _Data, components: int, ridge: float, starts: int
) -> Parameters | None:
    """The likeliest fit of several starts; none if each of them collapsed."""
    (moments, points, weights), fits = data, []
    for number in range(starts if components > 1 else 1):
        with suppress(np.linalg.LinAlgError):
            start = _start(seed + number, points, weights, components)
            fitted = em(moments.step, start, weights, ridge)
            fits.append((weights @ moments.log_prob(fitted), number, fitted))
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

    is_wide = points[0].shape[1] >= MANY_COLUMNS
    # Which start is best shows on some rows as well.
    rng = np.random.default_rng(seed)
    n_some = min(np.count_nonzero(weights[0]), SOME_ROWS)
    some = rng.choice(len(points[0]), n_some, False, weights[0])
    few = Moments.of(points[0][some]), points[0][some], np.full(len(some), 1 / len(some))

    def fit(components: int, ridge: float) -> _Trial:
        is_small = components <= 2 * LEAST_TRIED
        data = few if is_small else (moments, points[0], weights[0])
        starts = STARTS[0] if is_wide else int(np.clip(32 // components, *STARTS))
        fitted = _best_of_starts(seed, data, components, ridge, starts if is_small else 1)
        of_held_out = np.full(len(points[1]), -np.inf)
        if fitted is not None:
            with suppress(np.linalg.LinAlgError):
                if is_small:
                    fitted = em(moments.step, fitted, weights[0], ridge)
                of_held_out = held_out.log_prob(fitted)
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
        before = max(trials, key=itemgetter(0, 1))
        found, ridge = fit_with_ridge(number, ridge)
        worse = 0 if found.score > before.score else worse + 1
        trials.append(found)
        # Twice as many gain less each time: what would not come into reach is not waited for.
        doublings = math.log2(most / number)
        ahead = trials[0].score + gap - found.score
        if number > LEAST_TRIED and ahead > doublings * (found.score - before.score):
            break
    chosen = -max(trials, key=itemgetter(0, 1)).minus_components
    for number in (3 * chosen // 4, 3 * chosen // 2):
        if 4 <= chosen <= HALF_WAY and number <= most and not out_of_time():
            trials.append(fit(number, ridge))
    best = max(trials, key=itemgetter(0, 1))
    enough = [
        trial
        for trial in trials
        if trial.parameters is not None
        and best.score - trial.score
        <= min(MOST_LOSS, ERRORS * _stderr(best.of_held_out - trial.of_held_out, weights[1]))
    ]
    return cast(Parameters, max(enough, key=lambda trial: trial.minus_components).parameters)


class _Trial(NamedTuple):
    """A mixture, and what held-out points say of it: of equal scores the fewer are better."""

    score: float
    minus_components: int
    of_held_out: Float[np.ndarray, " m"]
    parameters: Parameters | None


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

    def of(rows: np.ndarray) -> _Data:
        return Moments.of(points[rows]), points[rows], weights[rows] / weights[rows].sum()

    parts = [(of(folds != f), Moments.of(points[folds == f]), f) for f in range(n_folds)]

    def score(components: int, ridge: float) -> float:
        total = 0.0
        for train, held_out, f in parts:
            fitted = _best_of_starts(seed, train, components, ridge, 1)
            if fitted is None:
                return -np.inf
            total += float(weights[folds == f] @ held_out.log_prob(fitted))
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
    data = of(np.full(len(points), True))
    fitted = _best_of_starts(seed, data, components, ridge, N_STARTS)
    # A ridge keeps a single component from collapsing.
    return cast(Parameters, fitted or _best_of_starts(seed, data, 1, RIDGES[0], 1))

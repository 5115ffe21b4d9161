"""Mixtures of Gaussians by the EM algorithm, in double precision; nothing here is compiled."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from flowebm.models.gaussian_mixture import GaussianMixture, gaussian_mixture_of

#: Rows up to which cross-validation chooses, because a tenth of them could not.
FEW_ROWS = 1000

#: Mixtures that cross-validation tries, fewest components first, and what it adds to variances.
FEW_COMPONENTS = (1, 2, 3, 4, 5, 7, 10)
RIDGES = (1e-1, 1e-2, 1e-3, 1e-4)

#: Larger mixtures that may be worse before no more are tried.
PATIENCE = 2

#: Folds of the cross-validation, and starts of the chosen mixture's fit.
N_FOLDS, N_STARTS = 5, 5

#: What is added to variances of whitened points where rows are many: enough for single points, and
#: so little that clusters narrower than a thousandth of the table's width keep theirs.
RIDGE, LEAST_RIDGE = 1e-6, 1e-10

#: Iterations of EM, and nats a row that one must gain for another to follow.
ITERATIONS, TOLERANCE = 200, 1e-4


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
    def of(cls, points: Float[np.ndarray, "n d"]) -> "Whitening":
        """The whitening of points; directions without any spread are left as they are."""
        mean = points.mean(axis=0)
        variances, directions = np.linalg.eigh(np.atleast_2d(np.cov(points, rowvar=False)))
        scales = np.sqrt(np.maximum(variances, 1e-14 * variances[-1]))
        return cls(mean, directions.T / scales[:, None], directions * scales)

    def __call__(self, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        return (points - self.mean) @ self.matrix.T

    @property
    def log_det(self) -> float:
        """Of the map, nats."""
        return float(np.linalg.slogdet(self.matrix)[1])


def fit_mixture(
    seed: int,
    points: Float[np.ndarray, "n d"],
    validation: Float[np.ndarray, "m d"],
    *,
    most_components: int = 128,
    out_of_time: Callable[[], bool] = lambda: False,
) -> MixtureFit:
    """The mixture of Gaussians that held-out rows choose.

    Points are whitened first, so that what is added to variances is relative to them. Where rows
    are many the number of components is doubled while validation points gain, and then tried
    half-way to both neighbours. Where they are few, it and the ridge are chosen by five-fold
    cross-validation of the training rows.

    Args:
        seed: Seed of the starts.
        points: Training points, one a row; those that count for more several times.
        validation: Validation points, one a row.
        most_components: Components at most.
        out_of_time: Whether no further mixture is to be tried.

    Returns:
        The best mixture.

    Source: Dempster, Laird and Rubin (1977) for EM; Smyth (2000), *Model selection for
    probabilistic clustering using cross-validated likelihood*.
    """
    whitening = Whitening.of(points)
    z, z_validation = whitening(points), whitening(validation)
    with _quietly():
        if len(points) <= FEW_ROWS:
            fitted = _by_cross_validation(seed, z, most_components, out_of_time)
        else:
            fitted = _by_doubling(seed, z, z_validation, most_components, out_of_time)
    inverse = whitening.inverse
    mixture = gaussian_mixture_of(
        fitted.weights_,
        fitted.means_ @ inverse.T + whitening.mean,
        inverse @ fitted.covariances_ @ inverse.T,
    )
    return MixtureFit(mixture, len(fitted.weights_))


def _mixture(components: int, ridge: float, seed: int, **choices):
    # Imported here: it takes a while, and other methods have no use for it.
    from sklearn.mixture import GaussianMixture as SklearnMixture

    return SklearnMixture(
        components,
        reg_covar=ridge,
        random_state=seed,
        max_iter=ITERATIONS,
        **{"tol": TOLERANCE} | choices,
    )


def _by_doubling(seed, points, validation, most_components, out_of_time):
    """The best of 1, 2, 4, ... components, or of those half-way to its neighbours."""

    def fit(components: int, ridge: float):
        with suppress(ValueError):
            fitted = _mixture(components, ridge, seed, n_init=3 if components <= 8 else 1)
            fitted.fit(points)
            return float(fitted.score(validation)), fitted
        return -np.inf, None

    best, ridge = fit(1, RIDGE), RIDGE
    components, worse = 2, 0
    while components <= min(most_components, len(points) // 10) and not out_of_time():
        found = fit(components, ridge)
        # Clusters that the ridge would blur show where it costs likelihood.
        if ridge == RIDGE and components in (2, 8):
            finer = fit(components, LEAST_RIDGE)
            if finer[0] > found[0] + 0.01:
                found, ridge = finer, LEAST_RIDGE
        worse = 0 if found[0] > best[0] else worse + 1
        best = max(best, found, key=lambda pair: pair[0])
        if worse == PATIENCE:
            break
        components *= 2
    chosen = len(best[1].weights_)
    for components in (3 * chosen // 4, 3 * chosen // 2):
        if chosen >= 4 and components <= most_components and not out_of_time():
            best = max(best, fit(components, ridge), key=lambda pair: pair[0])
    return best[1]


def _by_cross_validation(seed, points, most_components, out_of_time):
    """The best number of components and ridge of a few rows, fitted to all of them."""
    from sklearn.model_selection import GroupKFold, cross_val_score

    # Copies of a row, where rows count differently, are in one fold.
    rows = np.unique(points, axis=0, return_inverse=True)[1].ravel()
    n_folds = min(N_FOLDS, len(np.unique(rows)))

    def score(components: int, ridge: float) -> float:
        folds = GroupKFold(n_folds, shuffle=True, random_state=seed)
        # A component with too few rows for its covariance rules the mixture out. An error is
        # raised where that is so in every fold, and otherwise the mean is not a number.
        with suppress(ValueError):
            mixture = _mixture(components, ridge, seed, tol=1e-3)
            mean = cross_val_score(mixture, points, groups=rows, cv=folds).mean()
            return float(np.nan_to_num(mean, nan=-np.inf))
        return -np.inf

    scores: dict[tuple[int, float], float] = {}
    for ridge in RIDGES:
        worse, best = 0, -np.inf
        for components in FEW_COMPONENTS:
            if worse == PATIENCE or components > most_components or (scores and out_of_time()):
                break
            found = scores[components, ridge] = score(components, ridge)
            worse, best = (0, found) if found > best else (worse + 1, best)
    components, ridge = max(scores, key=scores.__getitem__)
    return _mixture(components, ridge, seed, n_init=N_STARTS).fit(points)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without warnings of fits that do not converge, whose score tells how good they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

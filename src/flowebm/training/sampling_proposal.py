"""What a density is proposed from: mixtures fitted in rounds, and the modes that they are of."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from flowebm.models.expectation_maximisation import squared_distances
from flowebm.models.triangular_map import TriangularMap
from flowebm.samplers.nested import Exploration
from flowebm.samplers.peaks import (
    Peak,
    climb,
    joined,
    lookalikes,
    peak_at,
    same_place,
    spread_out,
)
from flowebm.training.density_calls import DensityCalls
from flowebm.training.fitted_mixture import Mixture, fit_mixture

#: Climbs from points that are spread out, and from lookalikes.
CLIMBS, LOOKALIKE_CLIMBS = 16, 6

#: Points that a mixture is fitted to, and draws of a round.
FITTED_POINTS, ROUND = 4000, 4096

#: Rounds at most; the effective share that is enough, and the gain that makes another worth while.
MOST_ROUNDS, ENOUGH, GAIN = 8, 0.8, 1.05

#: Nats by which log Z rises where a proposal has found mass that those before it had not.
NEW_MASS = 0.05

#: Least share of the proposals that a mode gets, and all such shares together at most.
MODE_SHARE, ALL_MODE_SHARES = 0.05, 0.5

#: The share of proposals that are as wide as all modes together.
WIDE_SHARE = 0.04

#: The share of proposals from the normals of peaks, and how many of these there are at most.
PEAKS_SHARE, MOST_PEAK_COMPONENTS = 0.03, 16

#: Steps of EM for the weights of components.
WEIGHT_STEPS = 3

#: The share of proposals that go far out along one axis each, and how far, in standard deviations.
AXES_SHARE, AXIS_LENGTH = 0.1, 3.0

#: Effective share of a Laplace approximation that is good.
NEAR_NORMAL = 0.2

#: Modes at most.
MOST_MODES = 64


@dataclass
class Population:
    """Weighted draws of the target.

    Attributes:
        position: Points, one a row.
        log_density: There, nats.
        log_weights: Up to a constant.
        run: Which exploration each is of.
    """

    position: np.ndarray
    log_density: np.ndarray
    log_weights: np.ndarray
    run: np.ndarray

    @classmethod
    def of(cls, found: Exploration) -> "Population":
        return cls(
            np.asarray(found.position),
            np.asarray(found.log_density),
            np.asarray(found.log_weights),
            np.asarray(found.run),
        )

    def mapped(self, fitted: TriangularMap) -> "Population":
        """The same draws in the map's coordinates."""
        position, log_det = fitted.inverse_on_host(self.position)
        log_density = self.log_density - log_det
        return Population(position.astype(np.float32), log_density, self.log_weights, self.run)

    def log_mean(self) -> float:
        r"""$\log Z$, where weights are against the density that made the draws."""
        return float(logsumexp(self.log_weights) - np.log(len(self.log_weights)))

    def shares(self) -> np.ndarray:
        weights = np.exp(self.log_weights - logsumexp(self.log_weights))
        return weights / weights.sum()

    def effective(self) -> float:
        return float(1 / np.sum(self.shares() ** 2))

    def rows(self, rng: np.random.Generator, n: int, power: float = 1.0) -> np.ndarray:
        """Rows in proportion to their weights, or to a power of them: systematic resampling."""
        top = np.max(self.log_weights)
        weights = np.exp(power * (self.log_weights - top))
        edges = np.cumsum(weights / weights.sum())
        places = (rng.random() + np.arange(n)) / n
        return np.minimum(np.searchsorted(edges, places), len(edges) - 1)


@dataclass
class Modes:
    """Peaks, and the mode that each is of.

    Attributes:
        peaks: The peaks.
        mode: Of each.
        origin: What each mode was first found by.
    """

    peaks: list[Peak] = field(default_factory=list)
    mode: np.ndarray = field(default_factory=lambda: np.zeros(0, int))

    @property
    def n(self) -> int:
        return int(self.mode.max()) + 1

    def representatives(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The heaviest peak of each mode, with its covariance."""
        best = []
        for mode in range(self.n):
            rows = np.flatnonzero(self.mode == mode)
            peak = self.peaks[max(rows, key=lambda row: self.peaks[row].log_mass)]
            best.append((peak.position, peak.covariance))
        return best

    def labels(self, x: np.ndarray) -> np.ndarray:
        """The mode of the peak whose normal is likeliest at each point."""
        position, log_density, covariance, _ = zip(*self.peaks, strict=True)
        inverse_factors = np.linalg.inv(np.linalg.cholesky(covariance))
        squares = squared_distances(x, np.array(position), inverse_factors)
        # As a heavy-tailed density: far from all peaks, the one of the wider scale.
        return self.mode[np.argmax(log_density - 2.5 * np.log1p(squares / 4), axis=1)]


def find_modes(
    rng: np.random.Generator,
    calls: DensityCalls,
    population: Population,
    starts: np.ndarray,
    n_climbs: int = CLIMBS,
) -> Modes:
    """Climb from points of a population, and join the peaks that ridges join.

    Args:
        rng: Random numbers.
        calls: The density.
        population: Draws of the target.
        starts: Further points to climb from.
        n_climbs: Points of the population to climb from.

    Returns:
        The modes.
    """
    rows = population.rows(rng, 1000, power=0.5)
    scale = _scale(population, rng)
    spread = population.position[rows[spread_out(rng, population.position[rows], n_climbs)]]
    peaks = climbed(calls, np.concatenate([spread, starts]), scale)
    if not peaks:
        # No gradients, or none of use: the population's own points stand for peaks.
        rows = population.rows(rng, 2000)
        rows = rows[spread_out(rng, population.position[rows], 24)]
        covariance = np.diag(scale**2)
        peaks = [
            Peak(population.position[r], float(population.log_density[r]), covariance, 0.0)
            for r in rows
            if np.isfinite(population.log_density[r])
        ]
    modes = Modes(peaks, joined(peaks, calls.values))
    # Between peaks on a curved ridge there are others, which join them.
    for _ in range(2):
        if modes.n == 1 or not calls.has_gradient or len(peaks) > MOST_MODES // 2:
            break
        between = _midpoints(modes)
        more = [p for p in climbed(calls, between, scale) if not _is_known(p, peaks)]
        if not more:
            break
        peaks = peaks + more
        finer = Modes(peaks, joined(peaks, calls.values))
        if finer.n >= modes.n:
            break
        modes = finer
    return modes


def _is_known(peak: Peak, peaks: list[Peak]) -> bool:
    return any(same_place(peak, other) for other in peaks)


def _midpoints(modes: Modes) -> np.ndarray:
    """Between each peak and the two nearest of other modes."""
    position = np.array([peak.position for peak in modes.peaks])
    scaled = position / (position.std(axis=0) + 1e-30)
    distance = np.sum((scaled[:, None] - scaled) ** 2, axis=2)
    distance[modes.mode[:, None] == modes.mode] = np.inf
    nearest = np.argsort(distance, axis=1)[:, :2]
    pairs = {(min(i, j), max(i, j)) for i, row in enumerate(nearest) for j in row if i != j}
    return np.array([(position[i] + position[j]) / 2 for i, j in sorted(pairs)])


def _scale(population: Population, rng: np.random.Generator) -> np.ndarray:
    return population.position[population.rows(rng, 2000)].astype(float).std(axis=0) + 1e-12


def climbed(calls: DensityCalls, points: np.ndarray, scale: np.ndarray) -> list[Peak]:
    """The different peaks uphill of points, heaviest first."""
    if not calls.has_gradient:
        return []
    found: list[Peak] = []
    for point in points.astype(float):
        top = climb(point, scale, calls.value_and_grad)
        if any(
            np.all(np.abs(top - p.position) < 1e-2 * np.sqrt(np.diag(p.covariance))) for p in found
        ):
            continue
        peak = peak_at(top, scale, calls.value_and_grad)
        if peak is not None and not any(same_place(peak, other) for other in found):
            found.append(peak)
    return sorted(found, key=lambda peak: -peak.log_mass)


def is_near_normal(
    rng: np.random.Generator, calls: DensityCalls, x: np.ndarray, log_ratio: np.ndarray
) -> bool:
    """Whether all climbs lead to one peak, and its normal covers the density well.

    Args:
        rng: Random numbers.
        calls: The density.
        x: Draws of the start.
        log_ratio: The log-density over the start's there.

    Returns:
        Whether a Laplace approximation has an effective share of `NEAR_NORMAL`.
    """
    if not calls.has_gradient:
        return False
    best = np.argsort(-log_ratio)[:200]
    likely = rng.permutation(np.flatnonzero(log_ratio > np.median(log_ratio)))
    rows = np.concatenate([best[spread_out(rng, x[best], 6)], likely[:6]])
    peaks = climbed(calls, x[rows], x[best].std(axis=0) + 1e-6)
    if len(peaks) != 1:
        return False
    factor = np.linalg.cholesky(peaks[0].covariance)
    laplace = Mixture(np.ones(1), peaks[0].position[None], factor[None], np.zeros(1, int))
    drawn = laplace.draw(rng, ROUND)
    return _share(calls.values(drawn) - laplace.log_prob(drawn)) > NEAR_NORMAL


@dataclass
class Proposal:
    """A fitted mixture and what is known by it.

    Attributes:
        mixture: The proposal.
        modes: The modes.
        draws: All draws of the rounds, weighted against the mixture of their proposals.
        ess: Effective share of the last round.
    """

    mixture: Mixture
    modes: Modes
    draws: Population
    ess: float


def fit_proposal(
    rng: np.random.Generator,
    calls: DensityCalls,
    population: Population,
    modes: Modes,
    centre: np.ndarray,
    reach: np.ndarray,
    bounded: np.ndarray,
    out_of_time: Callable[[], bool] = lambda: False,
    is_mapped: bool = False,
) -> Proposal:
    """Fit mixtures in rounds: each to the draws of those before, weighted for the target.

    Weights are against the mixture of all rounds' proposals, so that none of them is thrown away.

    Args:
        rng: Random numbers.
        calls: The density.
        population: Draws of the target from exploration.
        modes: Its modes.
        centre: Where the search started.
        reach: How far it reached.
        bounded: Which coordinates have two bounds; a uniform density is standard normal in them.
        out_of_time: Asked before each round.
        is_mapped: Whether coordinates are those of a map, in which modes are near normal: nothing
            looks like them elsewhere, and some proposals go far out along each axis.

    Returns:
        The proposal.

    Source: Cornuet, Marin, Mira, Robert (2012), *Adaptive multiple importance sampling*.
    """
    mixtures: list[Mixture] = []
    x, log_density = [], []
    log_q = np.zeros((0, 0))
    points = population.position[population.rows(rng, FITTED_POINTS)]
    ess, log_z, stalled = 0.0, -np.inf, 0
    drawn = population
    shares: list[float] = []
    for number in range(MOST_ROUNDS):
        mixture = _mixture(rng, points, modes, drawn, bounded, is_mapped)
        mixtures.append(mixture)
        fresh = mixture.draw(rng, ROUND)
        log_p = calls.values(fresh)
        if number == 0 and not is_mapped:
            added = _find_lookalikes(rng, calls, mixture, modes, fresh, log_p, centre, reach)
            if added is not None:
                modes = added
                mixtures.append(_mixture(rng, points, modes, drawn, bounded, is_mapped))
                more = mixtures[-1].draw(rng, ROUND)
                fresh = np.concatenate([fresh, more])
                log_p = np.concatenate([log_p, calls.values(more)])
        x.append(fresh)
        log_density.append(log_p)
        log_weights = log_p[-ROUND:] - mixtures[-1].log_prob(fresh[-ROUND:])
        now = _share(log_weights)
        shares.append(now)
        all_x, all_p = np.concatenate(x), np.concatenate(log_density)
        log_q = np.stack([m.log_prob(all_x) for m in mixtures])
        together = all_p - (logsumexp(log_q, axis=0) - np.log(len(mixtures)))
        drawn = Population(all_x, all_p, together, np.zeros(len(all_x), int))
        rises = drawn.log_mean() > log_z + NEW_MASS
        stalled = 0 if now > GAIN * ess or rises else stalled + 1
        ess, log_z = max(ess, now), max(log_z, drawn.log_mean())
        if ess > ENOUGH or stalled >= 2 or out_of_time():
            break
        points = mixed_points(rng, drawn, population)
    # Not the one of the largest share: one that misses some of the mass does not know it.
    best = int(np.argmax(_mean_log(log_q[-len(shares) :], drawn)))
    return Proposal(mixtures[-len(shares) :][best], modes, drawn, shares[best])


def _mean_log(log_q: np.ndarray, drawn: Population) -> np.ndarray:
    r"""$\mathbb E_p \log q$ of several densities from weighted draws."""
    weights = drawn.shares()
    kept = weights > 0
    return log_q[:, kept] @ weights[kept]


def mixed_points(
    rng: np.random.Generator, drawn: Population, population: Population
) -> Float[np.ndarray, "n d"]:
    """Draws of the target from weighted draws of proposals, as far as they go, and exploration."""
    # Exploration keeps a share of the points: it may know what no proposal has reached.
    n_own = int(FITTED_POINTS * min(0.8, drawn.effective() / 2000))
    return np.concatenate(
        [
            drawn.position[drawn.rows(rng, n_own)] if n_own else drawn.position[:0],
            population.position[population.rows(rng, FITTED_POINTS - n_own)],
        ]
    )


def _mixture(
    rng: np.random.Generator,
    points: np.ndarray,
    modes: Modes,
    population: Population,
    bounded: np.ndarray,
    is_mapped: bool,
) -> Mixture:
    """What is fitted to points, with what is beside it; the peaks' normals in the share of theirs.

    A spike is narrower than components that are fitted to a mode as a whole may be.
    """
    beside = _beside(rng, population, modes, bounded, is_mapped)
    fitted = _fit(rng, points, modes, population)
    mixture = fitted.with_components(*beside)
    first = len(fitted.weights) + 1
    is_peak = np.zeros(len(mixture.weights), bool)
    is_peak[first : first + min(len(modes.peaks), MOST_PEAK_COMPONENTS)] = True
    log_prob = mixture.components_log_prob(points) - np.log(mixture.weights)
    weights = mixture.weights
    for _ in range(WEIGHT_STEPS):
        log_joint = log_prob + np.log(weights + 1e-300)
        weights = np.exp(log_joint - logsumexp(log_joint, axis=1, keepdims=True)).mean(axis=0)
    weights = np.where(is_peak, np.maximum(weights, mixture.weights), 0.0)
    others = np.where(is_peak, 0.0, mixture.weights)
    return mixture._replace(weights=weights + others * (1 - weights.sum()) / others.sum())


def _beside(
    rng: np.random.Generator,
    population: Population,
    modes: Modes,
    bounded: np.ndarray,
    is_mapped: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Components beside those that are fitted: their weights, means and factors.

    One is as wide as all modes together, for what lies between them and at walls. The peaks' own
    normals find what is so narrow that no point has hit it: a spike in the middle of a wide mode.
    In a map's coordinates there is one more for each axis, far longer than wide: of a density that
    goes on beyond what is known of it in one direction the other coordinates are then still right.
    """
    points = population.position[population.rows(rng, 2000)].astype(float)
    d = points.shape[1]
    mean = np.where(bounded, 0.0, points.mean(axis=0))
    sd = np.where(bounded, 1.0, 1.5 * points.std(axis=0) + 1e-12)
    peaks = sorted(modes.peaks, key=lambda peak: -peak.log_mass)[:MOST_PEAK_COMPONENTS]
    weights = [np.array([WIDE_SHARE]), np.full(len(peaks), PEAKS_SHARE / len(peaks))]
    means = [mean[None], np.array([peak.position for peak in peaks])]
    factors = [np.diag(sd)[None], np.linalg.cholesky([peak.covariance for peak in peaks])]
    if is_mapped:
        lengths = 1 + (AXIS_LENGTH - 1) * np.eye(d)
        weights.append(np.full(d, AXES_SHARE / d))
        means.append(np.repeat(mean[None], d, axis=0))
        factors.append(np.linalg.cholesky(_covariance(points)) * lengths[:, None])
    return np.concatenate(weights), np.concatenate(means), np.concatenate(factors)


def _covariance(points: np.ndarray) -> np.ndarray:
    variances = points.var(axis=0)
    return np.cov(points.T).reshape(len(variances), -1) + 1e-6 * np.diag(variances + 1e-12)


def _share(log_weights: np.ndarray) -> float:
    if not np.any(np.isfinite(log_weights)):
        return 0.0
    weights = np.exp(log_weights - np.max(log_weights))
    return float(weights.sum() ** 2 / np.sum(weights**2) / len(weights))


def _fit(rng, points, modes: Modes, population: Population) -> Mixture:
    labels = modes.labels(points.astype(float))
    n = modes.n
    mass = np.bincount(labels, minlength=n) / len(labels)
    # Rare modes have too few of the points: theirs come from the population, each in its turn.
    rows = population.rows(rng, 8000, power=0.5)
    of_rows = modes.labels(population.position[rows].astype(float))
    extra, extra_labels = [], []
    for mode in np.flatnonzero(mass * len(points) < 200):
        own = rows[of_rows == mode]
        if len(own) >= 20:
            weights = np.exp(
                0.5 * (population.log_weights[own] - population.log_weights[own].max())
            )
            pick = rng.choice(own, 400, p=weights / weights.sum())
            extra.append(population.position[pick])
            extra_labels.append(np.full(400, mode))
    for mode in range(n):
        if extra_labels and any(block[0] == mode for block in extra_labels):
            keep = labels != mode
            points, labels = points[keep], labels[keep]
    points = np.concatenate([points, *extra])
    labels = np.concatenate([labels, *extra_labels]).astype(int)
    floor = min(MODE_SHARE, ALL_MODE_SHARES / n)
    shares = np.maximum(mass, floor)
    return fit_mixture(rng, points, labels, modes.representatives(), shares / shares.sum())


def _find_lookalikes(
    rng, calls, mixture, modes: Modes, fresh, log_p, centre, reach
) -> Modes | None:
    """The modes with those that lookalikes of known peaks lead to, or `None` if there are none."""
    heaviest = sorted(modes.peaks, key=lambda peak: -peak.log_mass)[:6]
    candidates = lookalikes(rng, [p.position for p in heaviest], centre, reach)
    values = calls.values(candidates)
    known = log_p - mixture.log_prob(fresh)
    usual = np.quantile(known[np.isfinite(known)], 0.999) if np.isfinite(known).any() else -np.inf
    excess = values - mixture.log_prob(candidates)
    # Where there is much more mass than the proposals, heavy tails included, account for.
    order = np.argsort(-excess)
    promising = order[(excess[order] > usual + 1) & np.isfinite(values[order])]
    if not len(promising):
        return None
    best = candidates[promising[: 40 * LOOKALIKE_CLIMBS]]
    best = best[spread_out(rng, best, LOOKALIKE_CLIMBS)] if len(best) > 1 else best
    scale = np.sqrt(np.diag(modes.representatives()[0][1]))
    more = [peak for peak in climbed(calls, best, scale) if not _is_known(peak, modes.peaks)]
    if not more or len(modes.peaks) + len(more) > MOST_MODES:
        return None
    peaks = modes.peaks + more
    return Modes(peaks, joined(peaks, calls.values))

"""A monotone map of the values between two ends to the line: scales, ends, units, a place."""

from dataclasses import dataclass
from math import inf, isfinite, tau
from types import ModuleType
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float

from flowebm.data.standardise import Standardise

#: How far an end reaches into an interval, in standard deviations of its values: from a corner
#: that carries density to a logarithm of everything, which infinity stands for.
EDGES = (0.03, 0.1, 0.3, 1.0, inf)

#: Values that a choice between maps is fitted to and judged on at most, half of them each.
N_JUDGED = 2000

#: Normals of the mixture by which maps are judged, steps of its EM algorithm, and the least
#: variance of a normal, where all together have one.
N_NORMALS, N_STEPS, LEAST_VARIANCE = 5, 40, 1e-4

#: Values below which there is no choice.
FEWEST_TO_CHOOSE = 40

#: Share of an interval's scale by which its end is moved inside, where no map is finite.
_NEAREST = 1e-7


@dataclass(frozen=True)
class Interval:
    r"""Values between two ends, mapped one to one into a slot of the line.

    Heavy tails are drawn in by $\sinh^{-1}$, as in `Standardise`. A finite end $l$ then goes to
    minus infinity by $y \mapsto y + s \log(1 - e^{-(y - l) / s})$, which is a logarithm close to
    the end and leaves alone what is further from it than $s$; $s = \infty$ stands for the logarithm
    itself, and for the logit where both ends are finite. Units follow, and where the slot has an
    end $a$, $w \mapsto a + q \log(1 + e^{(w - a) / q})$ goes no further.

    Args:
        low: The lower end of the values; minus infinity where there is none.
        high: The upper end.
        mean: What is subtracted from values drawn in.
        sd: What they are divided by.
        arcsinh_scale: $\beta \ge 0$ of the tails.
        center: What the tails are drawn in about.
        edge: $s$, in the units of values drawn in.
        slot_low: The lower end of the slot $a$.
        slot_high: Its upper end.
        softness: $q$.
        is_whole: Whether the values are whole numbers, each of which stands for one unit of length.
    """

    low: float = -inf
    high: float = inf
    mean: float = 0.0
    sd: float = 1.0
    arcsinh_scale: float = 0.0
    center: float = 0.0
    edge: float = inf
    slot_low: float = -inf
    slot_high: float = inf
    softness: float = 0.1
    is_whole: bool = False

    def forward(self, x: Any, xp: ModuleType = np) -> tuple[Any, Any]:
        """Values in the slot, and the logarithms of the map's slopes.

        Args:
            x: Values between the ends.
            xp: NumPy, or `jax.numpy`.
        """
        y, log_slope = self._arcsinh(x, xp)
        low, high = self._transformed_ends()
        least = _NEAREST * min(self.sd if self.edge == inf else self.edge, high - low)
        # An end itself, which has no image, counts as a value beside it.
        if isfinite(low):
            y = xp.where(y <= low, low + least, y)
        if isfinite(high):
            y = xp.where(y >= high, high - least, y)
        if self.edge == inf:
            below = [-xp.log(y - low)] if isfinite(low) else []
            above = [-xp.log(high - y)] if isfinite(high) else []
            if below or above:
                y = sum(above, 0.0) - sum(below, 0.0)
                both = xp.logaddexp(*below, *above) if below and above else (below or above)[0]
                log_slope = log_slope + both
        else:
            if isfinite(low):
                shrunk = _log1mexp((y - low) / self.edge, xp)
                y, log_slope = y + self.edge * shrunk, log_slope - shrunk
            if isfinite(high):
                shrunk = _log1mexp((self._high_image() - y) / self.edge, xp)
                y, log_slope = y - self.edge * shrunk, log_slope - shrunk
        z, log_slope = (y - self.mean) / self.sd, log_slope - np.log(self.sd)
        if isfinite(self.slot_low):
            t = (z - self.slot_low) / self.softness
            z = self.slot_low + self.softness * xp.logaddexp(t, 0.0)
            log_slope = log_slope - xp.logaddexp(-t, 0.0)
        if isfinite(self.slot_high):
            t = (self.slot_high - z) / self.softness
            z = self.slot_high - self.softness * xp.logaddexp(t, 0.0)
            log_slope = log_slope - xp.logaddexp(-t, 0.0)
        return z, log_slope

    def inverse(self, z: Any, xp: ModuleType = np) -> Any:
        """The values of points in the slot.

        Args:
            z: Points in the slot.
            xp: NumPy, or `jax.numpy`.
        """
        if isfinite(self.slot_high):
            t = xp.maximum((self.slot_high - z) / self.softness, 1e-6)
            z = self.slot_high - self.softness * (t + _log1mexp(t, xp))
        if isfinite(self.slot_low):
            t = xp.maximum((z - self.slot_low) / self.softness, 1e-6)
            z = self.slot_low + self.softness * (t + _log1mexp(t, xp))
        y = z * self.sd + self.mean
        low, high = self._transformed_ends()
        if self.edge == inf:
            if isfinite(low) and isfinite(high):
                y = low + (high - low) * 0.5 * (1 + xp.tanh(0.5 * y))
            elif isfinite(low):
                y = low + xp.exp(y)
            elif isfinite(high):
                y = high - xp.exp(-y)
        else:
            if isfinite(high):
                image = self._high_image()
                y = image - self.edge * xp.logaddexp((image - y) / self.edge, 0.0)
            if isfinite(low):
                y = low + self.edge * xp.logaddexp((y - low) / self.edge, 0.0)
        if self.arcsinh_scale:
            y = self.center + xp.sinh(self.arcsinh_scale * (y - self.center)) / self.arcsinh_scale
        return y

    def _arcsinh(self, x: Any, xp: ModuleType) -> tuple[Any, Any]:
        if not self.arcsinh_scale:
            return x, xp.zeros_like(x)
        stretched = self.arcsinh_scale * (x - self.center)
        # Whose square may be too great a number.
        log_slope = -xp.log(xp.hypot(1.0, stretched))
        return self.center + xp.arcsinh(stretched) / self.arcsinh_scale, log_slope

    def _transformed_ends(self) -> tuple[float, float]:
        low, high = (self._arcsinh(np.float64(end), np)[0] for end in (self.low, self.high))
        return float(low), float(high)

    def _high_image(self) -> float:
        """The upper end, when the lower one is gone."""
        low, high = self._transformed_ends()
        if not isfinite(low):
            return high
        return high + self.edge * float(_log1mexp(np.float64((high - low) / self.edge), np))


def fit_interval(
    x: Float[np.ndarray, " n"],
    low: float = -inf,
    high: float = inf,
    *,
    is_whole: bool = False,
    cofactor: float | None = None,
) -> Interval:
    r"""The map under which held-out values are likeliest by a mixture of a few normals.

    That is what a model of several modes makes of them: it has no use for a map that only makes
    clusters look like one normal, and all for one that straightens out a corner or a tail.

    Args:
        x: Values between the ends.
        low: The lower end; minus infinity where there is none.
        high: The upper end.
        is_whole: Whether the values are whole numbers, each of which stands for a unit of length.
        cofactor: $c$ of $\sinh^{-1}(x / c)$, where that is chosen already.

    Returns:
        The map to mean 0 and standard deviation 1, without ends of its slot.
    """
    rng = np.random.default_rng(0)
    x = np.asarray(x, np.float64)
    noisy = x + rng.uniform(-0.5, 0.5, x.shape) if is_whole else x
    free = not (isfinite(low) or isfinite(high))
    scales = [(0.0, 0.0)] if cofactor is None else [(1 / cofactor, 0.0)]
    if cofactor is None and (len(x) >= FEWEST_TO_CHOOSE or free):
        _, _, arcsinh_scale, center = Standardise.fit(
            noisy[:, None], arcsinh_tails=True
        ).double_precision()
        if arcsinh_scale[0] > 0:
            scales.append((float(arcsinh_scale[0]), float(center[0])))
    if free:
        return _in_units(
            Interval(is_whole=is_whole, arcsinh_scale=scales[-1][0], center=scales[-1][1]), noisy
        )
    few = len(x) < FEWEST_TO_CHOOSE
    candidates = []
    for arcsinh_scale, center in scales[:1] if few else scales:
        start = Interval(low, high, arcsinh_scale=arcsinh_scale, center=center, is_whole=is_whole)
        spread = float(np.std(start._arcsinh(noisy, np)[0])) or 1.0
        lower, upper = start._transformed_ends()
        for edge in EDGES[-1:] if few else EDGES:
            edge = edge * spread if edge < inf else inf
            if edge == inf or edge <= (upper - lower) / 3:
                candidates.append(
                    _in_units(Interval(low, high, 0.0, 1.0, arcsinh_scale, center, edge), noisy)
                )
    chosen = candidates[0]
    if len(candidates) > 1:
        some = rng.permutation(noisy)[:N_JUDGED]
        halves = some[: len(some) // 2], some[len(some) // 2 :]
        chosen = max(candidates, key=lambda candidate: _likelihood(candidate, *halves))
    return Interval(**{**vars(chosen), "is_whole": is_whole})


def _in_units(interval: Interval, x: np.ndarray) -> Interval:
    y, _ = interval.forward(x)
    sd = float(np.std(y))
    if len(x) < 3 or not sd > 0:
        sd = 1.0
    return Interval(**{**vars(interval), "mean": float(np.mean(y)), "sd": sd})


def _likelihood(interval: Interval, fitted: np.ndarray, judged: np.ndarray) -> float:
    """Mean log-likelihood of values by a mixture of normals fitted to others in the slot."""
    x, _ = interval.forward(fitted)
    z, log_slope = interval.forward(judged)
    # Written out: scikit-learn's mixture takes thirty times as long on one column.
    k = N_NORMALS
    means, variances = np.quantile(x, (np.arange(k) + 0.5) / k), np.full(k, x.var() / k)
    log_shares = np.full(k, -np.log(k))

    def joint(at: np.ndarray) -> np.ndarray:
        squares = (at[:, None] - means) ** 2 / variances
        return log_shares - 0.5 * (np.log(tau * variances) + squares)

    for _ in range(N_STEPS):
        belongs = scipy.special.softmax(joint(x), axis=1)
        counts = belongs.sum(axis=0) + 1e-9
        means = (belongs * x[:, None]).sum(axis=0) / counts
        variances = (belongs * (x[:, None] - means) ** 2).sum(axis=0) / counts + LEAST_VARIANCE
        log_shares = np.log(counts / counts.sum())
    log_prob = np.asarray(scipy.special.logsumexp(joint(z), axis=1))
    return float(np.mean(log_prob + log_slope))


def _log1mexp(t: Any, xp: ModuleType) -> Any:
    """$\\log(1 - e^{-t})$ for positive $t$."""
    return xp.where(t < 0.7, xp.log(-xp.expm1(-xp.minimum(t, 0.7))), xp.log1p(-xp.exp(-t)))

"""Columns of all kinds as points that a density can be fitted to, and back."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from math import inf, isfinite, log, pi, tau
from typing import Any, ClassVar, NamedTuple, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy
from flowjax.bijections import AbstractBijection
from jaxtyping import Float

from flowebm.data.interval import Interval, fit_interval
from flowebm.data.kinds import KINDS, PILED_UP, Kind, find_atoms, find_kind, refuse_categories
from flowebm.refusal import Refused

#: Whole numbers that have a place of their own each: if a column has so many distinct ones at most,
#: and from the least to the greatest so many in all.
MOST_LEVELS, WIDEST_TABLE = 64, 128

#: Levels up to which each is a narrow normal by itself, apart from the others.
FEW_LEVELS = 6

#: Rows that a geometric tail would have beyond the greatest whole number, from which on there is
#: none: that number is then the greatest that there can be.
ROWS_BEYOND = 10.0

#: Rows that whole numbers which no row has are taken to have, and how many of them are added beyond
#: the greatest.
UNSEEN_ROWS, N_BEYOND = 0.1, 20

#: Width of a lone value's slot and standard deviation of its noise, to an interval's 1.
ATOM_WIDTH, ATOM_NOISE = 3.6, 0.4

#: Share of draws that estimate a probability from wider noise, and how much wider it is.
WIDE_SHARE, WIDE = 0.2, 4.0

#: Standard deviations from an interval's mean to the end of its slot, at least and at most.
REACH, MOST_REACH = 3.0, 8.0

#: And of the slot of values between two piles where no row is.
EMPTY_REACH = 0.4


#: Entries that are above zero.
_POSITIVE = ("scale", "sd", "edge", "softness", "period", "cofactor")


@dataclass(frozen=True)
class Level:
    """A value that has a probability, and its slot of the line.

    Noise of the normal density $N(m, s^2)$, cut off at the slot's ends, stands for it.

    Args:
        value: The value.
        low: The lower end of its slot.
        high: The upper end.
        center: $m$.
        scale: $s$.
    """

    value: float
    low: float
    high: float
    center: float
    scale: float


@dataclass(frozen=True)
class Column:
    """One column: its lone values and the intervals between them, each with a slot of the line.

    Args:
        kind: What kind of values it holds.
        levels: Values with a probability, in their order.
        intervals: Intervals of values, in their order; none touches a level.
    """

    kind: Kind
    levels: tuple[Level, ...] = ()
    intervals: tuple[Interval, ...] = ()

    @property
    def is_discrete(self) -> bool:
        """Whether some of its values have a probability instead of a density."""
        return bool(self.levels) or any(interval.is_whole for interval in self.intervals)


class Boxes(NamedTuple):
    r"""What stands for each entry of rows: a point, or an interval of the line with its noise.

    A draw is $z = m + s\, \Phi^{-1}(p + U q)$ with $U$ uniform; for a point $z = m$.

    Attributes:
        center: $m$.
        scale: $s$; zero for a point.
        start: $p$.
        mass: $q$, the normal probability of the interval; a half for a point.
        log_slope: Logarithm of the map's slope at a point, or of the width of an interval so narrow
            that its middle stands for it, and zero for others; minus infinity for a value that
            the column cannot have.
    """

    center: Float[np.ndarray, "n d"]
    scale: Float[np.ndarray, "n d"]
    start: Float[np.ndarray, "n d"]
    mass: Float[np.ndarray, "n d"]
    log_slope: Float[np.ndarray, "n d"]

    @property
    def are_points(self) -> np.ndarray:
        """Which rows are points in all of their entries."""
        return ((self.scale == 0) & ~np.isnan(self.center)).all(axis=1)

    def rows(self, index: Any) -> "Boxes":
        """Those of some rows.

        Args:
            index: Which ones.
        """
        return Boxes(*(part[index] for part in self))

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A point in each box, by its noise.

        Args:
            rng: The source of the noise.

        Returns:
            Points, shape `(n, d)`.
        """
        t = scipy.special.ndtri(self.start + rng.random(self.center.shape) * self.mass)
        return self.center + np.where(self.scale == 0, 0.0, self.scale * t)

    def proposals(self, n: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        r"""Points in each box, and logarithms of what their densities are to be multiplied with.

        The mean over draws of $p(z) e^w$ is the integral of $p$ over the box, times the slopes of
        what is a point in it. A share of `WIDE_SHARE` is drawn from noise `WIDE` times as wide, so
        that a density with tails heavier than the noise has weights of finite variance. The draws
        of a row are a Sobol sequence, shifted by what the row's own values determine: they are the
        same whatever rows are beside it.

        Args:
            n: Draws of each row.

        Yields:
            Points, shape `(n, d)`, and one $w$ a row.

        Source: Owen (2013), *Monte Carlo theory, methods and examples*, chapters 9 and 17.
        """
        d = self.center.shape[1]
        shifts = _uniforms(self.center + self.start, 2 * d)
        # It takes longer to import than JAX.
        from scipy.stats.qmc import Sobol

        for number in Sobol(2 * d, scramble=False).random(n):
            u, is_wide = np.split((shifts + number) % 1.0, 2, axis=1)
            yield self._proposed(np.clip(u, 1e-12, 1 - 1e-12), is_wide)

    def _proposed(self, u: np.ndarray, is_wide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lower, upper = scipy.special.ndtri(self.start), scipy.special.ndtri(self.start + self.mass)
        wide_start = scipy.special.ndtr(lower / WIDE)
        wide_mass = scipy.special.ndtr(upper / WIDE) - wide_start
        narrow = scipy.special.ndtri(self.start + u * self.mass)
        wide = WIDE * scipy.special.ndtri(wide_start + u * wide_mass)
        t = np.where(is_wide < WIDE_SHARE, wide, narrow)
        with np.errstate(divide="ignore"):
            log_noise = np.logaddexp(
                np.log1p(-WIDE_SHARE) - 0.5 * t**2 - np.log(self.mass),
                np.log(WIDE_SHARE) - 0.5 * (t / WIDE) ** 2 - np.log(WIDE * wide_mass),
            )
            log_noise -= 0.5 * log(tau) + np.log(np.abs(self.scale))
        are_points = self.scale == 0
        log_weight = self.log_slope - np.where(are_points, 0.0, log_noise)
        return self.center + np.where(are_points, 0.0, self.scale * t), log_weight.sum(axis=1)


def _uniforms(values: Float[np.ndarray, "n d"], width: int) -> Float[np.ndarray, "n width"]:
    """Numbers between 0 and 1 that each row determines by itself.

    Source: Steele, Lea, Flood (2014), *Fast splittable pseudorandom number generators*, for the
    mixing of bits.
    """

    def mixed(bits: np.ndarray) -> np.ndarray:
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return bits ^ (bits >> np.uint64(31))

    rows = np.zeros(len(values), np.uint64)
    for column in np.ascontiguousarray(values.T).view(np.uint64):
        rows = mixed(rows ^ column)
    steps = np.arange(1, width + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return mixed(rows[:, None] + steps) / 2.0**64


class Columns(AbstractBijection):
    """All columns of a table, from the units of the data to points of the model and back.

    Entry by entry a value becomes a point, or an interval whose noise is drawn: `boxes` and
    `inverse_rows`. Where no value of any column has a probability it is a bijection.

    Args:
        columns: The columns.
    """

    columns: tuple[Column, ...] = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    cond_shape: ClassVar[None] = None

    def __init__(self, columns: tuple[Column, ...]):
        self.columns = tuple(columns)
        self.shape = (len(self.columns),)

    @classmethod
    def fit(
        cls,
        X: Float[np.ndarray, "n d"],
        kinds: Mapping[int, Kind],
        names: tuple[str, ...],
        *,
        weights: Float[np.ndarray, " n"] | None = None,
    ) -> Self:
        """The maps for columns of these kinds; where none is given, what the values look like.

        Args:
            X: Rows in the units of the data, NaN where an entry is missing.
            kinds: Kinds by the number of a column.
            names: The names of the columns.
            weights: How much each row counts; all alike by default.

        Raises:
            ValueError: If a column has no density, or varies too little.
        """
        if weights is not None:
            # As many rows, each as often as it counts.
            shares = np.cumsum(weights) / weights.sum()
            X = X[np.searchsorted(shares, (np.arange(len(X)) + 0.5) / len(X))]
        fitted = []
        for i, name in enumerate(names):
            try:
                there = X[~np.isnan(X[:, i]), i]
                fitted.append(_fit_column(there, kinds.get(i) or find_kind(there), name))
            except Refused as error:
                raise Refused(str(error).replace("Column 1 ", f"Column '{name}' ")) from None
        return cls(tuple(fitted))

    @property
    def is_discrete(self) -> bool:
        """Whether some values have a probability instead of a density."""
        return any(column.is_discrete for column in self.columns)

    @property
    def is_plain(self) -> bool:
        """Whether all columns are real numbers without piled-up values, as `Standardise` takes."""
        return all(c.kind.name == "real" and not c.is_discrete for c in self.columns)

    @property
    def circular(self) -> tuple[bool, ...]:
        r"""Which coordinates are angles from $-\pi$ to $\pi$."""
        return tuple(column.kind.name == "circular" for column in self.columns)

    def boxes(self, X: Float[np.ndarray, "n d"]) -> Boxes:
        """What stands for each entry of rows in the space of the model.

        Args:
            X: Rows in the units of the data; what is missing (NaN) stays so.
        """
        X = np.asarray(X, np.float64)
        parts = [_column_boxes(x, column) for x, column in zip(X.T, self.columns, strict=True)]
        return Boxes(*(np.stack(part, axis=1) for part in zip(*parts, strict=True)))

    def transform_rows(self, X: Float[np.ndarray, "n d"], seed: int = 0) -> np.ndarray:
        """Points that stand for rows, with noise where values have a probability.

        Args:
            X: Rows in the units of the data.
            seed: Seed of the noise.
        """
        return self.boxes(X).draw(np.random.default_rng(seed))

    def inverse_rows(self, Z: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n d"]:
        """Values of points: every point stands for some row.

        Args:
            Z: Points of the model's space.
        """
        flat = np.asarray(Z, np.float64).reshape(-1, *self.shape)
        parts = [_column_values(z, column) for z, column in zip(flat.T, self.columns, strict=True)]
        return np.stack(parts, axis=1).reshape(Z.shape)

    def transform_and_log_det(self, x, condition=None):
        self._refuse_probabilities()
        x = jnp.asarray(x)
        parts = [_forward(x[i], column, jnp) for i, column in enumerate(self.columns)]
        z, log_slopes = (jnp.stack(part) for part in zip(*parts, strict=True))
        return z, log_slopes.sum()

    def inverse_and_log_det(self, y, condition=None):
        self._refuse_probabilities()
        y = jnp.asarray(y)
        x = jnp.stack([_backward(y[i], column, jnp) for i, column in enumerate(self.columns)])
        return x, -self.transform_and_log_det(x)[1]

    def _refuse_probabilities(self) -> None:
        if self.is_discrete:
            raise Refused(
                "Piled-up values and whole numbers have probabilities, not densities: there is no "
                "bijection of these columns."
            )

    def described(self, names: tuple[str, ...]) -> dict[str, str]:
        """What each column was taken for, in words.

        Args:
            names: The names of the columns.
        """
        return {name: _described(c) for name, c in zip(names, self.columns, strict=True)}

    def to_values(self) -> list[dict[str, Any]]:
        """The columns as plain values; ends at infinity become `None`."""

        def plain(part: Kind | Level | Interval) -> dict[str, Any]:
            return {
                name: value if isinstance(value, str) or isfinite(value) else None
                for name, value in asdict(part).items()
            }

        return [
            {
                "kind": plain(column.kind),
                "levels": [plain(level) for level in column.levels],
                "intervals": [plain(interval) for interval in column.intervals],
            }
            for column in self.columns
        ]

    @classmethod
    def from_values(cls, values: Any) -> Self:
        """What `to_values` wrote; nothing in it is trusted.

        Args:
            values: Plain values.

        Raises:
            ValueError: If they are not those of columns.
        """
        if not isinstance(values, list) or not values:
            raise Refused("the columns are no list")

        def part(kind: Any, entries: Any) -> Any:
            if kind is Kind and isinstance(entries, dict):
                # Of models that were saved before there was one.
                entries = {"cofactor": 1.0, **entries}
            if not isinstance(entries, dict) or entries.keys() != {f.name for f in fields(kind)}:
                raise Refused(f"a {kind.__name__} has other entries")
            filled = {}
            for name, value in entries.items():
                if value is None:
                    # Of the numbers that may be infinite only lower ends are so downwards.
                    value = -inf if name in ("low", "slot_low") else inf
                types = {"is_whole": bool, "name": str}.get(name, float)
                value = float(value) if types is float and type(value) is int else value
                if type(value) is not types or (types is str and value not in KINDS):
                    raise Refused(f"{value!r} is no {name}")
                filled[name] = value
            widths = [filled[name] for name in _POSITIVE if name in filled]
            if not (min(widths) > 0 and filled["low"] < filled["high"]):
                raise Refused(f"a {kind.__name__} has no width")
            return kind(**filled)

        columns = []
        for entry in values:
            if not isinstance(entry, dict) or not {"kind", "levels", "intervals"} <= entry.keys():
                raise Refused("a column has other entries")
            levels = tuple(part(Level, level) for level in entry["levels"])
            intervals = tuple(part(Interval, interval) for interval in entry["intervals"])
            column = Column(part(Kind, entry["kind"]), levels, intervals)
            if not levels and not intervals and column.kind.name != "circular":
                raise Refused("a column has no values")
            columns.append(column)
        return cls(tuple(columns))


def _forward(x: Any, column: Column, xp: Any) -> tuple[Any, Any]:
    """A value of a column without levels, as a coordinate, and the slope's logarithm."""
    if column.kind.name == "circular":
        speed = tau / column.kind.period
        angle = x * speed
        return angle - tau * xp.floor((angle + pi) / tau), xp.zeros_like(angle) + log(speed)
    return column.intervals[0].forward(x, xp)


def _backward(z: Any, column: Column, xp: Any) -> Any:
    if column.kind.name == "circular":
        period, low = column.kind.period, column.kind.low
        x = z * (period / tau)
        return x - period * xp.floor((x - low) / period)
    return column.intervals[0].inverse(z, xp)


def _column_boxes(x: np.ndarray, column: Column) -> Boxes:
    """The boxes of one column's values; its arrays have one axis."""
    # Half of a normal: any point's.
    boxes = Boxes(*(np.full(len(x), value) for value in (0.0, 0.0, 0.25, 0.5, -inf)))
    missing = np.isnan(x)
    boxes.center[missing], boxes.log_slope[missing] = np.nan, 0.0
    if column.kind.name == "circular":
        center, log_slope = _forward(x, column, np)
        return boxes._replace(center=center, log_slope=np.where(missing, 0.0, log_slope))
    for interval in column.intervals:
        if interval.is_whole:
            rows = np.flatnonzero((x > interval.low) & (x < interval.high) & (x == np.floor(x)))
            low = _end(interval, x[rows] - 0.5, interval.low, interval.slot_low)
            high = _end(interval, x[rows] + 0.5, interval.high, interval.slot_high)
            for part, values in zip(boxes, _noise(low, high, 0.0, 1.0), strict=True):
                part[rows] = values
        else:
            # The ends belong to what is bounded, if nothing is piled up there.
            rows = np.flatnonzero((x >= interval.low) & (x <= interval.high))
            boxes.center[rows], boxes.log_slope[rows] = interval.forward(x[rows])
    if column.levels:
        values = np.array([level.value for level in column.levels])
        at = np.minimum(np.searchsorted(values, x), len(values) - 1)
        rows = np.flatnonzero(values[at] == x)
        table = np.array([[lv.low, lv.high, lv.center, lv.scale] for lv in column.levels])
        for part, entries in zip(boxes, _noise(*table[at[rows]].T), strict=True):
            part[rows] = entries
    return boxes


def _end(interval: Interval, x: np.ndarray, end: float, slot_end: float) -> np.ndarray:
    """Where a whole number's unit of length ends in the slot."""
    return np.where(x == end, slot_end, interval.forward(x)[0])


def _noise(low: Any, high: Any, center: Any, scale: Any) -> tuple[Any, Any, Any, Any, Any]:
    """The entries of `Boxes` for normal noise between two ends."""
    low, high = (low - center) / scale, (high - center) / scale
    # Of the two tails only the lower one has digits to spare.
    flip = low + np.nan_to_num(high, posinf=1e300) > 0
    flip = np.where(np.isinf(low) & np.isinf(high), False, flip)
    lower, upper = np.where(flip, -high, low), np.where(flip, -low, high)
    start = scipy.special.ndtr(lower)
    mass = scipy.special.ndtr(upper) - start
    sign = np.where(flip, -1.0, 1.0)
    # Where nothing of the normal is left, the box is as good as its middle.
    middle = 0.5 * (
        np.where(np.isinf(lower), upper, lower) + np.where(np.isinf(upper), lower, upper)
    )
    gone = ~(mass > 1e-300)
    width = scale * (upper - lower)
    log_width = np.log(np.where(np.isfinite(width), np.maximum(width, 1e-300), 1.0))
    return (
        np.where(gone, center + scale * sign * middle, center),
        np.where(gone, 0.0, sign * scale),
        np.where(gone, 0.25, start),
        np.where(gone, 0.5, mass),
        np.where(gone, log_width, 0.0),
    )


def _column_values(z: np.ndarray, column: Column) -> np.ndarray:
    """The values of one column's coordinates."""
    if column.kind.name == "circular":
        return _backward(z, column, np)
    pieces = [(level.low, level) for level in column.levels]
    pieces += [(interval.slot_low, interval) for interval in column.intervals]
    pieces.sort(key=lambda pair: pair[0])
    at = np.searchsorted([low for low, _ in pieces[1:]], z, side="right")
    x = np.empty(len(z))
    for i, (_, piece) in enumerate(pieces):
        rows = np.flatnonzero(at == i)
        if isinstance(piece, Level):
            x[rows] = piece.value
            continue
        with np.errstate(over="ignore"):
            values = piece.inverse(z[rows])
        low, high = piece.low, piece.high
        if piece.is_whole:
            values = np.rint(np.clip(values, -1e300, 1e300))
            low, high = np.ceil(low), np.floor(high)
        else:
            # Inside for good: an end is a value of its own, or none.
            low, high = np.nextafter(low, inf), np.nextafter(high, -inf)
        x[rows] = np.clip(values, low, high)
    return x


def _fit_column(x: np.ndarray, kind: Kind, name: str) -> Column:
    """The map of one column, fitted to rows in proportion to their weights."""
    if kind.name == "circular":
        # Angles come back in the window that the rows are in: from 0, or about it.
        return Column(replace(kind, low=0.0 if (x >= 0).all() else -kind.period / 2))
    if kind.name in ("whole", "levels"):
        return _fit_counted(x, kind)
    refuse_categories(x, name)
    cofactor = kind.cofactor if kind.name == "arcsinh" else None
    atoms = set(find_atoms(x).tolist())
    # What is at a bound, be it one row, is not drawn from a density inside.
    atoms |= {end for end in (kind.low, kind.high) if (x == end).any()}
    if atoms:
        return Column(kind, *_around(x, sorted(atoms), kind.low, kind.high, cofactor=cofactor))
    return Column(kind, (), (fit_interval(x, kind.low, kind.high, cofactor=cofactor),))


def _fit_counted(x: np.ndarray, kind: Kind) -> Column:
    """The map of a column of whole numbers, or of a few values of any kind."""
    values, counts = np.unique(x, return_counts=True)
    if kind.name == "levels":
        return Column(kind, *_side_by_side([*zip(values, counts, strict=True)]))
    low = kind.low if isfinite(kind.low) else -_last(-values[::-1], counts[::-1])
    high = kind.high if isfinite(kind.high) else _last(values, counts)
    if values[0] >= 0:
        # Counts begin at zero.
        low = max(low, 0.0)
    if len(values) > MOST_LEVELS:
        atoms = find_atoms(x).tolist()
        if atoms:
            return Column(kind, *_around(x, atoms, low - 0.5, high + 0.5, is_whole=True))
        return Column(kind, (), (fit_interval(x, low - 0.5, high + 0.5, is_whole=True),))
    few = len(values) <= FEW_LEVELS
    if values[-1] - values[0] < WIDEST_TABLE:
        every = np.arange(values[0], values[-1] + 1)
        seen = np.full(len(every), UNSEEN_ROWS)
        seen[(values - values[0]).astype(int)] = counts
        values, counts = every, seen
    # Beyond the greatest number each is half as frequent as the one before.
    room = [int(min(n, 2 if few else N_BEYOND)) for n in (values[0] - low, high - values[-1])]
    more = [np.arange(1.0, n + 1) for n in room]
    values = np.concatenate([values[0] - more[0][::-1], values, values[-1] + more[1]])
    halved = [c * 0.5**m for c, m in zip((counts[0], counts[-1]), more, strict=True)]
    counts = np.concatenate([halved[0][::-1], counts, halved[1]])
    below = _tail(low - 0.5, values[0] - 0.5, counts[0])
    above = _tail(values[-1] + 0.5, high + 0.5, counts[-1])
    pieces = [*below, (values[0], counts[0])]
    for before, value, count in zip(values, values[1:], counts[1:], strict=False):
        pieces += [*_unseen(before, value), (value, count)]
    pieces += above
    return Column(kind, *(_side_by_side(pieces) if few else _adjacent(pieces)))


class _Piece(NamedTuple):
    """An interval to be placed, how much counts in it, and its ends in its own units."""

    interval: Interval
    count: float
    low: float = -REACH
    high: float = REACH


def _last(values: np.ndarray, counts: np.ndarray) -> float:
    """The greatest whole number that there can be: that of the rows, if more would have shown."""
    is_rare = counts[-1] < PILED_UP * counts.sum()
    if len(values) > 1 and (is_rare or counts[-1] ** 2 / counts[-2] < ROWS_BEYOND):
        return inf
    return float(values[-1])


def _unseen(start: float, end: float) -> list[_Piece]:
    """The whole numbers between two, which no row has: improbable ones, not impossible ones."""
    n = end - start - 1
    if n < 1:
        return []
    # All of their ends on the logit's scale are inside of the slot.
    interval = Interval(start + 0.5, end - 0.5, sd=(log(2 * n) + 1) / EMPTY_REACH, is_whole=True)
    return [_Piece(interval, UNSEEN_ROWS * min(n, 10), -EMPTY_REACH, EMPTY_REACH)]


def _tail(low: float, high: float, count: float) -> list[_Piece]:
    """Whole numbers beyond those that have places of their own, if there are such."""
    if not low < high:
        return []
    tail = Interval(low, high, is_whole=True)
    first = low + 1 if isfinite(low) else high - 1
    mean = float(tail.forward(np.float64(first))[0]) if high - low > 1 else 0.0
    ends = (-0.5, inf) if isfinite(low) and not isfinite(high) else (-inf, 0.5)
    # Between two ends it is the tail of the numbers below it, or above it.
    return [_Piece(replace(tail, mean=mean), count, *ends)]


def _around(
    x: np.ndarray,
    atoms: list[float],
    low: float,
    high: float,
    *,
    is_whole: bool = False,
    cofactor: float | None = None,
) -> tuple[tuple[Level, ...], tuple[Interval, ...]]:
    """Lone values, and the intervals beside and between them that rows are in."""
    half = 0.5 if is_whole else 0.0
    pieces: list[Any] = []
    if not is_whole:
        # Between two values that are piled up there may be one that is not, and nothing else.
        between = (x[(x > start) & (x < end)] for start, end in pairwise([low, *atoms, high]))
        lone = [float(rows[0]) for rows in between if len(rows) and (rows == rows[0]).all()]
        atoms = sorted([*atoms, *lone])
    ends = [low, *atoms, high]
    for i, (start, end) in enumerate(pairwise(ends)):
        if i > 0:
            pieces.append((start, float((x == start).sum())))
        inside = x[(x > start) & (x < end)]
        start, end = start + half * (i > 0), end - half * (i < len(atoms))
        if len(inside):
            interval = fit_interval(inside, start, end, is_whole=is_whole, cofactor=cofactor)
            z, _ = interval.forward(inside)
            reach = max(REACH, 0.5 - z.min()), max(REACH, 0.5 + z.max())
            pieces.append(_Piece(interval, float(len(inside)), -reach[0], reach[1]))
        elif 0 < i < len(ends) - 2:
            # Another row may well lie there: it is improbable, not impossible.
            empty = _Piece(Interval(start, end), UNSEEN_ROWS, -EMPTY_REACH, EMPTY_REACH)
            pieces += _unseen(start - half, end + half) if is_whole else [empty]
    return _side_by_side(pieces)


def _side_by_side(pieces: list[Any]) -> tuple[tuple[Level, ...], tuple[Interval, ...]]:
    """Lone values and intervals next to each other, each in a slot of its own width.

    Apart from each other they are components of a mixture, which joins them with other columns.

    Args:
        pieces: Pairs of a value and its rows, and intervals.
    """
    slots, at = [], 0.0
    for piece in pieces:
        lone = not isinstance(piece, _Piece)
        low, high = (-ATOM_WIDTH / 2, ATOM_WIDTH / 2) if lone else (piece.low, piece.high)
        # Ends at infinity are those of the line.
        low, high = max(low, -MOST_REACH), min(high, MOST_REACH)
        slots.append((at, at - low, at + high - low))
        at += high - low
    middles = np.array([middle for _, middle, _ in slots])
    counts = np.array([piece.count if isinstance(piece, _Piece) else piece[1] for piece in pieces])
    widths = np.array([1.0 if isinstance(piece, _Piece) else ATOM_NOISE for piece in pieces])
    mean = np.average(middles, weights=counts)
    sd = np.sqrt(np.average((middles - mean) ** 2 + widths**2, weights=counts))
    # A rare value is not to be many standard deviations away.
    sd = float(max(sd, ATOM_WIDTH / 3))
    edges = [-inf, *((end - mean) / sd for _, _, end in slots[:-1]), inf]
    return _parts(pieces, edges, (middles - mean) / sd, sd)


def _adjacent(pieces: list[Any]) -> tuple[tuple[Level, ...], tuple[Interval, ...]]:
    """Values next to each other, such that the noise of all together is a standard normal."""
    counts = np.array([piece.count if isinstance(piece, _Piece) else piece[1] for piece in pieces])
    below = np.cumsum(counts)[:-1] / counts.sum()
    above = np.cumsum(counts[::-1])[::-1][1:] / counts.sum()
    edges = [
        -inf,
        *np.where(below < 0.5, scipy.special.ndtri(below), -scipy.special.ndtri(above)),
        inf,
    ]
    middles, units = np.zeros(len(pieces)), np.ones(len(pieces))
    for i, (piece, low, high) in enumerate(zip(pieces, edges, edges[1:], strict=False)):
        if isinstance(piece, _Piece):
            if isfinite(high - low):
                units[i] = (piece.high - piece.low) / (high - low)
            end, of_piece = (low, piece.low) if isfinite(low) else (high, piece.high)
            middles[i] = end - of_piece / units[i]
    return _parts(pieces, edges, middles, units, noise=1.0)


def _parts(
    pieces: list[Any], edges: list[float], middles: Any, units: Any, noise: float = ATOM_NOISE
) -> tuple[tuple[Level, ...], tuple[Interval, ...]]:
    """The pieces in their places.

    Args:
        pieces: Pairs of a value and its rows, and intervals.
        edges: The ends of their slots, one more than there are pieces.
        middles: Where a value's noise, and the zero of an interval, is.
        units: What is one unit of the line in each piece's own units, or in those of all.
        noise: Standard deviation of a value's noise in these units.
    """
    levels, intervals = [], []
    units = np.broadcast_to(units, len(pieces))
    for piece, *place in zip(pieces, edges, edges[1:], middles, units, strict=False):
        low, high, middle, sd = map(float, place)
        if not isinstance(piece, _Piece):
            levels.append(Level(float(piece[0]), low, high, middle, noise / sd))
            continue
        old = piece.interval
        scale = old.sd * sd
        placed = replace(old, mean=old.mean - middle * scale, sd=scale, softness=old.softness / sd)
        intervals.append(replace(placed, slot_low=low, slot_high=high))
    return tuple(levels), tuple(intervals)


def _described(column: Column) -> str:
    """What a column was taken for."""
    words = str(column.kind)
    if column.kind.name in ("whole", "levels"):
        return words
    atoms = [f"{level.value:g}" for level in column.levels]
    found = column.kind.name != "arcsinh"
    drawn_in = found and [interval for interval in column.intervals if interval.arcsinh_scale]
    words += ", heavy tails drawn in by arcsinh" if drawn_in else ""
    return words + (f", piled up at {' and '.join(atoms)}" if atoms else "")

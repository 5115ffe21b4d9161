"""What kinds of values the columns of a table hold: as they are declared, or found."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite, pi
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from flowebm.refusal import Refused

#: Share of the rows that makes a value piled up, if it is also this many times as frequent as
#: the values beside it: rounded numbers are all shared by some rows.
PILED_UP, STANDS_OUT = 0.01, 10.0

#: Distinct values on each side of one that tell how frequent values are there, and how many of
#: them, the most frequent, may be piled up as well.
BESIDE, OTHER_PILES = 10, 4

#: Distinct values up to which a column that is not of whole numbers is one of categories, where
#: each has at least so many rows on average.
CATEGORIES, ROWS_A_CATEGORY = 10, 10

#: Share of rows with a value of their own from which on whole numbers are taken for real ones.
ALMOST_DISTINCT = 0.9

#: The names of all kinds.
KINDS = ("real", "bounded", "whole", "circular", "levels", "arcsinh")

_CHOICES = (
    "'real', (low, high), 'whole', ('whole', low, high), 'circular', ('circular', period), "
    "('arcsinh', cofactor)"
)


@dataclass(frozen=True)
class Kind:
    r"""What kind of values a column holds.

    Attributes:
        name: `real`, `bounded`, `whole`, `circular`, `arcsinh`, or `levels`: a few values and no
            other.
        low: The lowest value that there can be; minus infinity where there is none. Of circular
            values the one that a turn begins at.
        high: The highest one.
        period: Of circular values.
        cofactor: $c$ of `arcsinh`: values are those of $\sinh^{-1}(x / c)$ to the model, linear
            near zero and logarithmic beyond $c$, as cytometers' are looked at.
    """

    name: Literal["real", "bounded", "whole", "circular", "levels", "arcsinh"]
    low: float = -inf
    high: float = inf
    period: float = 2 * pi
    cofactor: float = 1.0

    def __str__(self) -> str:
        ends = ":".join(f"{end:g}" if isfinite(end) else "" for end in (self.low, self.high))
        if self.name == "bounded":
            return ends
        if self.name == "circular":
            return f"circular:{self.period:.10g}"  # Where a turn begins is no part of the kind.
        if self.name == "arcsinh":
            return f"arcsinh:{self.cofactor:.10g}"
        return self.name if ends == ":" else f"{self.name}:{ends}"


#: How a user names a kind, see `parse_kind`.
KindLike: TypeAlias = (
    str
    | tuple[float | None, float | None]
    | tuple[str, float | None]
    | tuple[str, float | None, float | None]
    | Kind
)


def parse_kind(kind: KindLike) -> Kind:
    """A kind, as users write it in Python or on the command line.

    Args:
        kind: `"real"`; `(low, high)`, either end `None`, or the text `low:high`; `"whole"`,
            `("whole", low, high)` or `whole:low:high`; `"circular"`, `("circular", period)` or
            `circular:period`; `("arcsinh", cofactor)` or `arcsinh:cofactor`; `"levels"`.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(kind, Kind):
        return kind
    refusal = Refused(f"{kind!r} is no kind of column: give {_CHOICES} or 'levels'.")
    parts = kind.split(":") if isinstance(kind, str) else kind
    if not isinstance(parts, list | tuple) or not parts:
        raise refusal
    name, *numbers = parts if isinstance(parts[0], str) and parts[0].isalpha() else ("", *parts)
    try:
        values = [None if n is None or n == "" else float(n) for n in numbers]
    except (TypeError, ValueError):
        raise refusal from None
    if any(v is not None and np.isnan(v) for v in values):
        raise refusal
    if name == "circular" and len(values) < 2:
        period = values[0] if values and values[0] is not None else 2 * pi
        if not (0 < period < inf):
            raise Refused(f"The period of a circular column must be above 0; got {period:g}.")
        return Kind("circular", period=period)
    if name == "arcsinh" and len(values) == 1 and values[0] is not None:
        if not (0 < values[0] < inf):
            raise Refused(f"The cofactor of arcsinh must be above 0; got {values[0]:g}.")
        return Kind("arcsinh", cofactor=values[0])
    if name in ("real", "levels") and not values:
        return Kind(name)
    if (name == "" or name == "whole") and (len(values) == 2 or (name and not values)):
        low, high = values or (None, None)
        low, high = -inf if low is None else low, inf if high is None else high
        if not low < high:
            raise Refused(f"The ends of {kind!r} must be two numbers, the lower one first.")
        if name == "" and not (isfinite(low) or isfinite(high)):
            return Kind("real")
        return Kind("whole" if name else "bounded", low, high)
    raise refusal


def kinds_of(
    columns: str | Mapping[str | int, KindLike], names: tuple[str, ...]
) -> dict[int, Kind]:
    """The kinds that were declared, by the column's number.

    Args:
        columns: `"auto"`, or kinds by the name or number of a column; others are found.
        names: The names of the columns.

    Raises:
        ValueError: If there is no such column or no such kind.
    """
    if isinstance(columns, str):
        if columns != "auto":
            raise Refused(
                f"columns must be 'auto' or kinds by the names of columns; got {columns!r}."
            )
        return {}
    if not isinstance(columns, Mapping):
        raise TypeError(
            f"columns must be 'auto' or a dict of kinds by the names of columns; got a "
            f"{type(columns).__name__}."
        )
    return {find_column(column, names): parse_kind(kind) for column, kind in columns.items()}


def find_column(column: str | int, names: tuple[str, ...]) -> int:
    """The number of a column, from its name or its number from 0.

    Args:
        column: What a user calls it.
        names: The names of the columns.

    Raises:
        ValueError: If there is no such column, with the names that are near.
    """
    if column in names:
        return names.index(str(column))
    is_number = isinstance(column, int | np.integer) and not isinstance(column, bool)
    if is_number and 0 <= int(column) < len(names):
        return int(column)
    folded = {name.strip().casefold(): name for name in names}
    near = difflib.get_close_matches(str(column).strip().casefold(), folded, n=3)
    hint = " or ".join(repr(folded[name]) for name in near)
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    raise Refused(
        f"There is no column {column!r}"
        + (f": did you mean {hint}?" if hint else f": the columns are {listed}.")
    )


def find_kind(x: Float[np.ndarray, " n"]) -> Kind:
    """The kind of a column that nobody has declared: whole numbers, or real ones.

    Args:
        x: Its values.
    """
    if (x == np.floor(x)).all() and len(np.unique(x)) < ALMOST_DISTINCT * len(x):
        return Kind("whole")
    return Kind("real")


def check_kind(x: Float[np.ndarray, " n"], kind: Kind, name: str, where: str = "the data") -> None:
    """Refuse values that a column of that kind cannot hold.

    Args:
        x: The values, NaN where one is missing.
        kind: The kind.
        name: The column's name.
        where: What the message calls the table.

    Raises:
        ValueError: If there are such, with the row of the first, counted from 1.
    """
    if kind.name == "circular":
        return
    beyond = (x < kind.low) | (x > kind.high)
    if beyond.any():
        row = int(np.argmax(beyond))
        raise Refused(
            f"Row {row + 1} of column '{name}' in {where} is {x[row]:.10g}, outside of its bounds "
            f"{kind.low:g} to {kind.high:g} ({beyond.sum()} rows in all, counted from 1): correct "
            "the rows or the bounds."
        )
    if kind.name != "whole":
        return
    broken = x != np.floor(x)
    broken &= ~np.isnan(x)
    if broken.any():
        row = int(np.argmax(broken))
        raise Refused(
            f"Row {row + 1} of column '{name}' in {where} is {x[row]:.10g}, which is no whole "
            f"number ({broken.sum()} rows in all, counted from 1): round the column, or declare it "
            "'real'."
        )


def said_of_turns(x: Float[np.ndarray, " n"], kind: Kind, name: str) -> str | None:
    """A sentence on angles that are not in one turn, from 0 or about it, and are wrapped.

    Args:
        x: The column's values.
        kind: Its kind.
        name: Its name.
    """
    if kind.name != "circular":
        return None
    turns = [(x < low) | (x > low + kind.period) for low in (0.0, -kind.period / 2)]
    outside = min(turns, key=np.sum)
    if not outside.any():
        return None
    row = int(np.argmax(outside))
    return (
        f"{outside.sum()} rows of column '{name}' are outside of its period {kind.period:g}, the "
        f"first with {x[row]:.6g} in row {row + 1}: they are wrapped."
    )


def find_atoms(
    x: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, " k"]:
    """The values at which a column is piled up, in their order.

    Each is shared by at least `PILED_UP` of the rows, and by `STANDS_OUT` times as many as the
    value of a typical row, of the column and of those beside it, other piles apart. Rounded
    numbers, some with a digit more than others, are not piled up: a typical row shares its value.

    Args:
        x: The column's values.
        weights: How much each row counts; all alike by default.
    """
    values, rows, counts = np.unique(x, return_inverse=True, return_counts=True)
    shares = counts / len(x)
    if weights is not None:
        shares = np.bincount(rows, weights) / weights.sum()
    found = np.zeros(len(values), bool)
    usual = _typical(counts)
    candidates = np.flatnonzero((shares >= PILED_UP) & (counts >= 5))
    # The most frequent ones first: beside a pile, a smaller one stands out all the same.
    for i in candidates[np.argsort(-counts[candidates])]:
        beside = np.r_[max(0, i - BESIDE) : i, i + 1 : i + 1 + BESIDE]
        beside = beside[beside < len(values)]
        typical = max(usual, _typical(counts[beside[~found[beside]]]), 0.5)
        found[i] = counts[i] >= STANDS_OUT * typical
    return values[found]


def _typical(counts: Int[np.ndarray, " k"]) -> float:
    """How many rows share a typical row's value, the most frequent values apart."""
    rest = np.sort(counts)[: max(0, len(counts) - OTHER_PILES)]
    return float(rest[np.searchsorted(rest.cumsum(), rest.sum() / 2)]) if len(rest) else 0.0


def refuse_categories(x: Float[np.ndarray, " n"], name: str, where: str = "the data") -> None:
    """Refuse a column of a few values only, which has no density.

    Args:
        x: The column's values.
        name: Its name.
        where: What the message calls the table.

    Raises:
        ValueError: If it is one.
    """
    distinct = len(np.unique(x))
    if distinct <= min(CATEGORIES, len(x) / ROWS_A_CATEGORY):
        raise Refused(
            f"Column '{name}' in {where} has only {distinct} distinct values, each shared by many "
            "rows: it holds categories, which have no density. Take it for the labels or drop it, "
            "or declare it 'levels' to fit the probabilities of its values."
        )

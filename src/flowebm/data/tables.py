"""Tables of numbers in: files, arrays and data frames, checked at the door."""

import csv
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from flowebm.data.kinds import find_column
from flowebm.data.numpy_file import read_numpy
from flowebm.refusal import Refused

SUFFIXES = (".csv", ".parquet", ".npy", ".npz")

#: Kinds of files that are read and not written.
READ_SUFFIXES = (*SUFFIXES, ".fcs")

#: How pandas reads files of other kinds.
_WAYS_OUT = {
    ".feather": "pandas.read_feather('{}')",
    ".xlsx": "pandas.read_excel('{}')",
    ".xls": "pandas.read_excel('{}')",
    ".json": "pandas.read_json('{}')",
    ".tsv": "pandas.read_csv('{}', sep='\\t')",
}


class NotANumber(TypeError, Refused):
    """A table holds an object that is neither a number nor text: a `TypeError` as scikit-learn has
    it, and refused data as this library has it."""


class Table(NamedTuple):
    """Points as the rows of a matrix.

    Attributes:
        values: One point a row, shape `(n, d)`, float64 on the host.
        names: The names of the `d` columns.
        shape: Shape of one point: `(d,)`, or that of an image whose pixels are the columns.
        labels: The column of labels, where one was named: of any type, one a row.
    """

    values: Float[np.ndarray, "n d"]
    names: tuple[str, ...]
    shape: tuple[int, ...]
    labels: np.ndarray | None = None


class Choice(NamedTuple):
    """Which columns of a table are read.

    Attributes:
        labels: The name of the column of labels, which is kept apart; `None` for none.
        drop: Names of columns that are left out.
        columns: Names of the columns that are kept; `None` for all others.
        lenient: Whether columns that are not kept may be missing, as in a table to score.
    """

    labels: str | None = None
    drop: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    lenient: bool = False


#: All columns, and no labels.
ALL_COLUMNS = Choice()


def read_table(source: Any, *, images: bool = False, choice: Choice = ALL_COLUMNS) -> Table:
    """Read a table of numbers, one point a row.

    What does not depend on the use is refused here: text, unreadable files, anything but two
    dimensions. `check_table` refuses what cannot be fitted or scored.

    Args:
        source: Path of a `.csv` (with or without a header row), `.parquet`, `.fcs`, `.npy` or
            `.npz` file (its only array, or the one called `X` or `data`), a NumPy or JAX array, or
            a data frame of pandas or polars.
        images: Also take arrays of shape `(n, h, w)` and `(n, c, h, w)`, one image a row.
        choice: The columns to read.

    Returns:
        The values in float64, the names of the columns (`x1`, `x2`, ... where the source has
        none), the shape of one point and the labels.

    Raises:
        ValueError: With one sentence, if the source cannot be read, is empty, is not a table, lacks
            a column of the choice, or has text in a column. Rows are counted from 1, without the
            header.
    """
    if isinstance(source, str | Path):
        where = str(source)
        array, names = _read_file(Path(source))
    elif hasattr(source, "tocsr"):
        raise Refused(
            "Sparse input is not supported: a density needs every value; call its toarray()."
        )
    elif hasattr(source, "columns") and hasattr(source, "to_numpy"):
        where = "the data frame"
        # Of pandas and polars columns are read one by one; others are arrays with names.
        by_column = hasattr(source, "iloc") or hasattr(source, "get_column")
        array = source if by_column else np.asarray(source.to_numpy())
        names = tuple(map(str, source.columns))
    else:
        where = "the array"
        try:
            array, names = np.asarray(source), None
        except ValueError as error:
            raise Refused(
                f"The rows of {where} differ in length: give every row the same columns."
            ) from error
    ndim = getattr(array, "ndim", 2)
    allowed = (2, 3, 4) if images else (2,)
    if ndim not in allowed:
        advice = "images=True reads images" if ndim in (3, 4) else "give one row a point"
        raise Refused(
            f"Expected a table of rows and columns in {where}, got an array of shape "
            f"{array.shape}: {advice}."
        )
    if 0 in array.shape:
        # The words for no columns are those of scikit-learn.
        what = f"0 feature(s) (shape={array.shape}) while a minimum of 1 is required"
        what = f"shape {array.shape}" if array.shape[0] == 0 else what
        raise Refused(f"No values in {where}, {what}: give at least one row and one column.")
    shape = array.shape[1:]
    if names is None:
        array, names = array.reshape(len(array), -1), _default_names(shape)
    if choice._replace(lenient=False) == ALL_COLUMNS:
        return Table(_numbers(array, range(len(names)), names, where), names, shape)
    if len(shape) > 1:
        raise Refused(f"The points of {where} are images, whose pixels are not for choosing.")
    labels, kept = _chosen(choice, names, where)
    values = _numbers(array, kept, names, where)
    of_rows = None if labels is None else np.asarray(_column(array, labels))
    return Table(values, tuple(names[j] for j in kept), (len(kept),), of_rows)


def _chosen(choice: Choice, names: tuple[str, ...], where: str) -> tuple[int | None, list[int]]:
    """The number of the column of labels, and those of the columns that are kept."""

    def found(name: str) -> int:
        try:
            return find_column(name, names)
        except Refused as error:
            raise Refused(str(error).replace("column", f"column of {where} called", 1)) from None

    others = [name for name in (choice.labels, *choice.drop) if name is not None]
    if choice.lenient:
        others = [name for name in others if name in names]
    left_out = {found(name) for name in others}
    labels = found(choice.labels) if choice.labels in others else None
    kept = range(len(names)) if choice.columns is None else [found(n) for n in choice.columns]
    both = [names[j] for j in kept if j in left_out]
    if choice.columns is not None and both:
        raise Refused(f"The column {both[0]!r} is asked for and left out: choose one of the two.")
    if len(set(kept)) < len(kept):
        raise Refused(f"A column is asked for twice in {', '.join(choice.columns or ())}.")
    kept = [j for j in kept if j not in left_out]
    if not kept:
        raise Refused(f"No column of {where} is left to fit: leave out fewer.")
    return labels, kept


def check_table(
    values: Float[np.ndarray, "n d"],
    names: tuple[str, ...],
    *,
    min_rows: int,
    width: int | None = None,
    allow_constant: bool = False,
    allow_missing: bool = False,
    where: str = "the data",
) -> None:
    """Refuse a table that cannot be fitted or scored.

    Args:
        values: One point a row, shape `(n, d)`.
        names: The names of the `d` columns.
        min_rows: The fewest rows that will do.
        width: The number of columns expected, where it is known.
        allow_constant: Accept a column with one value only, as scoring does.
        allow_missing: Accept missing values (NaN), but no column of nothing else.
        where: What the messages call the table.

    Raises:
        ValueError: With one sentence that says what is wrong, where, and what to do. Rows are
            counted from 1, without the header.
    """
    if values.ndim != 2:
        raise Refused(
            f"Expected a table of rows and columns in {where}, got an array of shape "
            f"{values.shape}: give one row a point."
        )
    rows, columns = values.shape
    if width is not None and columns != width:
        raise Refused(
            f"Expected {width} columns in {where}, got {columns}: give the columns that the "
            "model was fitted to, in the same order."
        )
    bad = np.isinf(values) if allow_missing else ~np.isfinite(values)
    if bad.any():
        row, column = np.unravel_index(np.argmax(bad), bad.shape)
        ways = "remove or fill them"
        if np.isnan(values).any() and not np.isinf(values).any():
            ways += ", or fit the entries that are there by missing='marginalise'"
        raise Refused(
            f"Row {row + 1} of column '{names[column]}' in {where} is {values[row, column]}, the "
            f"first of {bad.sum()} missing or infinite values (rows counted from 1): {ways}."
        )
    missing = np.isnan(values) if allow_missing else np.zeros((1, 1), bool)
    if (empty := np.flatnonzero(missing.all(axis=0))).size and not allow_constant:
        raise Refused(f"Column '{names[empty[0]]}' in {where} has no value in any row: drop it.")
    if rows < min_rows:
        raise Refused(f"Too few rows in {where}: got n_samples={rows}, needs at least {min_rows}.")
    first = values[np.argmin(missing, axis=0), np.arange(columns)] if missing.any() else values[0]
    constant = np.flatnonzero(((values == first) | missing).all(axis=0))
    if constant.size and not allow_constant:
        others = f", like {constant.size - 1} other columns" if constant.size > 1 else ""
        raise Refused(
            f"Column '{names[constant[0]]}' in {where} has the value {first[constant[0]]:g} "
            f"in every row{others}, so it has no density: drop it."
        )


def _default_names(shape):
    if len(shape) == 1:
        return tuple(f"x{i + 1}" for i in range(shape[0]))
    return tuple(f"pixel{list(i)}" for i in np.ndindex(*shape))


def _column(table, j):
    """One column of an array or of a frame of pandas or polars."""
    if isinstance(table, np.ndarray):
        return table[:, j]
    return table.iloc[:, j].to_numpy() if hasattr(table, "iloc") else table[:, j].to_numpy()


def _numbers(table, kept, names, where):
    """The values of some columns in double precision, without a copy of the others."""
    if isinstance(table, np.ndarray) and table.dtype.kind in "fiub" and len(kept) == len(names):
        return np.array(table, np.float64, order="C")
    values = np.empty((len(table), len(kept)))
    for place, j in enumerate(kept):
        column = _column(table, j)
        if column.dtype.kind not in "fiubOUS":
            raise Refused(
                f"Complex data not supported: the values in {where} are of type {column.dtype}; "
                "convert them to real numbers."
                if column.dtype.kind == "c"
                else f"The values of column '{names[j]}' in {where} are of type {column.dtype}: "
                "convert them to real numbers, or leave the column out."
            )
        try:
            values[:, place] = column.astype(np.float64)
        except (TypeError, ValueError):
            values[:, place] = [_number(v, i, names[j], where) for i, v in enumerate(column)]
    return values


def _number(value, row, name, where):
    # Missing values stay missing here: check_table counts them and says where the first is.
    if value is None or type(value).__name__ == "NAType":
        return np.nan
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        is_text = isinstance(error, ValueError)
        refusal = Refused if is_text else NotANumber
        reason = "" if is_text else f" ({error})"
        raise refusal(
            f"Row {row + 1} of column '{name}' in {where} is {str(value)[:40]!r}, not a number"
            f"{reason} (rows counted from 1): drop the column, take it for the labels, or encode "
            "it as numbers."
        ) from None


def _read_file(path):
    suffix = path.suffix.lower()
    if suffix in _WAYS_OUT:
        raise Refused(
            f"Files such as {path} are not read: write a .parquet or .csv file with "
            f"`{_WAYS_OUT[suffix].format(path)}.to_parquet(...)`."
        )
    if suffix not in READ_SUFFIXES:
        raise Refused(
            f"Cannot tell the kind of file of {path}: its name must end in "
            f"{', '.join(READ_SUFFIXES)}."
        )
    if not path.is_file():
        raise Refused(f"There is no file {path}: check the path.")
    if path.stat().st_size == 0:
        raise Refused(f"The file {path} is empty: write it again.")
    readers = {".csv": _read_csv, ".parquet": _read_parquet, ".fcs": _read_fcs}
    read = readers.get(suffix, _read_numpy)
    return read(path)


def _unreadable(path, kind, error):
    reason = " ".join(str(error).split())[:120].rstrip(".")
    # A disk that does not answer says nothing of what the file holds.
    of_the_disk = isinstance(error, OSError) and error.errno is not None
    advice = "look at its disk and its permissions" if of_the_disk else "write it again"
    return Refused(f"Cannot read {path} as {kind} ({reason}): {advice}.")


def _read_csv(path):
    import pandas as pd

    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = next((row for row in csv.reader(file) if any(c.strip() for c in row)), [])
        header = _is_header(first)
        with warnings.catch_warnings():
            # Values beyond the header's names would become row labels, or be dropped.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path, header=0 if header else None, index_col=False, encoding="utf-8-sig"
            )
    except pd.errors.ParserWarning as error:
        raise Refused(
            f"The rows of {path} have more values than its header has names: name every column."
        ) from error
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(path, "CSV in UTF-8", error) from error
    if not header:
        return frame, _default_names((frame.shape[1],))
    for i, name in enumerate(first):
        if not name.strip():
            raise Refused(
                f"Column {i + 1} of {path} has no name, as an exported row number has none: drop "
                "it or name it."
            )
    return frame, tuple(str(name).strip() for name in frame.columns)


def _is_header(first):
    """Whether a first row names the columns: any text, or the numbers of the columns in order.

    A data frame without names is exported under the header 0, 1, 2, ...; taken for data, it
    would be a point that nobody observed.
    """
    if any(cell.strip() and not _is_number(cell) for cell in first):
        return True
    numbers = [cell.strip() for cell in first]
    return len(first) > 1 and numbers == [str(i) for i in range(len(first))]


def _is_number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _read_parquet(path):
    import pandas as pd
    import pyarrow as pa

    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, "Parquet", error) from error
    return frame, tuple(map(str, frame.columns))


def _read_fcs(path):
    """Events of flow cytometry, with the channels' names from the file."""
    try:
        import flowio  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise Refused(
            f"Reading {path} needs the package flowio: `pip install 'flowebm[fcs]'`."
        ) from error
    try:
        events = flowio.FlowData(str(path))
        values = np.asarray(events.as_array(), np.float64)
    except (flowio.exceptions.FCSParsingError, OSError, ValueError, KeyError) as error:
        raise _unreadable(path, "FCS", error) from error
    # Markers where they are given, detectors elsewhere.
    pairs = zip(events.pns_labels, events.pnn_labels, strict=True)
    names = tuple((marker.strip() or detector.strip()) for marker, detector in pairs)
    if len(set(names)) < len(names):
        names = tuple(map(str.strip, events.pnn_labels))
    return values, names


def _read_numpy(path):
    names = []

    def choose(files):
        names.extend(files)
        return files if len(files) == 1 else [n for n in ("X", "data") if n in files][:1]

    arrays = read_numpy(path, choose)
    if not arrays:
        listed = ", ".join(repr(n) for n in names) or "none"
        raise Refused(f"Of the arrays in {path} ({listed}) none is called 'X' or 'data'.")
    return next(iter(arrays.values())), None

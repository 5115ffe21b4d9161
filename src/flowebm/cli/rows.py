"""Rows of numbers out: to a file whose name says its kind."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flowebm.atomic_write import atomic_write
from flowebm.data.tables import SUFFIXES
from flowebm.refusal import Refused

if TYPE_CHECKING:
    import pandas as pd


def check_output(path: Path, *, overwrite: bool, pictures: bool = False) -> None:
    """Refuse a file that cannot or must not be written, before any work is done for it.

    Args:
        path: The file.
        overwrite: Whether it may be there already.
        pictures: Whether it may be a picture.

    Raises:
        ValueError: If its kind is unknown, it is there already, or its folder is not.
    """
    suffixes = (*SUFFIXES, ".png") if pictures else SUFFIXES
    if path.suffix.lower() not in suffixes:
        raise Refused(_unknown_ending(path, suffixes))
    if path.is_dir():
        raise Refused(f"{path} is a directory: give the name of a file.")
    if path.exists() and not overwrite:
        raise Refused(f"{path} exists: give another name. (--overwrite would replace it.)")
    if not path.parent.is_dir():
        raise Refused(f"There is no folder {path.parent}: make it first.")
    if not os.access(path.parent, os.W_OK):
        raise Refused(f"The folder {path.parent} cannot be written in: give another file.")


def write_rows(
    path: Path, values: np.ndarray, names: Sequence[str], shape: tuple[int, ...]
) -> None:
    """Write rows, all or nothing.

    Args:
        path: A `.csv` or `.parquet` file, with named columns, or a `.npy` or `.npz` file.
        values: One point a row, flattened.
        names: The columns' names.
        shape: Shape of one point, which array files keep.
    """

    def frame() -> "pd.DataFrame":
        import pandas as pd

        return pd.DataFrame(values, columns=list(names))

    _write(path, frame, values.reshape(-1, *shape))


def write_draws(
    path: Path, draws: np.ndarray, names: Sequence[str], shape: tuple[int, ...]
) -> None:
    """Write several draws of the same rows, all or nothing; one draw is written as rows are.

    Args:
        path: A `.csv` or `.parquet` file, in which a first column `draw`, from 0, tells the
            draws apart, or a `.npy` or `.npz` file, in which they are the first axis.
        draws: Shape `(draws, rows, columns)`.
        names: The columns' names.
        shape: Shape of one point, which array files keep.
    """
    number, rows, columns = draws.shape
    if number == 1:
        return write_rows(path, draws[0], names, shape)

    def frame() -> "pd.DataFrame":
        import pandas as pd

        table = pd.DataFrame(draws.reshape(-1, columns), columns=list(names))
        table.insert(0, "draw", np.repeat(np.arange(number), rows))
        return table

    return _write(path, frame, draws.reshape(number, rows, *shape))


def _write(path: Path, frame: "Callable[[], pd.DataFrame]", array: np.ndarray) -> None:
    """Write a table or an array, as the file's name asks."""
    suffix = path.suffix.lower()
    content = io.BytesIO()
    if suffix == ".csv":
        frame().to_csv(content, index=False)
    elif suffix == ".parquet":
        frame().to_parquet(content, index=False)
    elif suffix == ".npy":
        np.save(content, array)
    elif suffix == ".npz":
        np.savez_compressed(content, X=array)
    else:
        raise Refused(_unknown_ending(path, SUFFIXES))
    with atomic_write(path) as file:
        file.write(content.getbuffer())


def _unknown_ending(path: Path, suffixes: Sequence[str]) -> str:
    return f"Cannot tell the kind of file of {path}: its name must end in {', '.join(suffixes)}."

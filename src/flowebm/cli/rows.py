"""Rows of numbers out: to a file whose name says its kind."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from flowebm.data.tables import SUFFIXES


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse a file that cannot or must not be written, before any work is done for it.

    Args:
        path: The file.
        overwrite: Whether it may be there already.

    Raises:
        ValueError: If its kind is unknown, it is there already, or its folder is not.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"Cannot tell the kind of file of {path}: its name must end in {', '.join(SUFFIXES)}."
        )
    if path.is_dir():
        raise ValueError(f"{path} is a directory: give the name of a file.")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists: give another name, or --overwrite to replace it.")
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder {path.parent}: make it first.")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"The folder {path.parent} cannot be written in: give another file.")


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
    suffix = path.suffix.lower()
    content = io.BytesIO()
    if suffix == ".csv":
        pd.DataFrame(values, columns=list(names)).to_csv(content, index=False)
    elif suffix == ".parquet":
        pd.DataFrame(values, columns=list(names)).to_parquet(content, index=False)
    elif suffix == ".npy":
        np.save(content, values.reshape(-1, *shape))
    else:
        np.savez_compressed(content, X=values.reshape(-1, *shape))
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content.getvalue())
    os.replace(temporary, path)

"""The data sets that have a name."""

import difflib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Shaped

from flowebm.data import tabular
from flowebm.data.dequantise import dequantise
from flowebm.data.image_catalogue import available_images, image_set_name
from flowebm.data.tables import ALL_COLUMNS, READ_SUFFIXES, Choice, check_table, read_table
from flowebm.data.targets import (
    AbstractTarget,
    Checkerboard,
    Funnel,
    GaussianMixture4,
    Moons,
    Multimodal10,
    Rings,
    Sine,
    Swirl,
)
from flowebm.refusal import Refused

_TARGETS: dict[str, tuple[Callable[..., AbstractTarget], str]] = {
    "mixture": (GaussianMixture4, "four Gaussians of weights .5, .25, .15, .1; any dim from 2"),
    "rings": (Rings, "two concentric rings of masses .7 and .3, 2-D"),
    "moons": (Moons, "two interleaved half circles, 2-D"),
    "sine": (Sine, "a sine wave with Gaussian noise, 2-D"),
    "swirl": (Swirl, "a spiral band, 2-D"),
    "checkerboard": (Checkerboard, "eight squares of a 4x4 board, 2-D"),
    "funnel": (Funnel, "Neal's funnel; any dim from 2"),
    "multimodal10": (Multimodal10, "a chain of ten coordinates with 512 narrow modes"),
}
_TABLES: dict[str, tuple[Callable[[], tabular.LabelledTable], str]] = {
    "digits": (tabular.digits, "1,797 handwritten digits of 8x8 pixels, dequantised"),
    "iris": (tabular.iris, "150 flowers, 4 lengths"),
    "wine": (tabular.wine, "178 wines, 13 measurements"),
    "breast-cancer": (tabular.breast_cancer, "569 tumours, 30 measurements"),
    "diabetes": (tabular.diabetes, "442 patients, 10 measurements, one of them binary"),
}
_ANY_DIM = ("mixture", "funnel")
# In single precision a tenth of its draws would lie on the edge of the support.
_DOUBLE = ("multimodal10",)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Points to fit, with the truth where it is known.

    Attributes:
        name: The name in the catalogue, or the path.
        values: One point a row, shape `(n, d)`, float64 on the host, all finite.
        names: The names of the `d` columns.
        target: The density that the points were drawn from, for synthetic sets.
        labels: The class of each row, shape `(n,)`, for labelled sets; of files the column that
            was named.
    """

    name: str
    values: Float[np.ndarray, "n d"]
    names: tuple[str, ...]
    target: AbstractTarget | None = None
    labels: Shaped[np.ndarray, " n"] | None = None


def available() -> dict[str, str]:
    """The names that `load_dataset` knows.

    Returns:
        A line for each that says what it is.
    """
    return {name: line for name, (_, line) in (_TARGETS | _TABLES).items()}


def load_dataset(
    name_or_path: str | Path,
    *,
    dim: int | None = None,
    n: int = 20_000,
    seed: int = 0,
    choice: Choice = ALL_COLUMNS,
    allow_missing: bool = False,
) -> Dataset:
    """Load a data set by its name, or a table from a file.

    Args:
        name_or_path: One of `available()`, or the path of a `.csv`, `.parquet`, `.npy` or `.npz`
            file.
        dim: Number of coordinates, for `mixture` and `funnel`; 2 unless given.
        n: Number of points to draw from a synthetic set; others come whole.
        seed: Seed of the draws, and of the noise that makes the digits' pixels continuous.
        choice: The columns of a file to read, and its labels.
        allow_missing: Whether entries of a file may be missing.

    Returns:
        The data set, in float64 on the host, the same for the same arguments.

    Raises:
        ValueError: With one sentence, if the name is unknown, `dim` or `n` do not fit, or the file
            is refused by `read_table` or has values that are not finite.
    """
    name = str(name_or_path).lower().replace("_", "-")
    if dim is not None and name not in _ANY_DIM:
        raise Refused(
            f"dim={dim} was given for {str(name_or_path)!r}, whose dimension is fixed: leave dim "
            f"out, or use {' or '.join(_ANY_DIM)}."
        )
    if name in _TARGETS | _TABLES and choice != choice._replace(labels=None, drop=(), columns=None):
        raise Refused(
            f"Columns and labels are chosen in a file, and {str(name_or_path)!r} is a built-in "
            "set: leave the choice out."
        )
    if name in _TARGETS:
        return _draw(name, {} if dim is None else {"dim": dim}, n, seed)
    if name in _TABLES:
        table = _TABLES[name][0]()
        values = dequantise(seed, table.values) if name == "digits" else table.values
        return Dataset(name, values, table.names, labels=table.labels)
    path = Path(name_or_path)
    if (images := image_set_name(name)) is not None and not path.exists():
        raise Refused(
            f"{images} is a set of images, not a table: read it by load_images, with the folder of "
            "its files."
        )
    if path.suffix.lower() not in READ_SUFFIXES and not path.exists():
        near = difflib.get_close_matches(name, available() | available_images(), n=3)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise Refused(
            f"There is no data set {str(name_or_path)!r}{hint}: give one of "
            f"{', '.join(available())}, or a file ending in {', '.join(READ_SUFFIXES)}."
        )
    table = read_table(path, choice=choice)
    check_table(
        table.values,
        table.names,
        min_rows=1,
        allow_constant=True,
        allow_missing=allow_missing,
        where=str(path),
    )
    return Dataset(str(path), table.values, table.names, labels=table.labels)


def _draw(name, options, n, seed):
    if n < 1:
        raise Refused(f"n must be at least 1 point of {name!r} to draw; got {n}.")
    target = _TARGETS[name][0](**options)
    with jax.enable_x64(True) if name in _DOUBLE else nullcontext():
        values = np.asarray(target.sample(jax.random.key(seed), (n,)), np.float64)
    names = tuple(f"x{i + 1}" for i in range(values.shape[1]))
    return Dataset(name, values, names, target)

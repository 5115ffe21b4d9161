"""The points that a command works on, and which of them are held out."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.random as jr
import numpy as np
from jaxtyping import Float

from flowebm.data import (
    AbstractTarget,
    Choice,
    Dataset,
    Images,
    check_table,
    dequantise,
    load_dataset,
    load_images,
    read_table,
    split,
)
from flowebm.data.image_catalogue import image_set_name
from flowebm.data.tables import ALL_COLUMNS
from flowebm.refusal import Refused

#: Points drawn from a known truth to measure a model with.
FRESH_POINTS = 20_000

#: Built-in sets whose rows are images, with the shape of one.
_IMAGES = {"digits": (1, 8, 8)}


@dataclass(frozen=True, eq=False)
class Points:
    """A data set as a command takes it.

    Attributes:
        dataset: The values, the columns' names and, for synthetic sets, the truth.
        shape: Shape of one point where it is an image, or `None`.
        pixel_levels: Number of levels where the values are whole-number pixels, or `None`.
    """

    dataset: Dataset
    shape: tuple[int, ...] | None
    pixel_levels: int | None = None

    @property
    def sha256(self) -> str:
        """Checksum of the values and of the table's shape."""
        values = np.ascontiguousarray(self.dataset.values)
        return hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()

    def dequantised(self, seed: int) -> "Points":
        """The same with uniform noise on the whole numbers.

        Args:
            seed: Seed of the noise.

        Raises:
            ValueError: If the values are not whole numbers.
        """
        return replace(
            self, dataset=replace(self.dataset, values=dequantise(seed, self.dataset.values))
        )


def read_points(
    data: str,
    *,
    dim: int | None = None,
    n: int = 20_000,
    seed: int = 0,
    folder: Path | None = None,
    download: bool = False,
    choice: Choice = ALL_COLUMNS,
    allow_missing: bool = False,
) -> Points:
    """Read a built-in data set, a file, or a folder of images.

    Args:
        data: A name or a path.
        dim: Coordinates of a synthetic set of any dimension.
        n: Points of a synthetic set.
        seed: Seed of synthetic points and of noise.
        folder: The folder of the files of a set of images.
        download: Whether to fetch files that the folder lacks.
        choice: The columns of a file to read, and its labels.
        allow_missing: Whether entries of a file may be missing.

    Raises:
        ValueError: If the data are refused, in one sentence.
    """
    path = Path(data)
    if image_set_name(data) is not None:
        # All that there is: the run holds out its own test part.
        return _image_points(load_images(data, folder, part="all", download=download))
    if folder is not None or download:
        raise Refused(
            f"--data-dir and --download are for sets of images (mnist, ...); {data!r} is none: "
            "leave them out."
        )
    if path.is_dir():
        return _image_points(load_images(path))
    if path.suffix.lower() in (".npy", ".npz"):
        # Array files may hold images, which have a shape of their own.
        table = read_table(path, images=True, choice=choice)
        check_table(
            table.values,
            table.names,
            min_rows=1,
            allow_constant=True,
            allow_missing=allow_missing,
            where=data,
        )
        dataset = Dataset(data, table.values, table.names, labels=table.labels)
        shape = _with_channel(table.shape)
    else:
        dataset = load_dataset(
            data, dim=dim, n=n, seed=seed, choice=choice, allow_missing=allow_missing
        )
        shape = None if path.exists() and path.suffix else _IMAGES.get(dataset.name)
    return Points(dataset, shape)


def _image_points(images: Images) -> Points:
    values = images.pixels.reshape(len(images.pixels), -1)
    names = tuple(f"pixel{i + 1}" for i in range(values.shape[1]))
    dataset = Dataset(images.name, values, names, labels=images.labels)
    return Points(dataset, images.pixels.shape[1:], pixel_levels=256)


def read_points_of_width(
    data: str,
    width: int,
    *,
    n: int = FRESH_POINTS,
    seed: int = 0,
    noise: bool = False,
    folder: Path | None = None,
    choice: Choice = ALL_COLUMNS,
    allow_missing: bool = False,
) -> Points:
    """Read data for a model that is there, in its number of columns.

    Args:
        data: A name or a path.
        width: The model's number of columns.
        n: Points of a synthetic set.
        seed: Seed of synthetic points and of noise.
        noise: Whether whole numbers are to be made continuous; other values stay.
        folder: The folder of the files of a set of images.
        choice: The columns of a file to read, and its labels.
        allow_missing: Whether entries of a file may be missing.

    Raises:
        ValueError: If the data are refused or have another width.
    """
    points = read_points(
        data, n=n, seed=seed, folder=folder, choice=choice, allow_missing=allow_missing
    )
    if points.dataset.target is not None and points.dataset.values.shape[1] != width:
        # Sets of any dimension come in the model's; the others keep their own and are refused.
        with suppress(Refused):
            points = read_points(data, dim=width, n=n, seed=seed)
    dataset = points.dataset
    check_table(
        dataset.values,
        dataset.names,
        min_rows=1,
        width=width,
        allow_constant=True,
        allow_missing=allow_missing,
        where=data,
    )
    if noise and (dataset.values == np.floor(dataset.values)).all():
        return points.dequantised(seed)
    return points


def hold_out(
    points: Points, test_fraction: float, seed: int
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"]]:
    """The rows to fit and the rows to measure with.

    Args:
        points: The data.
        test_fraction: Share of the rows to measure with.
        seed: Seed of the choice.

    Returns:
        Both parts. Where the truth is known all rows are fitted, and fresh points are drawn.

    Raises:
        ValueError: If the fraction leaves a part empty.
    """
    dataset = points.dataset
    if dataset.target is not None:
        return dataset.values, fresh_points(dataset.target, seed)
    parts = split(jr.fold_in(jr.key(seed), 1), dataset.values, 0.0, test_fraction)
    return parts.train, parts.test


def fresh_points(target: AbstractTarget, seed: int) -> Float[np.ndarray, "m d"]:
    """Points of a known truth that no run was trained on: `load_dataset` draws with another key.

    Args:
        target: The truth.
        seed: Seed of the draws.
    """
    draws = target.sample(jr.fold_in(jr.key(seed), 2), (FRESH_POINTS,))
    return np.asarray(draws, np.float64)


def _with_channel(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    if len(shape) == 1:
        return None
    return shape if len(shape) == 3 else (1, *shape)


def choice_of(options: dict[str, Any]) -> Choice:
    """The columns that a run's options chose, for a table that may lack those left out.

    Args:
        options: The options in a run's configuration.
    """
    columns = options.get("columns")
    return Choice(
        options.get("labels"),
        tuple(options.get("drop") or ()),
        None if columns is None else names_of(columns),
        lenient=True,
    )


def names_of(columns: str) -> tuple[str, ...]:
    """Names that are separated by commas.

    Args:
        columns: The names.
    """
    return tuple(name.strip() for name in columns.split(",") if name.strip())

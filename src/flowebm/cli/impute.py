"""`flowebm impute`: missing entries of a table or of images, drawn from a fitted model."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax.random as jr
import numpy as np
import tyro
from jaxtyping import Float

from flowebm.cli.arguments import parse
from flowebm.cli.fitted import check_order, load_density
from flowebm.cli.masks import masked
from flowebm.cli.points import read_points_of_width
from flowebm.cli.rows import check_output, write_draws
from flowebm.data import check_table, read_table
from flowebm.data.tables import SUFFIXES
from flowebm.options import Count, Range, Seed
from flowebm.progress import progress_counter
from flowebm.refusal import Refused
from flowebm.report.plots.figure import save_figure
from flowebm.report.plots.images import image_grid
from flowebm.run import plain
from flowebm.samplers import ImputedRows, impute_rows

#: Images, and draws of each, that the picture shows.
SHOWN_IMAGES, SHOWN_DRAWS = 10, 8


@dataclass(frozen=True)
class Impute:
    """Fill missing entries with draws from a fitted model, given the entries that are there.

    Missing entries are empty or NaN. Values that are there are written as they were read, and
    rows without missing entries pass unchanged. Of several draws, .csv and .parquet files have
    the rows one below the other, told apart by a first column "draw" from 0; .npy and .npz files
    have them along the first axis. With images, a picture is written beside the file.

    Attributes:
        run: The run directory.
        data: Name of a built-in data set, or a .csv, .parquet, .npy or .npz file.
        data_dir: The folder of the files of a set of images.
        output: The file: .csv, .parquet, .npy or .npz.
        draws: Draws of each row; their spread is the uncertainty of what is missing.
        steps: Steps of each draw's chain.
        seed: Seed of the draws.
        mask: Part of every image to take as missing too: left, right, top, bottom, or center, the
            middle half of its height and width; or a box in pixels, TOP,LEFT,HEIGHT,WIDTH.
        overwrite: Replace the file, and the picture, if they are there.
        quiet: Show no progress.
        json: Print one JSON object that says what was written.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",), metavar="FILE")]
    draws: Count = 1
    steps: Annotated[int, Range(least=2)] = 100
    seed: Seed = 0
    data_dir: Path | None = None
    mask: str | None = None
    overwrite: bool = False
    quiet: bool = False
    json: bool = False


def run(arguments: Sequence[str]) -> None:
    """Impute by the command line's arguments.

    Args:
        arguments: What stands behind `flowebm impute`.

    Raises:
        ValueError: If the run, the data, an option or the file is refused.
    """
    command = parse(Impute, "impute", arguments)
    check_output(command.output, overwrite=command.overwrite)
    density, config = load_density(command.run)
    shape = density.saved.shape
    picture = _picture_path(command, shape)
    values, names = _read(command.data, density.width, command.data_dir)
    check_order(density.saved.columns, names, command.data)
    _check_draw_column(command, names)
    missing = np.isnan(values)
    if command.mask is not None:
        missing |= masked(command.mask, shape).ravel()
    if not missing.any():
        mask = " or give --mask" if picture else ""
        raise Refused(
            f"No entry is missing in {command.data}: leave the entries to be imputed empty or "
            f"NaN{mask}."
        )
    saved = density.saved
    observed = np.where(missing, np.nan, values)
    with progress_counter("impute", quiet=command.quiet) as on_progress:
        on_progress(0, command.draws * int(missing.any(axis=1).sum()))
        result = impute_rows(
            jr.key(command.seed),
            saved.model,
            saved.proposal,
            saved.preprocessing,
            observed.reshape(-1, *shape),
            n_draws=command.draws,
            n_steps=command.steps,
            dequantised=config["options"].get("dequantise", False),
            on_progress=on_progress,
        )
    draws = result.draws.reshape(command.draws, *values.shape)
    write_draws(command.output, draws, names, shape)
    if picture:
        original = values if command.mask is not None else None
        _draw_picture(picture, original, observed, draws, shape)
    note = _note(result, command.steps)
    if command.json:
        written: dict[str, Any] = {
            "rows": len(values),
            "imputed_rows": int(missing.any(axis=1).sum()),
            "imputed_entries": int(missing.sum()),
            "draws": command.draws,
            "file": command.output,
            "picture": picture,
            "global_acceptance": np.nanmean(result.global_acceptance),
            "local_acceptance": np.nanmean(result.local_acceptance),
            "warnings": [*saved.warnings, *([note] if note else [])],
        }
        json.dump(plain(written), sys.stdout)
        print()
    elif note:
        print(f"Note: {note}", file=sys.stderr)


def _picture_path(command: Impute, shape: tuple[int, ...]) -> Path | None:
    """The picture's file, where there is a picture to draw."""
    if command.mask is not None:
        masked(command.mask, shape)
    if len(shape) != 3 or shape[0] not in (1, 3):
        return None
    path = command.output.with_suffix(".png")
    if path.exists() and not command.overwrite:
        raise Refused(f"{path} exists: give another name. (--overwrite would replace it.)")
    return path


def _read(
    data: str, width: int, folder: Path | None
) -> tuple[Float[np.ndarray, "n d"], tuple[str, ...]]:
    """The rows, NaN where an entry is missing, and the columns' names."""
    if Path(data).suffix.lower() not in SUFFIXES:
        dataset = read_points_of_width(data, width, folder=folder).dataset
        return dataset.values.astype(np.float64), tuple(dataset.names)
    table = read_table(data, images=True)
    check_table(
        np.where(np.isnan(table.values), 0.0, table.values),
        table.names,
        min_rows=1,
        width=width,
        allow_constant=True,
        where=data,
    )
    return table.values, table.names


def _check_draw_column(command: Impute, names: Sequence[str]) -> None:
    if (
        command.draws > 1
        and "draw" in names
        and command.output.suffix.lower() in (".csv", ".parquet")
    ):
        raise Refused(
            f"{command.data} has a column 'draw' of its own, which would name the draws in "
            f"{command.output}: rename it, or write a .npy or .npz file."
        )


def _draw_picture(
    path: Path,
    original: np.ndarray | None,
    observed: np.ndarray,
    draws: np.ndarray,
    shape: tuple[int, ...],
) -> None:
    """One image a line: the original where it is known, what was observed, and draws."""
    chosen = np.flatnonzero(np.isnan(observed).any(axis=1))[:SHOWN_IMAGES]
    columns = [observed[chosen], *draws[:SHOWN_DRAWS, chosen]]
    title = "observed, draws"
    if original is not None:
        columns, title = [original[chosen], *columns], f"original, {title}"
    known = observed if original is None else original
    low, high = (np.nanmin(known), np.nanmax(known)) if not np.isnan(known).all() else (0.0, 1.0)
    page = np.stack(columns, axis=1).reshape(-1, *shape)
    scale = (float(low), float(high)) if low < high else (float(low) - 0.5, float(low) + 0.5)
    save_figure(image_grid(page, len(columns), value_range=scale, title=title), path)


def _note(result: ImputedRows, steps: int) -> str | None:
    """Why the draws' mode weights may not be the model's, where that is so."""
    moves = result.global_acceptance * steps
    still, chains = int((moves < 1).sum()), int(np.isfinite(moves).sum())
    if not still:
        return None
    return (
        f"{still} of {chains} draws are expected to have made no move between modes: if what is "
        "missing has several modes, their shares among these draws are those of similar samples "
        "of the model, not exact."
    )

"""`flowebm score`: the log-density of every row of a table."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from flowebm.cli.arguments import parse
from flowebm.cli.fitted import check_order, load_density
from flowebm.cli.points import choice_of, read_points_of_width
from flowebm.cli.rows import check_output, write_rows
from flowebm.evaluation import bits_per_dimension
from flowebm.progress import progress_counter
from flowebm.run import plain


@dataclass(frozen=True)
class Score:
    """Log-density of every row under a fitted model, normalised, in nats and the data's units.

    Attributes:
        run: The run directory.
        data: Name of a built-in data set, or a .csv, .parquet, .npy or .npz file.
        data_dir: The folder of the files of a set of images.
        output: The file for one log-density a row, of images with their bits per dimension, of
            whole numbers and piled-up values with its standard error; standard output,
            log-densities alone, if not given.
        overwrite: Replace the file if it is there.
        quiet: Show no progress.
        json: Print one JSON object instead of lines.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    output: Annotated[Path | None, tyro.conf.arg(aliases=("-o",), metavar="FILE")] = None
    overwrite: bool = False
    data_dir: Path | None = None
    quiet: bool = False
    json: bool = False


def run(arguments: Sequence[str]) -> None:
    """Score by the command line's arguments.

    Args:
        arguments: What stands behind `flowebm score`.

    Raises:
        ValueError: If the run, the data or the file is refused.
    """
    command = parse(Score, "score", arguments)
    if command.output is not None:
        check_output(command.output, overwrite=command.overwrite)
    density, config = load_density(command.run)
    points = read_points_of_width(
        command.data,
        density.width,
        noise=config["options"]["dequantise"],
        folder=command.data_dir,
        choice=choice_of(config["options"]),
        allow_missing=density.marginalises,
    )
    check_order(density.saved.columns, points.dataset.names, command.data)
    rows = points.dataset.values
    names = density.saved.columns or points.dataset.names
    with progress_counter("score", quiet=command.quiet) as on_progress:
        on_progress(0, len(rows))
        log_density, stderr = density.log_density(rows, names, on_progress=on_progress)
    columns = {"log_density": log_density}
    if stderr.any():
        columns["stderr"] = stderr
    if len(density.saved.shape) > 1:
        width = density.width
        columns["bits_per_dimension"] = np.array(
            [bits_per_dimension(-value, width) for value in log_density]
        )
    if command.output is not None:
        listed = np.stack(list(columns.values()), axis=1)
        shape = () if len(columns) == 1 else (len(columns),)
        write_rows(command.output, listed, list(columns), shape)
    if command.json:
        values = {
            "log_partition_stderr": density.saved.log_partition_stderr,
            "rows": len(log_density),
            "mean": log_density.mean(),
            "warnings": density.saved.warnings,
        }
        if "bits_per_dimension" in columns:
            values["mean_bits_per_dimension"] = columns["bits_per_dimension"].mean()
        if command.output is None:
            values |= columns
        json.dump(plain(values), sys.stdout)
        print()
    elif command.output is None:
        sys.stdout.writelines(f"{value:.9g}\n" for value in log_density)

"""`flowebm score`: the log-density of every row of a table."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from flowebm.cli.arguments import parse
from flowebm.cli.fitted import load_fitted
from flowebm.cli.points import read_points_of_width
from flowebm.cli.rows import check_output, write_rows
from flowebm.run import plain


@dataclass(frozen=True)
class Score:
    """Log-density of every row under a fitted model, normalised, in nats and the data's units.

    Attributes:
        run: The run directory.
        data: Name of a built-in data set, or a .csv, .parquet, .npy or .npz file.
        output: The file for one log-density a row; standard output if not given.
        overwrite: Replace the file if it is there.
        json: Print one JSON object instead of lines.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    output: Annotated[Path | None, tyro.conf.arg(aliases=("-o",), metavar="FILE")] = None
    overwrite: bool = False
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
    estimator, config = load_fitted(command.run)
    points = read_points_of_width(
        command.data, estimator.n_features_in_, noise=config["options"]["dequantise"]
    )
    log_density = estimator.score_samples(points.dataset.values)
    if command.output is not None:
        write_rows(command.output, log_density[:, None], ["log_density"], ())
    if command.json:
        values = {
            "log_partition_stderr": estimator.log_partition_stderr_,
            "rows": len(log_density),
            "mean": log_density.mean(),
        }
        if command.output is None:
            values["log_density"] = log_density
        json.dump(plain(values), sys.stdout)
        print()
    elif command.output is None:
        sys.stdout.writelines(f"{value:.9g}\n" for value in log_density)

"""`flowebm sample`: samples of a fitted model, in a file."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from flowebm.cli.arguments import parse
from flowebm.cli.fitted import load_fitted
from flowebm.cli.rows import check_output, write_rows


@dataclass(frozen=True)
class Sample:
    """Draw independent samples of a fitted model, in the units of its data.

    Attributes:
        run: The run directory.
        n: Number of samples.
        output: The file: .csv, .parquet, .npy or .npz.
        seed: Seed of the draws.
        overwrite: Replace the file if it is there.
        json: Print one JSON object that says what was written.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    n: Annotated[int, tyro.conf.arg(name="n", aliases=("-n",))]
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",), metavar="FILE")]
    seed: int = 0
    overwrite: bool = False
    json: bool = False


def run(arguments: Sequence[str]) -> None:
    """Sample by the command line's arguments.

    Args:
        arguments: What stands behind `flowebm sample`.

    Raises:
        ValueError: If the run, the number or the file is refused.
    """
    command = parse(Sample, "sample", arguments)
    if command.n < 1:
        raise ValueError(f"-n must be 1 or more; got {command.n}.")
    if command.seed < 0:
        raise ValueError(f"--seed must be 0 or more; got {command.seed}.")
    check_output(command.output, overwrite=command.overwrite)
    estimator, _ = load_fitted(command.run)
    samples = estimator.sample(command.n, random_state=command.seed)
    names = getattr(estimator, "feature_names_in_", [f"x{i + 1}" for i in range(samples.shape[1])])
    write_rows(command.output, samples, names, estimator.saved_.shape)
    if command.json:
        json.dump({"samples": len(samples), "file": str(command.output)}, sys.stdout)
        print()

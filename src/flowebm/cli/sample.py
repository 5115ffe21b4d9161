"""`flowebm sample`: samples of a fitted model, in a file."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from flowebm.cli.arguments import parse
from flowebm.cli.fitted import load_density
from flowebm.cli.rows import check_output, write_rows
from flowebm.fitted_density import FittedDensity
from flowebm.options import Count, Seed
from flowebm.progress import progress_counter
from flowebm.refusal import Refused
from flowebm.report.plots.figure import save_figure
from flowebm.report.plots.images import image_grid


@dataclass(frozen=True)
class Sample:
    """Draw independent samples of a fitted model, in the units of its data.

    Attributes:
        run: The run directory.
        n: Number of samples.
        output: The file: .csv, .parquet, .npy or .npz; or .png, a page of images.
        seed: Seed of the draws.
        overwrite: Replace the file if it is there.
        quiet: Show no progress.
        json: Print one JSON object that says what was written.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    n: Annotated[Count, tyro.conf.arg(name="n", aliases=("-n",))]
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",), metavar="FILE")]
    seed: Seed = 0
    overwrite: bool = False
    quiet: bool = False
    json: bool = False


def run(arguments: Sequence[str]) -> None:
    """Sample by the command line's arguments.

    Args:
        arguments: What stands behind `flowebm sample`.

    Raises:
        ValueError: If the run, the number or the file is refused.
    """
    command = parse(Sample, "sample", arguments)
    check_output(command.output, overwrite=command.overwrite, pictures=True)
    density, _ = load_density(command.run)
    shape = density.saved.shape
    is_picture = command.output.suffix.lower() == ".png"
    if is_picture and (len(shape) != 3 or shape[0] not in (1, 3)):
        raise Refused(
            f"The run in {command.run} is not of images, which a page could show: give a .csv, "
            ".parquet, .npy or .npz file."
        )
    with progress_counter("sample", quiet=command.quiet) as on_progress:
        on_progress(0, command.n)
        # As `FlowEBM.sample` draws with this seed.
        seed = np.random.RandomState(command.seed).randint(np.iinfo(np.int32).max)
        samples = density.sample(seed, command.n, on_progress=on_progress)
    if is_picture:
        levels = getattr(density.saved.preprocessing, "levels", None)
        scale = (0.0, levels - 1.0) if levels else tuple(np.quantile(samples, [0.001, 0.999]))
        page = image_grid(samples.reshape(-1, *shape), value_range=scale)
        save_figure(page, command.output)
        return _tell(command, density)
    names = density.saved.columns or [f"x{i + 1}" for i in range(samples.shape[1])]
    write_rows(command.output, samples, names, shape)
    return _tell(command, density)


def _tell(command: Sample, density: FittedDensity) -> None:
    if command.json:
        written = {"samples": command.n, "file": str(command.output)}
        json.dump(written | {"warnings": density.saved.warnings}, sys.stdout)
        print()

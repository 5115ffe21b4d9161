"""`flowebm evaluate`: what a fitted model is worth on data."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from flowebm.cli.arguments import parse
from flowebm.cli.fitted import check_order, load_fitted
from flowebm.cli.measure import measure
from flowebm.cli.points import choice_of, fresh_points, hold_out, read_points_of_width
from flowebm.cli.table import print_measures
from flowebm.options import Seed
from flowebm.progress import progress_counter
from flowebm.run import plain


@dataclass(frozen=True)
class Evaluate:
    """Held-out log-likelihood and log Z of a fitted model, with their errors.

    Against a built-in synthetic set, fresh points are drawn, and mode weights and KL divergence
    are measured too. If the data are those that the run was given, their held-out test part is
    used.

    Attributes:
        run: The run directory.
        data: Name of a built-in data set, or a .csv, .parquet, .npy or .npz file.
        data_dir: The folder of the files of a set of images.
        seed: Seed of all draws.
        quiet: Show no progress.
        json: Print one JSON object instead of a table.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    seed: Seed = 0
    data_dir: Path | None = None
    quiet: bool = False
    json: bool = False


def run(arguments: Sequence[str]) -> None:
    """Evaluate by the command line's arguments.

    Args:
        arguments: What stands behind `flowebm evaluate`.

    Raises:
        ValueError: If the run or the data are refused.
    """
    command = parse(Evaluate, "evaluate", arguments)
    estimator, config = load_fitted(command.run, tells=False)
    options = config["options"]
    points = read_points_of_width(
        command.data,
        estimator.n_features_in_,
        # Noise that is part of the data must be the run's, for them to be told apart.
        seed=options["seed"],
        noise=options["dequantise"],
        folder=command.data_dir,
        choice=choice_of(config["options"]),
        allow_missing=estimator.missing == "marginalise",
    )
    check_order(estimator.saved_.columns, points.dataset.names, command.data)
    test, title = points.dataset.values, f"{command.run} on {points.dataset.name}"
    if points.dataset.target is not None:
        test = fresh_points(points.dataset.target, command.seed)
    elif points.sha256 == config["data"]["sha256"]:
        # The other rows fitted the model and chose the best of it.
        _, test = hold_out(points, options["test_fraction"], options["seed"])
        title += " (the rows that the run held out)"
    with progress_counter("evaluate", quiet=command.quiet) as on_progress:
        measures = measure(
            command.seed,
            estimator,
            test,
            target=points.dataset.target,
            on_progress=on_progress,
        )
    sentences = list(dict.fromkeys([*estimator.saved_.warnings, *measures.warnings]))
    if command.json:
        values = {"run": command.run, "data": command.data, **measures.values}
        json.dump(plain({**values, "warnings": sentences}), sys.stdout)
        print()
    else:
        print_measures(measures.values, sentences, title=title)

"""`flowebm shares`: what share each class has, in the data and in a fitted model."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from flowebm.cli.arguments import parse
from flowebm.cli.fitted import check_order, load_fitted
from flowebm.cli.points import choice_of, read_points_of_width
from flowebm.cli.table import shares_table
from flowebm.data import Dataset
from flowebm.estimator import FlowEBM
from flowebm.evaluation import class_shares
from flowebm.progress import progress_counter
from flowebm.refusal import Refused
from flowebm.run import RunDirectory, plain


@dataclass(frozen=True)
class Shares:
    """What share each class has in the data and in a fitted model, with their errors.

    Classes are those of the labels that the run was given by --labels; or, by --data and --labels
    here, those of another table of the same columns.

    Attributes:
        run: The run directory.
        data: A file with the model's columns and one of labels, in the place of the run's data.
        labels: Its column of labels; the run's by default.
        seed: Seed of all draws.
        quiet: Show no progress.
        json: Print one JSON object instead of a table.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    data: Annotated[str | None, tyro.conf.arg(metavar="DATA")] = None
    labels: str | None = None
    seed: int = 0
    quiet: bool = False
    json: bool = False


def run(arguments: Sequence[str]) -> None:
    """Shares of classes by the command line's arguments.

    Args:
        arguments: What stands behind `flowebm shares`.

    Raises:
        ValueError: If the run or the data are refused, or there are no labels.
    """
    command = parse(Shares, "shares", arguments)
    if command.seed < 0:
        raise Refused(f"--seed must be 0 or more; got {command.seed}.")
    estimator, config = load_fitted(command.run)
    options = config["options"]
    labels = command.labels or options.get("labels")
    if labels is None:
        raise Refused(
            f"The run in {command.run} has no labels: name a file and its column of labels by "
            "--data and --labels."
        )
    found = None
    if command.data is None and labels == options.get("labels"):
        found = _of_the_run(command.run)
    if found is None:
        where = command.data or config["data"]["name"]
        points = read_points_of_width(
            where,
            estimator.n_features_in_,
            choice=choice_of({**options, "labels": labels}),
            allow_missing=estimator.missing == "marginalise",
        )
        check_order(estimator.saved_.columns, points.dataset.names, where)
        if points.dataset.labels is None:
            raise Refused(f"{where} has no column '{labels}': name its labels by --labels.")
        found = shares(estimator, points.dataset, seed=command.seed, quiet=command.quiet)
    if command.json:
        json.dump(plain({"run": command.run, **found}), sys.stdout)
        print()
        return
    Console(highlight=False).print(shares_table(found))


def shares(estimator: FlowEBM, dataset: Dataset, *, seed: int, quiet: bool) -> dict[str, Any]:
    """Shares of classes as `evaluation.json` has them.

    Args:
        estimator: The fitted model.
        dataset: Labelled rows.
        seed: Seed of all draws.
        quiet: Whether to show no progress.
    """
    with progress_counter("shares", quiet=quiet) as on_progress:
        on_progress(0, 1)
        found = class_shares(estimator, dataset.values, dataset.labels, random_state=seed)
        on_progress(1, 1)
    derived = {name: getattr(found, name) for name in ("ratio", "differ", "total_variation")}
    return {**found._asdict(), **derived}


def _of_the_run(path: Path) -> dict[str, Any] | None:
    """What the run measured when it ended, if that is there."""
    try:
        evaluation = json.loads(RunDirectory(path).evaluation_path.read_text(encoding="utf-8"))
        return evaluation["class_shares"]
    except (OSError, ValueError, KeyError, TypeError):
        return None

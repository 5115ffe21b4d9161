"""The fitted model of a run directory."""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowebm.estimator import FlowEBM
from flowebm.evaluation.estimate import EstimateWarning
from flowebm.refusal import Refused
from flowebm.run import RunDirectory


def load_fitted(path: Path, *, tells: bool = True) -> tuple[FlowEBM, dict[str, Any]]:
    """The fitted model of a run, and what the run was asked to do.

    Args:
        path: A run directory.
        tells: Whether to repeat, on standard error, what the fit had to say about itself.

    Returns:
        The estimator and the configuration.

    Raises:
        ValueError: If this is not a run directory, if its run has not come to an end, or if
            its model cannot be read.
    """
    if not path.is_dir():
        raise Refused(
            f"There is no directory {path}: give the --out directory of a `flowebm train`."
        )
    directory = RunDirectory(path)
    directory.read_config()
    if not (path / "model.json").exists():
        raise Refused(
            f"The run in {path} has no model yet: let `flowebm train --resume` bring it to its end."
        )
    with warnings.catch_warnings():
        # Told in the command line's own words.
        warnings.simplefilter("ignore", EstimateWarning)
        estimator = FlowEBM.load(path)
    if tells:
        for sentence in estimator.saved_.warnings:
            print(f"Note: {sentence}", file=sys.stderr)
    return estimator, directory.read_whole_config()


def check_order(estimator: FlowEBM, names: Sequence[str], where: str) -> None:
    """Refuse the model's columns in another order, which would be taken for one another.

    Other names say nothing: files without a header, and arrays, have none of their own.

    Args:
        estimator: The fitted model.
        names: The columns of a table of its width.
        where: What the message calls the table.

    Raises:
        ValueError: If they are the model's columns in another order.
    """
    known = [str(name) for name in getattr(estimator, "feature_names_in_", names)]
    if list(names) == known or sorted(names) != sorted(known):
        return
    moved = next(i for i, name in enumerate(names) if name != known[i])
    raise Refused(
        f"The columns of {where} are the model's in another order: column {moved + 1} is "
        f"'{names[moved]}' where the model has '{known[moved]}'. Write them in the model's order."
    )

"""The fitted model of a run directory."""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowebm.fitted_density import FittedDensity
from flowebm.models.saved import load_model
from flowebm.refusal import Refused
from flowebm.run import RunDirectory

if TYPE_CHECKING:
    from flowebm.estimator import FlowEBM


def load_fitted(path: Path, *, tells: bool = True) -> tuple["FlowEBM", dict[str, Any]]:
    """The fitted model of a run as an estimator, and what the run was asked to do.

    Args:
        path: A run directory.
        tells: Whether to repeat, on standard error, what the fit had to say about itself.

    Returns:
        The estimator and the configuration.

    Raises:
        ValueError: If this is not a run directory, if its run has not come to an end, or if
            its model cannot be read.
    """
    from flowebm.estimator import FlowEBM
    from flowebm.evaluation.estimate import EstimateWarning

    directory = _finished(path)
    with warnings.catch_warnings():
        # Told in the command line's own words.
        warnings.simplefilter("ignore", EstimateWarning)
        estimator = FlowEBM.load(path)
    if tells:
        _tell(estimator.saved_.warnings)
    return estimator, directory.read_whole_config()


def load_density(path: Path) -> tuple[FittedDensity, dict[str, Any]]:
    """`load_fitted` without an estimator, whose scikit-learn takes longer than most answers.

    Args:
        path: A run directory.

    Returns:
        The density and the configuration.

    Raises:
        ValueError: If this is not a run directory, if its run has not come to an end, or if
            its model cannot be read.
    """
    directory = _finished(path)
    saved = load_model(path)
    _tell(saved.warnings)
    return FittedDensity(saved), directory.read_whole_config()


def _finished(path: Path) -> RunDirectory:
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
    return directory


def _tell(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        print(f"Note: {sentence}", file=sys.stderr)


def check_order(columns: Sequence[str] | None, names: Sequence[str], where: str) -> None:
    """Refuse the model's columns in another order, which would be taken for one another.

    Other names say nothing: files without a header, and arrays, have none of their own.

    Args:
        columns: The model's columns; `None` where they have no names.
        names: The columns of a table of its width.
        where: What the message calls the table.

    Raises:
        ValueError: If they are the model's columns in another order.
    """
    known = list(map(str, names if columns is None else columns))
    if list(names) == known or sorted(names) != sorted(known):
        return
    moved = next(i for i, name in enumerate(names) if name != known[i])
    raise Refused(
        f"The columns of {where} are the model's in another order: column {moved + 1} is "
        f"'{names[moved]}' where the model has '{known[moved]}'. Write them in the model's order."
    )

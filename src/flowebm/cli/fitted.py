"""The fitted model of a run directory."""

from pathlib import Path
from typing import Any

from flowebm.estimator import FlowEBM
from flowebm.run import RunDirectory


def load_fitted(path: Path) -> tuple[FlowEBM, dict[str, Any]]:
    """The fitted model of a run, and what the run was asked to do.

    Args:
        path: A run directory.

    Returns:
        The estimator and the configuration.

    Raises:
        ValueError: If this is not a run directory, if its run has not come to an end, or if
            its model cannot be read.
    """
    if not path.is_dir():
        raise ValueError(
            f"There is no directory {path}: give the --out directory of a `flowebm train`."
        )
    config = RunDirectory(path).read_config()
    if not (path / "model.json").exists():
        raise ValueError(
            f"The run in {path} has no model yet: let `flowebm train --resume` bring it to its end."
        )
    return FlowEBM.load(path), config

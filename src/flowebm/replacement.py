"""A run in the place of another: the old one is there until the new one is."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from flowebm.atomic_write import atomic_write

#: Where the old run's files wait. The new configuration stands among them until it is given its
#: place, by which the new run has begun.
_WAITING = ".replaced"


def replace_run(config_path: Path, config: bytes, names: Sequence[str]) -> None:
    """Give a folder a new configuration and remove what belonged to the old one.

    Files are moved aside, the new configuration takes the place of the old one at once, and
    only then is anything deleted. Where that fails, the old run is put back; where the process
    is killed, `settle_replacement` finishes or undoes it.

    Args:
        config_path: The configuration, in the run's folder.
        config: What the new one holds.
        names: Files and folders in the run's folder that go with the old one.

    Raises:
        CannotWrite: If the new configuration cannot be written.
        OSError: If a file cannot be moved.
    """
    folder = config_path.parent
    waiting = folder / _WAITING
    try:
        waiting.mkdir()
        with atomic_write(waiting / config_path.name) as file:
            file.write(config)
        _move([folder / name for name in names], waiting)
        os.replace(waiting / config_path.name, config_path)
    finally:
        settle_replacement(config_path, names)


def settle_replacement(config_path: Path, names: Sequence[str]) -> None:
    """Leave one run of two: the new one if its configuration is in place, or else the old one.

    Args:
        config_path: The configuration, in the run's folder.
        names: Files and folders in the run's folder that go with the old one.
    """
    folder = config_path.parent
    waiting = folder / _WAITING
    if waiting.is_symlink() or not waiting.is_dir():
        return
    if (waiting / config_path.name).exists():
        _move([waiting / name for name in names], folder)
    shutil.rmtree(waiting)


def _move(paths: Sequence[Path], folder: Path) -> None:
    for path in paths:
        if os.path.lexists(path):
            os.replace(path, folder / path.name)

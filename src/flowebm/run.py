"""The run directory: what `flowebm train` leaves behind, and what keeps it from harm."""

import json
import math
import os
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from flowebm.atomic_write import atomic_write, remove_unfinished, writing
from flowebm.refusal import Refused
from flowebm.replacement import replace_run, settle_replacement

#: Raised whenever an older reader would misread a newer run.
RUN_VERSION = 1

#: All that a run writes, beside its configuration.
_CONTENTS = (
    "metrics.jsonl",
    "checkpoints",
    "model.safetensors",
    "model.json",
    "evaluation.json",
    "plots",
    "tensorboard",
    "report.html",
)


#: What other commands than `flowebm report` read of a configuration, and its kinds.
_ENTRIES: dict[str, dict[str, Any]] = {
    "data": {"sha256": str, "columns": int},
    "options": {"seed": int, "dequantise": bool, "test_fraction": int | float},
    "versions": {"flowebm": str},
}

#: The file whose lock the training process holds.
_LOCK = ".lock"


class RunDirectory:
    """A directory with all that is known about one run.

    It holds `config.json` (every option, the data's checksum, versions), `metrics.jsonl`,
    `checkpoints/`, `model.safetensors` with `model.json`, `evaluation.json` and `plots/`.
    Nothing is written before `begin`, which is called when data and options have passed all
    checks: a refused command leaves an earlier run as it was.

    Args:
        path: The directory.

    Attributes:
        path: The directory.
        has_begun: Whether `begin` has taken possession of it.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.has_begun = False
        self._lock: TextIO | None = None

    @property
    def config_path(self) -> Path:
        """What the run was asked to do; its presence makes the directory a run directory."""
        return self.path / "config.json"

    @property
    def metrics_path(self) -> Path:
        """One JSON object a block of iterations."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints_path(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def tensorboard_path(self) -> Path:
        """The folder of event files, where they were asked for."""
        return self.path / "tensorboard"

    @property
    def evaluation_path(self) -> Path:
        """What the fitted model is worth."""
        return self.path / "evaluation.json"

    def admit(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse a directory that must not become this run's; changes nothing.

        Args:
            resume: Whether to go on with the run that is there.
            overwrite: Whether to replace the run that is there.

        Raises:
            ValueError: If the directory is not empty and neither was asked for, if it is not a
                run directory although one of them was, or if it cannot be written.
        """
        if resume and overwrite:
            raise Refused("--resume and --overwrite exclude each other: give one of them.")
        if self.path.exists() and not self.path.is_dir():
            raise Refused(f"{self.path} is a file: give a directory to --out.")
        parent = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise Refused(f"{parent} cannot be written in: give another directory to --out.")
        if not self.path.exists() or all(map(_is_of_no_run, self.path.iterdir())):
            if resume:
                raise Refused(
                    f"There is no run in {self.path} to resume: leave --resume out to begin one."
                )
            return
        if not resume and not overwrite:
            raise Refused(
                f"{self.path} is not empty: give another directory to --out, or --resume to go on "
                "with the run in it. (--overwrite would delete that run.)"
            )
        self.read_config()

    def read_config(self) -> dict[str, Any]:
        """The configuration of the run in this directory.

        Raises:
            ValueError: If this is not a run directory, or one of another format version.
            OSError: If it cannot be read, which says nothing of what it holds.
        """
        no_file = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
        try:
            config = json.loads(self.config_path.read_text(encoding="utf-8"))
            run_version = config["flowebm_run"]
        except (*no_file, ValueError, KeyError, TypeError, RecursionError):
            raise Refused(
                f"{self.path} is not a run directory (it has no config.json of flowebm, or a "
                "damaged one): give the --out directory of a `flowebm train`."
            ) from None
        if run_version != RUN_VERSION:
            raise Refused(
                f"{self.path} has run version {run_version!r}, and this flowebm reads "
                f"{RUN_VERSION}: use the version of flowebm that wrote it."
            )
        return config

    def read_whole_config(self) -> dict[str, Any]:
        """`read_config`, with all the entries that a command reads, each of its kind.

        Raises:
            ValueError: As `read_config` does, or if an entry is missing or of another kind.
        """
        config = self.read_config()
        for group, entries in _ENTRIES.items():
            values = config.get(group)
            for name, kinds in entries.items():
                value = values.get(name) if isinstance(values, dict) else None
                # A bool is an int to Python, and no seed.
                if not isinstance(value, kinds) or isinstance(value, bool) != (kinds is bool):
                    raise Refused(
                        f"{self.config_path} is damaged (it has no valid {name!r} in {group!r}): "
                        "copy it again, or train anew in another directory."
                    )
        return config

    def begin(self, config: dict[str, Any], *, resume: bool) -> None:
        """Take possession: lock, write the configuration in the place of the run that was there.

        Of a run that is replaced only what a run writes is removed; other files stay. A process
        that is killed meanwhile leaves the old run or the new one, after the next `begin`.

        Args:
            config: The configuration, in JSON's types.
            resume: Whether to leave everything as it is.

        Raises:
            ValueError: If another process is training in this directory.
            CannotWrite: If the directory cannot be written in.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._acquire()
            remove_unfinished(self.path)
            settle_replacement(self.config_path, _CONTENTS)
            if not resume and self.config_path.exists():
                replace_run(self.config_path, _json(config).encode(), _CONTENTS)
            elif not resume:
                self.write(self.config_path, config)
        self.has_begun = True

    def release(self) -> None:
        """Let others train in this directory."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def write(self, path: Path, value: Any) -> None:
        """Write a value as JSON, all or nothing; what is not finite becomes `null`.

        Args:
            path: A file of the run.
            value: Dictionaries, sequences, numbers and texts.
        """
        with atomic_write(path) as file:
            file.write(_json(value).encode())

    def _acquire(self) -> None:
        """Lock the directory, where the system has such locks; they end with the process."""
        try:
            import fcntl
        except ImportError:
            return
        lock = (self.path / _LOCK).open("w", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise Refused(
                f"Another process is training in {self.path}: wait for it, or give another "
                "directory to --out."
            ) from None
        self._lock = lock


def first_difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """The name of the first entry in which two sets of options differ, or `None`.

    Args:
        old: Options by name.
        new: Options by name.
    """
    names = [*new, *(name for name in old if name not in new)]
    return next((name for name in names if old.get(name) != new.get(name)), None)


def plain(value: Any) -> Any:
    """A value in JSON's own types; numbers that are not finite become `None`.

    Args:
        value: Dictionaries, sequences, arrays, paths, numbers and texts.
    """
    if isinstance(value, dict):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    listed = np.asarray(value).tolist()
    if isinstance(listed, list):
        return plain(listed)
    return None if isinstance(listed, float) and not math.isfinite(listed) else listed


def _json(value: Any) -> str:
    return json.dumps(plain(value), indent=2, allow_nan=False) + "\n"


def _is_of_no_run(path: Path) -> bool:
    """Whether a file is there of a run that was stopped before it began."""
    return path.name == _LOCK or (path.name.startswith(".") and path.suffix == ".tmp")

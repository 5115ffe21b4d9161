"""What a run directory holds by now, read without trusting any of it."""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal, NamedTuple

from flowebm.refusal import Refused
from flowebm.run import RunDirectory

#: How far a run has come.
State = Literal["finished", "training", "stopped"]


class Sourced(NamedTuple):
    """A number, and where it is from.

    Attributes:
        value: The number; finite.
        source: File and JSON pointer, such as `evaluation.json#/nll/value`.
    """

    value: float
    source: str


class Tree:
    """A value read from JSON, of which every entry may be missing or of another kind.

    Args:
        value: The value.
        source: Where it is from.
    """

    def __init__(self, value: Any, source: str):
        self.value = value
        self.source = source

    def __getitem__(self, key: str | int) -> "Tree":
        found: Any = None
        if isinstance(key, str):
            if isinstance(self.value, dict):
                found = self.value.get(key)
        elif isinstance(self.value, list) and key < len(self.value):
            found = self.value[key]
        joint = "/" if "#" in self.source else "#/"
        return Tree(found, f"{self.source}{joint}{key}")

    def __contains__(self, key: str) -> bool:
        return isinstance(self.value, dict) and key in self.value

    @property
    def number(self) -> Sourced | None:
        """The value, where it is a finite number."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            return None
        try:
            value = float(self.value)
        except OverflowError:
            return None
        return Sourced(value, self.source) if isfinite(value) else None

    @property
    def text(self) -> str | None:
        """The value, where it is a text."""
        return self.value if isinstance(self.value, str) else None

    @property
    def texts(self) -> list[str]:
        """The texts among the value's entries, where it is a list."""
        entries = self.value if isinstance(self.value, list) else []
        return [entry for entry in entries if isinstance(entry, str)]

    @property
    def entries(self) -> dict[str, Any]:
        """The value, where it is an object."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def length(self) -> int:
        """Entries of the value, where it is a list."""
        return len(self.value) if isinstance(self.value, list) else 0


@dataclass(frozen=True)
class Record:
    """A run as its files tell it.

    Attributes:
        path: The run directory.
        state: How far the run has come.
        config: `config.json`: data, options and versions.
        model: `model.json`.
        evaluation: `evaluation.json`: what the fitted model is worth.
        rows: Rows of `metrics.jsonl`, in their order.
        unreadable: Sentences on what could not be read.
    """

    path: Path
    state: State
    config: Tree
    model: Tree
    evaluation: Tree
    rows: list[Tree]
    unreadable: list[str] = field(default_factory=list)


def read_record(path: Path) -> Record:
    """Read a run directory, also one in which a run is going on or was killed.

    Args:
        path: The run directory.

    Returns:
        The record.

    Raises:
        ValueError: If this is not a run directory.
    """
    if not path.is_dir():
        raise Refused(
            f"There is no directory {path}: give the --out directory of a `flowebm train`."
        )
    directory = RunDirectory(path)
    config = directory.read_config()
    # Before the files: a run that ends in between is then seen as going on, not as stopped.
    training = _is_training(path)
    unreadable: list[str] = []
    model = _read_json(path / "model.json", unreadable)
    evaluation = _read_json(directory.evaluation_path, unreadable)
    rows = _read_rows(directory.metrics_path, unreadable)
    finished = bool(model.entries and evaluation.entries)
    state = "finished" if finished else "training" if training else "stopped"
    return Record(path, state, Tree(config, "config.json"), model, evaluation, rows, unreadable)


def _is_training(path: Path) -> bool:
    """Whether a process holds the directory's lock, where the system has such locks."""
    try:
        import fcntl

        with (path / ".lock").open(encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return False
    return False


def _read_json(path: Path, unreadable: list[str]) -> Tree:
    value = None
    if path.is_file():
        with suppress(OSError, ValueError, RecursionError):
            value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            unreadable.append(f"{path.name} cannot be read; what it says is missing here.")
    return Tree(value, path.name)


def _read_rows(path: Path, unreadable: list[str]) -> list[Tree]:
    """The rows of the metrics; a torn last line belongs to a row that is being written."""
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        unreadable.append(f"{path.name} cannot be read; the run's course is missing here.")
        return []
    rows: list[Tree] = []
    strange = 0
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(Tree(row, f"{path.name}#/{number}"))
        elif line and number < len(lines) - 1:
            strange += 1
    if strange:
        unreadable.append(f"{strange} lines of {path.name} cannot be read and are left out.")
    return rows

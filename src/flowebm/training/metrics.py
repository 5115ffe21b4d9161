"""The metrics of a run on disk: one JSON object a line."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from flowebm.atomic_write import atomic_write, writing
from flowebm.refusal import Refused

Row = dict[str, Any]


class MetricsFile:
    """Appends rows of metrics to a file as they come.

    Each row is on disk when `append` returns. Values that JSON cannot hold (NaN and the
    infinities) are written as `null`.

    Args:
        path: The file; made with the first row, together with its folder.
    """

    def __init__(self, path: str | Path):
        self._path = Path(path)

    def append(self, row: Row) -> None:
        """Write one row."""
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(row))

    def on_block(self, stage: str, row: Row, total: int) -> None:
        """`append`, with the signature of `Callbacks.on_block`.

        Args:
            stage: The stage, which the row names too.
            row: The metrics of a block.
            total: Iterations expected; not written.
        """
        self.append(row)

    def truncate(self, history: list[Row], *, stage: str | None = None) -> None:
        """Go back to a restored history; all or nothing.

        The rows of the history's stage are replaced by the history, those of other stages
        are kept.

        Args:
            history: The rows of one stage that a checkpoint held.
            stage: The stage; needed where the history is empty, because the stage starts anew.

        Raises:
            ValueError: If the stage is not known.
        """
        if stage is None:
            if not history:
                raise Refused("An empty history does not name its stage: pass stage=.")
            stage = history[0]["stage"]
        rows = read_metrics(self._path) if self._path.exists() else []
        first = next((i for i, row in enumerate(rows) if row.get("stage") == stage), len(rows))
        before, after = (
            [row for row in part if row.get("stage") != stage]
            for part in (rows[:first], rows[first:])
        )
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._path) as file:
            file.write("".join(map(_line, before + history + after)).encode())


def read_metrics(path: str | Path) -> list[Row]:
    """The rows of a metrics file.

    A last line that was being written when the run was killed is left out.

    Args:
        path: The file.

    Returns:
        One dictionary a line; values that were not finite are `None`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line before the last is not a JSON object.
    """
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif number < len(lines):
            raise Refused(
                f"Line {number} of {path} is not a JSON object: remove it to read the others."
            )
    return rows


def _line(row: Row) -> str:
    return json.dumps(_plain(row), allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """The value in JSON's own types, without what is not finite."""
    if isinstance(value, dict):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    plain = np.asarray(value).tolist()
    if isinstance(plain, list):
        return _plain(plain)
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain

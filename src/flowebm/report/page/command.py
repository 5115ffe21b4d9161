"""The command that a run was begun with, from what its configuration says."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowebm.report.page.record import Record


def changed_options(record: Record, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run that are not the defaults.

    Args:
        record: The run.
        defaults: The defaults of this version; an option that is not among them counts as
            changed.

    Returns:
        Their values by name, in the configuration's order.
    """
    return {
        name: value
        for name, value in _options(record).items()
        if name not in defaults or not _same(value, defaults[name])
    }


def training_command(record: Record, defaults: Mapping[str, Any], *, resume: bool = False) -> str:
    """The command that repeats a run in a directory beside it, or goes on with it.

    Args:
        record: The run.
        defaults: The defaults of this version, which are not written out.
        resume: Whether to go on with the run.

    Returns:
        A line for a POSIX shell.
    """
    out = record.path if resume else _beside(record.path)
    words = ["flowebm", "train", *_typed("data", record.config["data"]["name"].value)]
    words += _typed("out", str(out))
    for name, value in changed_options(record, defaults).items():
        # What is off or absent has no word of its own, unless the default is on.
        if name in defaults or value not in (None, False):
            words += _typed(name, value)
    return shlex.join([*words, *["--resume"] * resume])


def flag(name: str) -> str:
    """An option as it is typed."""
    return "--" + name.replace("_", "-")


def _options(record: Record) -> dict[str, Any]:
    """All options by name; those of groups stand beside the others, as they are typed."""
    options: dict[str, Any] = {}
    for name, value in record.config["options"].entries.items():
        options |= value if isinstance(value, dict) else {name: value}
    return options


def _beside(path: Path) -> Path:
    path = path if path.name else path.resolve()
    return path.with_name(f"{path.name}-again")


def _typed(name: str, value: Any) -> list[str]:
    """An option as it is typed: flags alone, sequences as several words."""
    if value is True:
        return [flag(name)]
    if value is False:
        return [flag(f"no_{name}")]
    values = [str(part) for part in (value if isinstance(value, list) else [value])]
    # A word that begins with a dash would be taken for an option.
    if len(values) == 1 and values[0].startswith("-"):
        return [f"{flag(name)}={values[0]}"]
    return [flag(name), *values]


def _same(value: Any, default: Any) -> bool:
    default = list(default) if isinstance(default, tuple) else default
    # Python's True is 1, a run's is not.
    return value == default and isinstance(value, bool) == isinstance(default, bool)

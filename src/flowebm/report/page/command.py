"""The command that a run was begun with, from what its configuration says."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flowebm.report.page.record import Record


class Options(NamedTuple):
    """The options of a run, as a report shows and types them.

    Attributes:
        values: Those that are named, in the configuration's order.
        defaults: The defaults of this version; empty where it does not know the method.
        complete: Whether all are named, because the defaults were others when the run began.
    """

    values: dict[str, Any]
    defaults: Mapping[str, Any]
    complete: bool


#: Options that are typed once for each of their values.
REPEATED = ("drop", "column")


def options_of(record: Record, defaults: Mapping[str, Any], *, complete: bool) -> Options:
    """The options of a run that have to be named.

    Args:
        record: The run.
        defaults: The defaults of this version for the run's method.
        complete: Whether to name those too that are the defaults. An option that is off or
            absent by default has no word for that, and is named only where it differs.
    """
    every: dict[str, Any] = {}
    for name, value in record.config["options"].entries.items():
        # Options of groups stand beside the others, as they are typed.
        every |= value if isinstance(value, dict) else {name: value}
    named = {
        name: value
        for name, value in every.items()
        if name not in defaults
        or not _same(value, defaults[name])
        or (complete and value is not None and not isinstance(value, bool))
    }
    return Options(named, defaults, complete)


def training_command(record: Record, options: Options, *, resume: bool = False) -> str:
    """The command that repeats a run in a directory beside it, or goes on with it.

    Args:
        record: The run.
        options: Its options.
        resume: Whether to go on with the run.

    Returns:
        A line for a POSIX shell.
    """
    out = record.path if resume else _beside(record.path)
    words = ["flowebm", "train", *_typed("data", record.config["data"]["name"].value)]
    folder = record.config["data"]["folder"].value
    if folder is not None:
        words += _typed("data_dir", folder)
    words += _typed("out", str(out))
    for name, value in options.values.items():
        words += _typed(name, value)
    return shlex.join([*words, *["--resume"] * resume])


def flag(name: str) -> str:
    """An option as it is typed."""
    return "--" + name.replace("_", "-")


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
    if name in REPEATED:
        return [word for part in values for word in (flag(name), part)]
    # A word that begins with a dash would be taken for an option.
    if len(values) == 1 and values[0].startswith("-"):
        return [f"{flag(name)}={values[0]}"]
    return [flag(name), *values]


def _same(value: Any, default: Any) -> bool:
    return value == (list(default) if isinstance(default, tuple) else default)

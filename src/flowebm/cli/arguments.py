"""Arguments of a command, from a data class whose docstring is its help."""

from collections.abc import Sequence
from typing import TypeVar

import tyro

from flowebm.options import check_all_options, unchecked

Command = TypeVar("Command")


def parse(command: type[Command], name: str, arguments: Sequence[str]) -> Command:
    """Read the arguments of a command; on bad ones exit with status 2 and a sentence.

    Values are checked when all are read, because the message is to name the option as it is typed.

    Args:
        command: A data class of options.
        name: The command's name.
        arguments: What stands behind the name.

    Returns:
        The options.

    Raises:
        RefusedOption: If a value is out of its range.
    """
    with unchecked():
        options = tyro.cli(
            command,
            prog=f"flowebm {name}",
            args=list(arguments),
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )
    check_all_options(options, name=flag)
    return options


def flag(name: str) -> str:
    """An option as it is typed.

    Args:
        name: The name of its field.
    """
    return "--" + name.replace("_", "-")

"""Arguments of a command, from a data class whose docstring is its help."""

from collections.abc import Sequence
from typing import TypeVar

import tyro

Command = TypeVar("Command")


def parse(command: type[Command], name: str, arguments: Sequence[str]) -> Command:
    """Read the arguments of a command; on bad ones exit with status 2 and a sentence.

    Args:
        command: A data class of options.
        name: The command's name.
        arguments: What stands behind the name.

    Returns:
        The options.
    """
    return tyro.cli(
        command,
        prog=f"flowebm {name}",
        args=list(arguments),
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )

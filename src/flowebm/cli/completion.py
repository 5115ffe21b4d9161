"""Completion in shells: the script that teaches one the commands and their options."""

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, field, fields, is_dataclass, make_dataclass
from typing import Any, get_args, get_type_hints

import tyro

from flowebm.cli.evaluate import Evaluate
from flowebm.cli.impute import Impute
from flowebm.cli.report import Report
from flowebm.cli.sample import Sample
from flowebm.cli.score import Score
from flowebm.cli.shares import Shares
from flowebm.cli.train_options import Train, options_of
from flowebm.refusal import Refused

#: Shells for which tyro writes scripts by itself.
SHELLS = ("bash", "zsh", "fish")

USAGE = "--tyro-print-completion SHELL or --tyro-write-completion SHELL FILE"


def write_completion(arguments: Sequence[str]) -> None:
    """Print or write the script of a shell.

    Args:
        arguments: `--tyro-print-completion SHELL` or `--tyro-write-completion SHELL FILE`.

    Raises:
        ValueError: If they are not, or the shell is not known.
    """
    option, *values = arguments
    number = {"--tyro-print-completion": 1, "--tyro-write-completion": 2}
    if number.get(option.replace("_", "-")) != len(values):
        raise Refused(f"For completion give {USAGE}; got {' '.join(arguments)}.")
    if values[0] not in SHELLS:
        raise Refused(
            f"There is no completion for {values[0]!r}: choose one of {', '.join(SHELLS)}."
        )
    commands = {
        "train": _train(),
        "sample": Sample,
        "score": Score,
        "evaluate": Evaluate,
        "impute": Impute,
        "report": Report,
        "shares": Shares,
    }
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="flowebm",
            args=list(arguments),
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )
    except SystemExit:
        # That is how tyro ends when it has written.
        return


def _train() -> type:
    """The options of `train`, of all methods together."""
    methods = get_args(get_type_hints(Train)["method"])
    first, *others = [options_of(["--method", method]) for method in methods]
    known = {name for name, _, _ in _flat(first)}
    more = {}
    for options in others:
        for name, kind, default in _flat(options):
            if name not in known:
                more.setdefault(name, (name, kind, field(default=default)))
    return make_dataclass("Train", more.values(), bases=(first,), frozen=True)


def _flat(options: type) -> Iterator[tuple[str, Any, Any]]:
    """Name, type and default of each option, those of parts as they stand on the command line."""
    kinds = get_type_hints(options, include_extras=True)
    for option in fields(options):
        default = option.default
        if option.default_factory is not MISSING:
            default = option.default_factory()
        if is_dataclass(default):
            yield from _flat(type(default))
        else:
            yield option.name, kinds[option.name], default

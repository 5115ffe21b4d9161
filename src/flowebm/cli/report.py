"""`flowebm report`: what a run is worth, as one page."""

import json
import sys
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import tyro

from flowebm.cli.arguments import parse
from flowebm.cli.train_options import NOT_THE_RUNS, Train, options_of
from flowebm.report.page import write_html_report


@dataclass(frozen=True)
class Report:
    """Write a page that says whether a model is to be trusted, how good it is, and why.

    The page needs no other file. A run that is still going is reported with what there is.

    Attributes:
        run: The run directory.
        output: The page; report.html in the run directory if not given.
        json: Print one JSON object that says what the page says in short.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    output: Annotated[Path | None, tyro.conf.arg(aliases=("-o",), metavar="FILE")] = None
    json: bool = False


def run(arguments: Sequence[str]) -> None:
    """Report by the command line's arguments.

    Args:
        arguments: What stands behind `flowebm report`.

    Raises:
        ValueError: If the run or the file is refused.
    """
    command = parse(Report, "report", arguments)
    report = write_html_report(command.run, command.output, defaults=default_options())
    if command.json:
        values = report._asdict() | {"run": str(command.run), "path": str(report.path)}
        json.dump(values, sys.stdout)
        print()
        return
    print(f"{report.path}: is the model to be trusted? {report.trust}. {report.answer}")
    for sentence in report.warnings:
        print(f"- {sentence}")


def default_options() -> dict[str, dict[str, Any]]:
    """For every method, the options of `flowebm train` that belong to a run: their defaults."""
    methods = get_args(get_type_hints(Train)["method"])
    return {method: _defaults(options_of(["--method", method])) for method in methods}


def _defaults(command: type[Train]) -> dict[str, Any]:
    defaults: dict[str, Any] = {}
    for option in fields(command):
        if option.name in NOT_THE_RUNS:
            continue
        factory = option.default_factory
        value = option.default if factory is MISSING else factory()
        if is_dataclass(value) and not isinstance(value, type):
            defaults |= asdict(value)
        else:
            defaults[option.name] = value
    # Every method but this one has to be named.
    return defaults | {"method": Train.method}

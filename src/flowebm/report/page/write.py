"""The report of a run, written into a file."""

import os
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from flowebm.atomic_write import atomic_write
from flowebm.refusal import Refused
from flowebm.report.page.checks import Trust, checks_of, trust_in
from flowebm.report.page.command import options_of
from flowebm.report.page.document import GENERATOR, document
from flowebm.report.page.record import State, read_record
from flowebm.report.page.summary import opening_sentence


class Report(NamedTuple):
    """What a report says.

    Attributes:
        path: The file.
        state: Whether the run is `finished`, still `training`, or was `stopped`.
        trust: Whether the model is to be trusted: `yes`, `with care`, `no` or `not yet`.
        answer: The same in a sentence.
        warnings: What is wrong and what to do, one sentence each.
    """

    path: Path
    state: State
    trust: Trust
    answer: str
    warnings: list[str]


def write_html_report(
    run: str | Path,
    file: str | Path | None = None,
    *,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> Report:
    """Write one page that says what a run is worth, and why; it needs no other file.

    A run that is still going, or was stopped, is reported with what there is of it.

    Args:
        run: The run directory.
        file: The page; `report.html` in the run directory if not given. Only an earlier report
            is replaced by it.
        defaults: For every method, the defaults of the command line's options by name. Without
            them the page has no command that repeats the run.

    Returns:
        Where the report is, and what it says in short.

    Raises:
        ValueError: If this is not a run directory, or the file must not be written.
        OSError: If the file cannot be written.
    """
    run = Path(run)
    path = run / "report.html" if file is None else Path(file)
    record = read_record(run)
    _check_output(path)
    installed = _installed()
    usual = (defaults or {}).get(record.config["options"]["method"].text or "", {})
    # The defaults of another version may have been others.
    complete = record.config["versions"]["flowebm"].text != installed
    checks = checks_of(record)
    trust = trust_in(record, checks)
    page = document(
        record,
        checks,
        trust,
        options=options_of(record, usual, complete=complete),
        installed=installed,
        now=datetime.now().astimezone(),
    )
    with atomic_write(path) as opened:
        opened.write(page.encode("utf-8", "xmlcharrefreplace"))
    answer = opening_sentence(record, trust, checks)
    return Report(path, record.state, trust, answer, [c.sentence for c in checks if c.sentence])


def _check_output(path: Path) -> None:
    """Refuse to replace what is not a report."""
    if path.is_dir():
        raise Refused(f"{path} is a directory: give the name of a file.")
    if not path.parent.is_dir():
        raise Refused(f"There is no folder {path.parent}: make it first.")
    if not os.access(path.parent, os.W_OK):
        raise Refused(f"The folder {path.parent} cannot be written in: give another file to -o.")
    if not path.exists():
        return
    if path.is_file():
        with path.open("rb") as file:
            if f'content="{GENERATOR}"'.encode() in file.read(1000):
                return
    raise Refused(f"{path} exists and is no report: give another file to -o.")


def _installed() -> str | None:
    try:
        return version("flowebm")
    except PackageNotFoundError:
        return None

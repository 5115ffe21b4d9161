"""The frame of the benchmarks: cells measured one after the other, and kept as they come.

A cell is a dictionary of names, such as `{"kind": "lu", "key": "0"}`. A script says which cells
there are, how one is measured and how the results are shown:

    def main() -> None:
        parser = cells.parser(__doc__, RESULTS)
        parser.add_argument("--keys", type=int, default=1)
        arguments = parser.parse_args()
        wanted = [{"kind": k, "key": str(i)} for i in range(arguments.keys) for k in KINDS]
        cells.main(arguments, wanted, measure, table, packages=("flowebm", "jax"))

Each cell is measured in a process of its own, by `measure(**cell)`, which returns a record that
JSON can hold. The record goes to the results file as soon as it is there, under the cell's names
(`results["lu"]["0"]`), with an entry `run`: when, on what, of which commit, with which versions,
for how many seconds and with how much memory at most. What is there already is not measured again,
so that a stopped run goes on where it was, and two runs on different cells share a file. Records
without `run` are older: what they ran on stands at the head of their file. A file's `note` says
what its records no longer tell. A cell that ran out of the time that it had has the record
`{"cut": seconds}`, with its `run`.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

Cell = Mapping[str, str]


def by_names(cell: Cell) -> tuple[str, ...]:
    """Where a cell's record lies in the results: under its names, one inside the other."""
    return tuple(cell.values())


def parser(description: str, results: Path) -> argparse.ArgumentParser:
    """The options that all benchmarks share.

    Args:
        description: The script's docstring, of which the first line is shown.
        results: The file that results are kept in by default.

    Returns:
        A parser, to which a script adds its own options.
    """
    options = argparse.ArgumentParser(description=description.splitlines()[0])
    options.add_argument("--again", action="store_true", help="measure what is there already too")
    options.add_argument("--table", action="store_true", help="print the table and stop")
    options.add_argument("--results", type=Path, default=results, help="where results are kept")
    options.add_argument("--cell", type=json.loads, help=argparse.SUPPRESS)
    return options


def main(
    arguments: argparse.Namespace,
    wanted: Iterable[Cell],
    measure: Callable[..., dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
    *,
    packages: Iterable[str],
    place: Callable[[Cell], tuple[str, ...]] = by_names,
    environment: Callable[[Cell], Mapping[str, str]] = lambda cell: os.environ,
    limit: float | None = None,
) -> None:
    """Measure the cells that are wanted and not there yet, and print the table.

    Args:
        arguments: What `parser` has read.
        wanted: The cells, in the order in which they are measured.
        measure: From a cell's names, as keyword arguments, to its record.
        table: From all results to what is printed.
        packages: Distributions whose versions belong to a record.
        place: Where a cell's record lies in the results.
        environment: The environment variables of a cell's process.
        limit: Seconds that a cell's process may take, or `None`.

    Raises:
        CalledProcessError: If a cell's process fails; what was measured before is kept.
    """
    if arguments.cell is not None:
        print(json.dumps(_measured(arguments.cell, measure, packages)))
        return
    for cell in [] if arguments.table else wanted:
        path = place(cell)
        if _find(load(arguments.results), path) is not None and not arguments.again:
            continue
        try:
            record = _in_own_process(cell, environment(cell), limit)
        except subprocess.TimeoutExpired:
            record = {"cut": limit, "run": _run(packages) | {"seconds": limit}}
        _keep(arguments.results, path, record)
        print(f"{' '.join(path)}: {json.dumps(_without_lists(record))}", file=sys.stderr)
    print(table(load(arguments.results)))


def _measured(cell: Cell, measure: Callable[..., dict], packages: Iterable[str]) -> dict:
    started = time.perf_counter()
    record = measure(**cell)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return record | {
        "run": _run(packages)
        | {
            "seconds": time.perf_counter() - started,
            # Linux counts in KiB, macOS in bytes.
            "peak_memory_bytes": peak * (1 if sys.platform == "darwin" else 1024),
        }
    }


def _run(packages: Iterable[str]) -> dict[str, Any]:
    """When, on what, of which commit and with which versions."""
    return {
        "date": date.today().isoformat(),
        "cores": _cores(),
        "platform": platform.machine(),
        "commit": _commit(),
        "versions": {name: version(name) for name in packages},
    }


def _cores() -> int | None:
    """Those that the process may use, which `taskset` may have left it fewer of."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _commit() -> str | None:
    """The commit that is checked out, if this is a clone."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def _in_own_process(
    cell: Cell, environment: Mapping[str, str], limit: float | None
) -> dict[str, Any]:
    command = [sys.executable, sys.argv[0], "--cell", json.dumps(dict(cell))]
    done = subprocess.run(
        command,
        env=dict(environment),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=limit,
    )
    # Whatever else was printed came before.
    return json.loads(done.stdout.splitlines()[-1])


def load(path: Path) -> dict[str, Any]:
    """The results kept in a file; none if there is no file."""
    return json.loads(path.read_text())["results"] if path.exists() else {}


def _find(results: dict[str, Any], path: tuple[str, ...]) -> Any:
    found: Any = results
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _keep(file: Path, path: tuple[str, ...], record: dict[str, Any]) -> None:
    """Read the file anew and put the record in, so that runs side by side lose nothing."""
    content = json.loads(file.read_text()) if file.exists() else {"results": {}}
    *outer, last = path
    inside = content["results"]
    for name in outer:
        inside = inside.setdefault(name, {})
    inside[last] = record
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    unfinished.replace(file)


def _without_lists(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if not isinstance(value, list)}

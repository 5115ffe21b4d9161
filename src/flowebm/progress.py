"""What a person sees of a run while it runs."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

OnBlock = Callable[[str, dict[str, Any], int], None]
OnProgress = Callable[[int, int], None]

#: Seconds between two lines where there is no terminal to draw a bar on.
_LINE_INTERVAL = 10.0


@contextmanager
def progress_callback(console: "Console | None" = None, quiet: bool = False) -> Iterator[OnBlock]:
    """Show a run's progress, with the validation NLL and the ESS as they are now.

    On a terminal each stage has a bar; elsewhere a line is printed every ten seconds at
    most and at a stage's end.

    Args:
        console: Where to show it; standard error, if not given.
        quiet: Whether to show nothing.

    Yields:
        A function of the stage, its row of metrics and the total of iterations expected, as
        `Callbacks.on_block` has them.
    """
    if quiet:
        yield lambda stage, row, total: None
        return
    console = console or _standard_error()
    if console.is_terminal:
        with _bars(console) as on_block:
            yield on_block
    else:
        with _lines(console) as on_block:
            yield on_block


@contextmanager
def progress_counter(
    task: str, console: "Console | None" = None, quiet: bool = False
) -> Iterator[OnProgress]:
    """Show the progress of a task that counts what it has done.

    On a terminal it has a bar with the time left. Elsewhere it is silent unless it takes longer
    than ten seconds, when it prints a line every ten seconds at most.

    Args:
        task: A word for it.
        console: Where to show it; standard error, if not given.
        quiet: Whether to show nothing.

    Yields:
        A function of what is done and what there is to do.
    """
    if quiet:
        yield lambda done, total: None
        return
    console = console or _standard_error()
    started = time.monotonic()
    callback = _lines(console, patient=True)
    if console.is_terminal:
        callback = progress_callback(console)
    with callback as on_block:

        def on_progress(done: int, total: int) -> None:
            on_block(task, {"iteration": done, "seconds": time.monotonic() - started}, total)

        yield on_progress


def _standard_error() -> "Console":
    from rich.console import Console

    return Console(stderr=True)


def _measures(row: dict[str, Any]) -> str:
    """The row's NLL (nats) with its standard error, and its ESS (a fraction) in per cent."""
    parts = []
    if row.get("nll") is not None:
        error = "" if row.get("nll_stderr") is None else f" ± {row['nll_stderr']:.4f}"
        parts.append(f"NLL {row['nll']:.4f}{error}")
    if row.get("ess") is not None:
        parts.append(f"ESS {row['ess']:.0%}")
    return "  ".join(parts)


@contextmanager
def _bars(console: "Console") -> Iterator[OnBlock]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
    )

    tasks: dict[str, TaskID] = {}
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[measures]}"),
        console=console,
        # A run's host thread should compute, not draw.
        refresh_per_second=2,
        speed_estimate_period=120,
    )

    def on_block(stage: str, row: dict[str, Any], total: int) -> None:
        measures = _measures(row)
        if stage not in tasks:
            # A resumed stage begins where it was; its earlier iterations say nothing of speed.
            tasks[stage] = progress.add_task(
                stage, total=total, completed=row["iteration"], measures=measures
            )
        else:
            progress.update(
                tasks[stage], total=total, completed=row["iteration"], measures=measures
            )

    with progress:
        yield on_block


@contextmanager
def _lines(console: "Console", *, patient: bool = False) -> Iterator[OnBlock]:
    """Lines; a patient callback says nothing about what is over within an interval."""
    pending: tuple[str, str] | None = None
    last_line = time.monotonic() if patient else -float("inf")
    is_silent = patient

    def flush() -> None:
        nonlocal pending, last_line, is_silent
        is_silent = is_silent and time.monotonic() - last_line < _LINE_INTERVAL
        if pending is not None and not is_silent:
            console.print(pending[1], highlight=False, markup=False, soft_wrap=True)
            pending, last_line = None, time.monotonic()

    def on_block(stage: str, row: dict[str, Any], total: int) -> None:
        nonlocal pending
        if pending is not None and pending[0] != stage:
            flush()
        count = f"{row['iteration']}/{total}"
        parts = [stage, count, f"{row['seconds']:.0f} s", _measures(row)]
        pending = (stage, "  ".join(part for part in parts if part))
        if row["iteration"] >= total or time.monotonic() - last_line >= _LINE_INTERVAL:
            flush()

    try:
        yield on_block
    finally:
        # The last row of a stage that stopped early.
        flush()

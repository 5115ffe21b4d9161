"""Progress: a bar for people, few lines for logs, nothing when quiet."""

import io

import pytest
from rich.console import Console

from flowebm import progress
from flowebm.progress import progress_callback, progress_counter


def row(iteration, **more):
    return {"stage": "a", "iteration": iteration, "seconds": 2.5} | more


@pytest.fixture
def screen():
    return io.StringIO()


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""
    times = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: times[0])
    return times


def terminal(screen):
    return Console(file=screen, force_terminal=True, width=120, color_system=None)


def log(screen):
    return Console(file=screen, force_terminal=False, width=40)


def test_a_terminal_shows_the_nll_with_its_error_and_the_ess(screen):
    with progress_callback(terminal(screen)) as on_block:
        on_block("balanced", row(0), 200)
        on_block("balanced", row(50, nll=1.23456, nll_stderr=0.01234, ess=0.876), 200)
    final = screen.getvalue()
    assert "balanced" in final
    assert "50/200" in final
    assert "NLL 1.2346 ± 0.0123  ESS 88%" in final


def test_each_stage_has_its_bar(screen):
    with progress_callback(terminal(screen)) as on_block:
        on_block("flow", row(10), 10)
        on_block("balanced", row(5), 30)
        on_block("balanced", row(10), 20)  # a time budget changes the total
    final = screen.getvalue()
    assert "10/10" in final
    assert "10/20" in final


def test_a_log_gets_one_line_in_ten_seconds_and_the_last_of_each_stage(screen, clock):
    with progress_callback(log(screen)) as on_block:
        for i in range(6):
            on_block("flow", row(i), 100)
            clock[0] += 4
        on_block("balanced", row(0), 50)
        on_block("balanced", row(50, nll=-1.0), 50)
    lines = screen.getvalue().splitlines()
    # Written at 0 s and 12 s; iteration 5 ended the stage early; the last stage ended in full.
    assert [line.split()[:2] for line in lines] == [
        ["flow", "0/100"],
        ["flow", "3/100"],
        ["flow", "5/100"],
        ["balanced", "50/50"],
    ]
    assert lines[-1].endswith("NLL -1.0000")
    assert "\x1b" not in screen.getvalue()


def interrupted_run(console):
    with progress_callback(console) as on_block:
        on_block("a", row(0), 100)
        on_block("a", row(7, ess=0.5), 100)
        raise KeyboardInterrupt


def test_a_log_gets_the_last_line_of_a_run_that_stopped(screen, clock):
    with pytest.raises(KeyboardInterrupt):
        interrupted_run(log(screen))
    assert screen.getvalue().splitlines()[-1] == "a  7/100  2 s  ESS 50%"


@pytest.mark.parametrize("console", [terminal, log])
def test_quiet_shows_nothing(screen, console):
    with progress_callback(console(screen), quiet=True) as on_block:
        on_block("a", row(1, nll=0.0), 1)
    assert screen.getvalue() == ""


def test_a_counter_has_a_bar_with_the_time_left_on_a_terminal(screen):
    with progress_counter("score", terminal(screen)) as on_progress:
        on_progress(0, 300)
        on_progress(300, 300)
    assert "score" in screen.getvalue()
    assert "300/300" in screen.getvalue()
    assert "0:00:00" in screen.getvalue()


def test_a_counter_in_a_log_is_silent_for_ten_seconds_and_then_seldom_speaks(screen, clock):
    with progress_counter("score", log(screen)) as on_progress:
        on_progress(0, 9)
        clock[0] += 9
        on_progress(9, 9)
    assert screen.getvalue() == ""
    with progress_counter("score", log(screen)) as on_progress:
        for done in range(10):
            on_progress(done, 9)
            clock[0] += 4
    assert screen.getvalue().splitlines() == [
        "score  3/9  12 s",
        "score  6/9  24 s",
        "score  9/9  36 s",
    ]


@pytest.mark.parametrize("console", [terminal, log])
def test_a_quiet_counter_shows_nothing(screen, clock, console):
    with progress_counter("score", console(screen), quiet=True) as on_progress:
        clock[0] += 60
        on_progress(1, 1)
    assert screen.getvalue() == ""

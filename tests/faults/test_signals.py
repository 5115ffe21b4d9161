"""Ctrl-C and SIGTERM: the first stops where the run can go on from, the second at once."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest

from flowebm.training.metrics import read_metrics

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_run_saves_the_block_it_is_in_and_says_how_to_go_on(tmp_path, command, wait, number):
    path = tmp_path / "my run"
    process = command.train(path, "--max-steps", "100000")
    metrics = path / "metrics.jsonl"
    # The row before the first block and the one behind it. While programs are compiled, which takes
    # a busy machine seconds, a run stops behind a single iteration, and no row tells of that.
    wait(lambda: metrics.exists() and len(read_metrics(metrics)) > 1, process)
    seen = len(read_metrics(metrics))
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == STATUS[number], err
    assert out == ""
    assert "Traceback" not in err
    assert "once more stops at once" in err
    assert f"--out '{path}'" in err
    assert err.rstrip().endswith("--resume`.")
    rows = read_metrics(metrics)
    # The block that was begun may have been over while the signal came.
    assert seen < len(rows) <= seen + 3
    last = rows[-1]
    saved = (path / "checkpoints" / last["stage"]).iterdir()
    assert max(int(step.name) for step in saved) == last["iteration"]


def listening(body):
    """A process that listens to signals; it has said `ready`."""
    code = "import time\nfrom flowebm.cli.stop_signals import Stopped, stop_signals\n"
    process = subprocess.Popen(
        [sys.executable, "-c", code + textwrap.dedent(body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_second_signal_stops_at_once_with_a_line(second):
    # SQLite holds the main thread as a compiled program does: Python's handlers have to wait,
    # but other threads run.
    process = listening("""
        import sqlite3
        endless = "WITH RECURSIVE n AS (SELECT 1 i UNION ALL SELECT 1 FROM n) SELECT sum(i) FROM n"
        with stop_signals() as signals:
            signals.waits = True
            print("ready", flush=True)
            sqlite3.connect(":memory:").execute(endless).fetchall()
    """)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "\n"
    assert "once more stops at once" in process.stderr.readline()
    started = time.monotonic()
    process.send_signal(second)
    _, err = process.communicate(timeout=30)
    assert process.returncode == STATUS[second]
    assert "Stopped at once; what was saved before is whole." in err
    assert time.monotonic() - started < 10


def test_a_signal_that_need_not_wait_stops_where_the_command_is():
    process = listening("""
        with stop_signals() as signals:
            try:
                print("ready", flush=True)
                time.sleep(60)
            except Stopped as stop:
                print(int(stop.number))
    """)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "15\n", "")


def test_handlers_are_put_back_and_ignored_signals_stay_ignored():
    process = listening("""
        import signal
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
        with stop_signals() as signals:
            signals.waits = True
            print("ready", flush=True)
            signal.raise_signal(signal.SIGINT)
            assert signals.asked is None
            signal.raise_signal(signal.SIGTERM)
            assert signals.asked == signal.SIGTERM
        assert before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
        assert signal.set_wakeup_fd(-1) == -1
    """)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err

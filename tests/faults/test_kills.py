"""Killed again and again at any moment, a run ends as if nobody had touched it."""

import random
import signal
import threading
import time

import pytest

from flowebm.training.metrics import read_metrics

#: Kills of a method's runs, and of one run at most.
KILLS, KILLS_OF_A_RUN = 26, 5

#: Every block is saved, so that many kills fall into a save, and the run's begin is told. What
#: follows the model's being saved is left out, so that none falls there.
OPEN = """
import flowebm.cli.train
from flowebm.cli.measure import Measures
flowebm.cli.train.measure = lambda *args, **options: Measures()
flowebm.cli.train.save_run_plots = lambda *args, **options: []
flowebm.cli.train.print_measures = lambda *args, **options: None
from flowebm.run import RunDirectory
from flowebm.training.checkpoints import Checkpoints
Checkpoints.__init__.__kwdefaults__["interval"] = 0.0
begin = RunDirectory.begin
def begin_and_tell(self, *args, **options):
    begin(self, *args, **options)
    print("begun", flush=True)
RunDirectory.begin = begin_and_tell
"""


def ended(process, seconds=None):
    """Kill a run that many seconds after its begin, if it is then still there.

    Its status, and the seconds from its begin to its end.
    """
    told = process.stdout.readline()
    assert told == "begun\n", process.communicate()[1]
    begun = time.monotonic()
    if seconds is not None:
        timer = threading.Timer(seconds, process.kill)
        timer.start()
    _, err = process.communicate(timeout=600)
    if seconds is not None:
        timer.cancel()
    duration = time.monotonic() - begun
    assert "Traceback" not in err, err
    assert process.returncode in (0, -signal.SIGKILL), err
    return process.returncode, duration


def result(path):
    """Bytes of the parameters, and everything else that is the run's and not the clock's."""
    rows = read_metrics(path / "metrics.jsonl")
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
    return [(path / name).read_bytes() for name in ("model.safetensors", "model.json")], rows


@pytest.mark.slow
@pytest.mark.parametrize("method", ["balanced", "ebflow"])
def test_a_run_that_is_killed_again_and_again_ends_as_if_undisturbed(tmp_path, command, method):
    def start(path, *options):
        return command.train(path, *options, method=method, before=OPEN)

    ended(start(tmp_path / "warm"))  # which fills the cache of programs
    status, duration = ended(start(tmp_path / "whole"))
    assert status == 0
    expected = result(tmp_path / "whole")

    moments = random.Random(method)
    kills, runs, where = 0, 0, []
    while kills < KILLS:
        path, of_this_run, status = tmp_path / f"run{runs}", 0, None
        while status != 0:
            seconds = moments.uniform(0, duration) if of_this_run < KILLS_OF_A_RUN else None
            status, took = ended(start(path, *["--resume"] * (of_this_run > 0)), seconds)
            if status == 0 and of_this_run == 0:
                # The machine is faster than it was: fewer moments shall fall behind the end.
                duration = min(duration, took)
            if status != 0:
                of_this_run += 1
                steps = sorted(path.glob("checkpoints/*/[0-9]*"), key=lambda p: p.stat().st_mtime)
                where.append("/".join(steps[-1].parts[-2:]) if steps else "none")
        assert result(path) == expected, f"after kills in {where[-of_this_run:]}"
        assert not list(path.rglob("*tmp*"))
        kills, runs = kills + of_this_run, runs + 1
        print(f"{method}: {kills} kills of {runs} runs; checkpoints {where}", flush=True)

"""Killed again and again at any moment, a run ends as if nobody had touched it."""

import random
import signal
import subprocess
import time
from contextlib import suppress

import pytest

from flowebm.training.metrics import read_metrics

#: Kills of each kind of run, and of one run at most.
KILLS = {"balanced": 16, "ebflow": 16, "joint": 20}
KILLS_OF_A_RUN = 5

#: Stages that each kind of run has, and is killed in. It may have more.
STAGES = {
    "balanced": {"flow", "balanced"},
    "ebflow": {"ebflow"},
    "joint": {"network-1", "tilt-1"},
}

#: Share of the kills whose moment is drawn from all seconds of a run: start-up, compilation and
#: estimates take most of them. The moment of the others is drawn from its blocks.
BY_THE_CLOCK = 0.3

#: Seconds after a block that a kill waits at most; in a tiny run it then falls into the next
#: block, or into a save.
WAIT = 0.15

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


def ended(process, until=None):
    """Kill a run after its begin, as soon as `until` returns, if it is then still there.

    Its status, and the seconds from its begin to its end.
    """
    told = process.stdout.readline()
    assert told == "begun\n", process.communicate()[1]
    begun = time.monotonic()
    if until is not None:
        until(process)
        process.kill()
    _, err = process.communicate(timeout=600)
    duration = time.monotonic() - begun
    assert "Traceback" not in err, err
    assert process.returncode in (0, -signal.SIGKILL), err
    return process.returncode, duration


def clock(seconds):
    """That many seconds from now."""

    def until(process):
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)

    return until


def block(path, stage, iteration, seconds):
    """That many seconds after a block of a run."""

    def until(process):
        while process.poll() is None and (stage, iteration) not in blocks(path):
            time.sleep(0.005)
        clock(seconds)(process)

    return until


def blocks(path):
    """Stage and iteration of all blocks of a run so far."""
    metrics = path / "metrics.jsonl"
    rows = read_metrics(metrics) if metrics.exists() else []
    return [(row["stage"], row["iteration"]) for row in rows]


def a_moment(draw, path, duration, every_block):
    """A random moment that a run has not passed, by the clock or by its blocks."""
    done = blocks(path)
    ahead = [b for b in every_block if b not in done]
    if not ahead or draw.random() < BY_THE_CLOCK:
        return clock(draw.uniform(0, duration))
    # All stages alike, however many blocks they have.
    stage = draw.choice(list(dict.fromkeys(stage for stage, _ in ahead)))
    chosen = draw.choice([b for b in ahead if b[0] == stage])
    return block(path, *chosen, draw.uniform(0, WAIT))


def result(path):
    """Bytes of the parameters, and everything else that is the run's and not the clock's."""
    rows = read_metrics(path / "metrics.jsonl")
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
    return [(path / name).read_bytes() for name in ("model.safetensors", "model.json")], rows


@pytest.mark.slow
@pytest.mark.parametrize("kind", KILLS)
def test_a_run_that_is_killed_again_and_again_ends_as_if_undisturbed(tmp_path, command, kind):
    def start(path, *options):
        return command.train(path, *options, method=kind, before=OPEN)

    ended(start(tmp_path / "warm"))  # which fills the cache of programs
    status, duration = ended(start(tmp_path / "whole"))
    assert status == 0
    expected, every_block = result(tmp_path / "whole"), blocks(tmp_path / "whole")
    assert STAGES[kind] <= {stage for stage, _ in every_block}

    draw = random.Random(kind)
    kills, runs, where = 0, 0, []
    while kills < KILLS[kind] or not STAGES[kind] <= {stage for stage, _ in where}:
        path, of_this_run, status = tmp_path / f"run{runs}", 0, None
        while status != 0:
            moment = None
            if of_this_run < KILLS_OF_A_RUN:
                moment = a_moment(draw, path, duration, every_block)
            status, took = ended(start(path, *["--resume"] * (of_this_run > 0)), moment)
            if status == 0 and of_this_run == 0:
                # The machine is faster than it was: fewer moments shall fall behind the end.
                duration = min(duration, took)
            if status != 0:
                of_this_run += 1
                where.append(next(reversed(blocks(path)), ("nothing", 0)))
        assert result(path) == expected, f"after kills in {where[-of_this_run:]}"
        assert not list(path.rglob("*tmp*"))
        kills, runs = kills + of_this_run, runs + 1
        print(f"{kind}: {kills} kills of {runs} runs, the last in {where[-of_this_run:]}")
        assert runs < 40, f"never killed in {STAGES[kind] - {stage for stage, _ in where}}"

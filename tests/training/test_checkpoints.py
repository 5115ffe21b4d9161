"""Checkpoints: a run that was killed goes on as if it had not been."""

import dataclasses
import errno
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

from flowebm.training import checkpoints
from flowebm.training.checkpoints import Checkpoints
from flowebm.training.driver import Callbacks, DriverState, StoppingCriteria, drive
from flowebm.training.trainer import AbstractTrainer


def state_at(iteration, *, size=5, finished=False, dtype=jnp.float32, extra=False):
    weight = jnp.linspace(0, 1, size * 3, dtype=dtype).reshape(size, 3) + iteration / 7
    inner = {"weight": weight, "moments": (jnp.ones(size) / 3, None)}
    if extra:
        inner["bias"] = jnp.zeros(2)
    fields = {
        "inner": inner,
        "best": {"weight": weight / 3},
        "iteration": jnp.array(iteration),
        "learning_rate_factor": jnp.asarray(0.5),
        "finished": jnp.array(finished),
    }
    others = {f.name: jnp.array(jnp.inf) for f in dataclasses.fields(DriverState)}
    return DriverState(**others | fields)


def history_until(iteration):
    return [{"stage": "a", "iteration": i, "nll": 1 / (i + 1)} for i in range(iteration + 1)]


def save_all(directory, n):
    saver = Checkpoints(directory, interval=0)
    for iteration in range(1, n + 1):
        saver.save("a", state_at(iteration), history_until(iteration))


def damage(folder):
    """Cut every file of a checkpoint in half."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_restored_state_is_the_saved_one_bit_for_bit(tmp_path):
    state, history = state_at(3), [*history_until(3), {"nll": math.inf, "x": 0.1 + 0.2}]
    Checkpoints(tmp_path).save("a", state, history)
    restored, rows = Checkpoints(tmp_path).restore("a", state_at(0))
    assert eqx.tree_equal(restored, state, typematch=True)
    assert rows == history
    weak = [[leaf.weak_type for leaf in jax.tree.leaves(s)] for s in (restored, state)]
    assert weak[0] == weak[1]  # another type would compile every block again


def test_a_stage_without_checkpoints_has_none(tmp_path):
    Checkpoints(tmp_path).save("a", state_at(1), [])
    assert Checkpoints(tmp_path).restore("b", state_at(0)) is None
    assert Checkpoints(tmp_path / "nowhere").restore("a", state_at(0)) is None
    assert not (tmp_path / "nowhere").exists()


def test_stages_do_not_meet(tmp_path):
    saver = Checkpoints(tmp_path)
    saver.save("a", state_at(1), history_until(1))
    saver.save("b", state_at(2, size=2), history_until(2))
    assert int(saver.restore("a", state_at(0))[0].iteration) == 1
    assert int(saver.restore("b", state_at(0, size=2))[0].iteration) == 2


def test_saves_keep_their_distance_except_the_last(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now)
    saver = Checkpoints(tmp_path, interval=10)

    def saved_iteration():
        return int(Checkpoints(tmp_path).restore("a", state_at(0))[0].iteration)

    saver.save("a", state_at(1), [])
    now += 9
    saver.save("a", state_at(2), [])
    assert saved_iteration() == 1
    now += 1
    saver.save("a", state_at(3), [])
    assert saved_iteration() == 3
    saver.save("a", state_at(4, finished=True), [])
    assert saved_iteration() == 4


def test_two_checkpoints_are_kept(tmp_path):
    save_all(tmp_path, 4)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["3", "4"]


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_is_then_replaced(tmp_path, caplog):
    save_all(tmp_path, 4)
    damage(tmp_path / "a" / "4")
    resumed = Checkpoints(tmp_path, interval=0)
    state, history = resumed.restore("a", state_at(0))
    assert int(state.iteration) == 3
    assert history == history_until(3)
    resumed.save("a", state_at(4), history_until(4))
    state, history = Checkpoints(tmp_path).restore("a", state_at(0))
    assert eqx.tree_equal(state, state_at(4), typematch=True)
    assert caplog.records == []  # Orbax would report the damage on the terminal


@pytest.mark.parametrize("item", ["state", "record"])
def test_damage_to_either_part_is_noticed(tmp_path, item):
    save_all(tmp_path, 2)
    damage(tmp_path / "a" / "2" / item)
    assert int(Checkpoints(tmp_path).restore("a", state_at(0))[0].iteration) == 1


def test_nothing_but_damage_is_refused(tmp_path):
    save_all(tmp_path, 2)
    damage(tmp_path / "a" / "1")
    damage(tmp_path / "a" / "2")
    with pytest.raises(ValueError, match=r"stage 'a' .* are damaged: bring them back"):
        Checkpoints(tmp_path).restore("a", state_at(0))


@pytest.mark.parametrize("part", ["state", "record"])
def test_a_checkpoint_that_cannot_be_read_for_a_moment_is_neither_damaged_nor_passed_over(
    tmp_path, monkeypatch, part
):
    """Nor deleted: as root reads what it has no permission to read, the disk does not answer."""
    save_all(tmp_path, 2)
    read_bytes, restore = Path.read_bytes, checkpoints.Checkpoints._parsed

    def no_answer(self):
        if part in self.parts:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))
        return read_bytes(self)

    def parsed(self, manager, stage, step, state_like):
        if step == 2:
            raise ValueError("RESOURCE_EXHAUSTED: whatever the storage layer says")
        return restore(self, manager, stage, step, state_like)

    with monkeypatch.context() as now:
        now.setattr(Path, "read_bytes", no_answer)
        now.setattr(checkpoints.Checkpoints, "_parsed", parsed)
        with pytest.raises(OSError, match=r"cannot be read at present .* resume again") as caught:
            Checkpoints(tmp_path).restore("a", state_at(0))
        assert "--overwrite" not in str(caught.value)
    state, _ = Checkpoints(tmp_path).restore("a", state_at(0))
    assert int(state.iteration) == 2


def test_a_read_that_fails_once_is_made_again(tmp_path, monkeypatch):
    save_all(tmp_path, 2)
    restore, failures = checkpoints.Checkpoints._parsed, [ValueError("a moment")]

    def parsed(self, *arguments):
        if failures:
            raise failures.pop()
        return restore(self, *arguments)

    monkeypatch.setattr(checkpoints.Checkpoints, "_parsed", parsed)
    assert int(Checkpoints(tmp_path).restore("a", state_at(0))[0].iteration) == 2


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (state_at(0, size=4), r"moments'\]\[0\] has shape \(5,\) .* not shape \(4,\)"),
        (state_at(0, dtype=jnp.float16), "float32, not .* float16"),
        (state_at(0, extra=True), r"it has no inner\['bias'\]"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, other, words):
    Checkpoints(tmp_path).save("a", state_at(1), [])
    with pytest.raises(ValueError, match=words + ".* other options.* another directory"):
        Checkpoints(tmp_path).restore("a", other)


def test_an_array_too_many_is_refused(tmp_path):
    Checkpoints(tmp_path).save("a", state_at(1, extra=True), [])
    with pytest.raises(ValueError, match=r"inner\['bias'\], which this run has not"):
        Checkpoints(tmp_path).restore("a", state_at(0))


CHILD = """
import sys
sys.path.insert(0, sys.argv[2])
from test_checkpoints import save_all
save_all(sys.argv[1], 10**6)
"""


def test_a_kill_in_the_middle_of_saving_leaves_a_whole_checkpoint(tmp_path):
    command = [sys.executable, "-c", CHILD, str(tmp_path), os.path.dirname(__file__)]
    child = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    # A temporary folder beside finished ones: a save is under way.
    while not list(tmp_path.glob("a/*tmp*")) or not (tmp_path / "a" / "2").exists():
        assert child.poll() is None, child.stderr.read().decode()
        assert time.monotonic() < deadline, "the child saved nothing"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    state, history = Checkpoints(tmp_path).restore("a", state_at(0))
    iteration = int(state.iteration)
    assert iteration >= 1
    assert eqx.tree_equal(state, state_at(iteration), typematch=True)
    assert history == history_until(iteration)


class NoisyDescent(AbstractTrainer):
    """Descent to the mean of the data, with noise: every iteration uses its key and batch."""

    data: jax.Array
    batch_size: int = eqx.field(static=True, default=4)
    stage: str = eqx.field(static=True, default="descent")
    weights: None = None

    def init(self, key):
        return jr.normal(key, (2,))

    def step(self, key, state, batch, learning_rate_factor):
        step = 0.1 * (self.data[batch].mean(0) - state) + 0.01 * jr.normal(key, (2,))
        return state + learning_rate_factor * step, {"size": jnp.abs(step).max()}

    def evaluate(self, key, state):
        nll_points = jnp.mean((self.data - state) ** 2, axis=1)
        return {"nll": nll_points.mean()}, nll_points

    def solution(self, state):
        return state

    def schedule(self, progress):
        return 1 - progress


class Interrupted(Exception):
    pass


def test_a_run_that_was_stopped_resumes_to_the_same_end(tmp_path):
    trainer = NoisyDescent(jr.normal(jr.key(1), (32, 2)))
    stopping = StoppingCriteria(max_steps=40, block_length=5)
    whole = drive(jr.key(0), trainer, stopping)

    def interrupt(stage, row, total):
        if row["iteration"] == 20:
            raise Interrupted

    def callbacks(*on_block):
        saver = Checkpoints(tmp_path, interval=0)
        return Callbacks(on_block=list(on_block), save=saver.save, restore=saver.restore)

    with pytest.raises(Interrupted):
        drive(jr.key(0), trainer, stopping, callbacks(interrupt))
    rows = []
    resumed = drive(
        jr.key(0), trainer, stopping, callbacks(lambda stage, row, total: rows.append(row))
    )
    assert [row["iteration"] for row in rows] == [20, 25, 30, 35, 40]
    assert eqx.tree_equal(resumed.state, whole.state)

    def without_seconds(history):
        return [{k: v for k, v in row.items() if k != "seconds"} for row in history]

    assert without_seconds(resumed.history) == without_seconds(whole.history)
    again = drive(jr.key(0), trainer, stopping, callbacks(interrupt))
    assert eqx.tree_equal(again.state, whole.state)


def test_a_run_goes_on_with_other_data_and_chooses_its_best_among_them(tmp_path):
    """The data have moved and are more: what was best on the old ones is none on the new."""

    def run(data, checksum, until):
        saver = Checkpoints(tmp_path, interval=0, data=checksum)

        def stop(stage, row, total):
            if row["iteration"] == until:
                raise Interrupted

        callbacks = Callbacks(on_block=[stop], save=saver.save, restore=saver.restore)
        return drive(jr.key(0), NoisyDescent(data), StoppingCriteria(60, block_length=5), callbacks)

    data = jr.normal(jr.key(1), (32, 2))
    with pytest.raises(Interrupted):
        run(data, "old", 35)
    outcome = run(jr.normal(jr.key(2), (40, 2)) + 3, "new", -1)
    assert [row["iteration"] for row in outcome.history] == list(range(0, 61, 5))
    assert outcome.state.best_nll_points.shape == (40,)
    best = min(outcome.history[7:], key=lambda row: row["nll"])
    assert float(outcome.state.best_nll) == pytest.approx(best["nll"])
    assert int(outcome.state.best_iteration) == best["iteration"]
    # On the old data it was far better, at the iteration that the checkpoint held.
    assert outcome.history[6]["nll"] < best["nll"] / 2 + 1


def test_checkpoints_that_do_not_name_their_data_are_of_the_same(tmp_path):
    Checkpoints(tmp_path).save("a", state_at(3), history_until(3))
    state, _ = Checkpoints(tmp_path, data="x").restore("a", state_at(0))
    assert eqx.tree_equal(state, state_at(3), typematch=True)

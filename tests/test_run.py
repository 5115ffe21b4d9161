"""The run directory: only a run's own files are ever replaced."""

import errno
import itertools
import json
import math
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from flowebm.atomic_write import CannotWrite
from flowebm.run import RUN_VERSION, RunDirectory, first_difference, plain

CONFIG = {"flowebm_run": RUN_VERSION, "options": {"seed": 0}}


def begun(path):
    run = RunDirectory(path)
    run.begin(CONFIG, resume=False)
    run.release()
    return run


def contents(path):
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("exists", [False, True])
def test_a_missing_or_empty_directory_is_admitted_and_left_untouched(tmp_path, exists):
    path = tmp_path / "deep" / "run"
    if exists:
        path.mkdir(parents=True)
    RunDirectory(path).admit(resume=False, overwrite=False)
    assert path.exists() == exists
    assert not contents(tmp_path)


def test_a_directory_with_anything_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty.*--resume.*--overwrite"):
        RunDirectory(tmp_path).admit(resume=False, overwrite=False)


@pytest.mark.parametrize("config", [None, "{", "[]", "{}", '"flowebm_run"', "\xff"])
@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_what_is_no_run_directory_is_neither_resumed_nor_replaced(tmp_path, config, how):
    (tmp_path / "model.json").write_text("another program's")
    if config is not None:
        (tmp_path / "config.json").write_text(config, encoding="latin-1")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="is not a run directory"):
        RunDirectory(tmp_path).admit(**{"resume": False, "overwrite": False, how: True})
    assert contents(tmp_path) == before


def test_a_run_that_was_stopped_before_it_began_leaves_no_run(tmp_path):
    for name in (".lock", ".config.json.17.tmp"):
        (tmp_path / name).write_text("")
    RunDirectory(tmp_path).admit(resume=False, overwrite=False)
    with pytest.raises(ValueError, match="There is no run in"):
        RunDirectory(tmp_path).admit(resume=True, overwrite=False)
    begun(tmp_path)
    assert set(contents(tmp_path)) == {Path("config.json"), Path(".lock")}


def test_a_run_of_another_format_version_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"flowebm_run": RUN_VERSION + 1}))
    with pytest.raises(ValueError, match="run version"):
        RunDirectory(tmp_path).admit(resume=False, overwrite=True)


def test_nothing_to_resume_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no run in .* to resume"):
        RunDirectory(tmp_path / "none").admit(resume=True, overwrite=False)


def test_resume_and_overwrite_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="exclude each other"):
        RunDirectory(begun(tmp_path).path).admit(resume=True, overwrite=True)


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        RunDirectory(tmp_path / "file").admit(resume=False, overwrite=False)


def test_replacing_a_run_removes_what_a_run_writes_and_nothing_else(tmp_path):
    run = begun(tmp_path)
    run.metrics_path.write_text("{}\n")
    (run.checkpoints_path / "flow").mkdir(parents=True)
    (run.checkpoints_path / "flow" / "state").write_text("")
    elsewhere = tmp_path.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "figure.png").write_text("kept")
    (tmp_path / "plots").symlink_to(elsewhere)
    (tmp_path / "notes.txt").write_text("kept")
    RunDirectory(tmp_path).admit(resume=False, overwrite=True)
    assert run.metrics_path.exists()
    begun(tmp_path)
    assert set(contents(tmp_path)) == {Path("config.json"), Path(".lock"), Path("notes.txt")}
    assert (elsewhere / "figure.png").read_text() == "kept"


class Killed(BaseException):
    """The end of a process, after which it touches no file."""


@pytest.fixture(scope="module")
def killed_after():
    """A block that is left at the n-th call of the system that opens or changes a file."""
    left = math.inf

    def hook(event, arguments):
        nonlocal left
        if left < math.inf and event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            left -= 1
            if left < 0:
                raise Killed

    sys.addaudithook(hook)  # which stays, and does nothing outside the block

    @contextmanager
    def block(calls):
        nonlocal left
        left = calls
        try:
            yield
        finally:
            left = math.inf

    return block


def old_run(path):
    run = begun(path)
    run.metrics_path.write_text("{}\n")
    (run.checkpoints_path / "flow").mkdir(parents=True)
    (run.checkpoints_path / "flow" / "state").write_text("old")
    (path / "notes.txt").write_text("mine")
    return contents(path)


def test_killed_at_any_moment_of_a_replacement_leaves_the_old_run_or_the_new(
    tmp_path, killed_after
):
    left = []
    for calls in itertools.count():
        path = tmp_path / str(calls)
        old = old_run(path)
        run = RunDirectory(path)
        try:
            with killed_after(calls):
                run.begin(CONFIG | {"new": True}, resume=False)
            break
        except Killed:
            run.release()
        # What other commands see is a run at every moment.
        is_new = "new" in RunDirectory(path).read_config()
        RunDirectory(path).begin(CONFIG, resume=True)
        new = {Path(".lock"), Path("notes.txt"), Path("config.json")}
        assert set(contents(path)) == new if is_new else contents(path) == old
        left.append(is_new)
    assert left == sorted(left)
    assert sum(left) > 1
    assert len(left) - sum(left) > 4


def test_where_the_new_configuration_cannot_be_written_the_old_run_stays(tmp_path, monkeypatch):
    old = old_run(tmp_path)

    def no_space(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    run = RunDirectory(tmp_path)
    with pytest.raises(CannotWrite, match="no space is left"):
        run.begin(CONFIG | {"new": True}, resume=False)
    run.release()
    assert contents(tmp_path) == old
    assert not run.has_begun


def test_resuming_changes_nothing(tmp_path):
    run = begun(tmp_path)
    run.metrics_path.write_text("{}\n")
    before = contents(tmp_path)
    again = RunDirectory(tmp_path)
    again.admit(resume=True, overwrite=False)
    again.begin({**CONFIG, "options": {}}, resume=True)
    assert contents(tmp_path) == before


def test_two_processes_cannot_train_in_one_directory(tmp_path):
    pytest.importorskip("fcntl", reason="the system has no such locks")
    first, second = RunDirectory(tmp_path), RunDirectory(tmp_path)
    first.begin(CONFIG, resume=False)
    with pytest.raises(ValueError, match="Another process is training"):
        second.begin(CONFIG, resume=True)
    assert not second.has_begun
    first.release()
    second.begin(CONFIG, resume=True)


def test_the_first_option_that_differs_is_named():
    assert first_difference({"a": 1, "b": 2}, {"a": 1, "b": 2}) is None
    assert first_difference({"a": 1, "b": 2}, {"a": 1, "b": 3}) == "b"
    assert first_difference({"a": 1, "old": 2}, {"a": 1}) == "old"
    assert first_difference({"a": 1}, {"a": 1, "new": 0}) == "new"


def test_plain_values_are_json(tmp_path):
    value = {"a": np.float32(0.5), 1: (np.arange(2), Path("x")), "n": [math.nan, -math.inf, True]}
    expected = {"a": 0.5, "1": [[0, 1], "x"], "n": [None, None, True]}
    assert plain(value) == expected
    run = RunDirectory(tmp_path)
    run.write(run.evaluation_path, value)
    assert json.loads(run.evaluation_path.read_text()) == expected
    assert list(tmp_path.iterdir()) == [run.evaluation_path]

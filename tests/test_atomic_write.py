"""Files appear whole or not at all, and what hinders them is told in one sentence."""

import errno
import os
import stat

import pytest

from flowebm.atomic_write import CannotWrite, atomic_write, cannot_write, remove_unfinished, writing


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "file"
    with atomic_write(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert os.listdir(tmp_path) == ["file"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write():
        with atomic_write(path) as file:
            file.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_permissions_stay(tmp_path, mode):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(mode)
    with atomic_write(path) as file:
        file.write(b"new")
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_nothing_is_written_through_a_link_under_the_hidden_name(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / f".file.{os.getpid()}.tmp").symlink_to(victim)
    with atomic_write(tmp_path / "file") as file:
        file.write(b"new")
    assert victim.read_text() == "mine"
    assert (tmp_path / "file").read_bytes() == b"new"


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    for name in (".model.json.17.tmp", "notes.tmp", ".hidden"):
        (tmp_path / name).write_text("")
    remove_unfinished(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "notes.tmp"]


@pytest.mark.parametrize(
    ("error", "number", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC, "no space is left"),
        (OSError(errno.EROFS, "Read-only file system"), errno.EROFS, "mounted read-only"),
        (OSError(errno.EACCES, "Permission denied"), errno.EACCES, "may not be written in"),
        (OSError(errno.EIO, "Input/output error"), errno.EIO, "Input/output error: look"),
        # As tensorstore and its like say it.
        (ValueError("RESOURCE_EXHAUSTED: write failed"), errno.ENOSPC, "no space is left"),
        (RuntimeError("x [No space left on device]"), errno.ENOSPC, "no space is left"),
        (RuntimeError("something else"), None, "something else: look at its disk"),
    ],
)
def test_the_sentence_says_what_where_and_what_to_do(tmp_path, error, number, words):
    refusal = cannot_write(tmp_path / "file", error)
    assert refusal.errno == number
    assert str(refusal).startswith(f"Cannot write {tmp_path / 'file'}, because ")
    assert words in str(refusal)
    assert str(refusal).count("\n") == 0


def test_the_innermost_file_is_named(tmp_path):
    def fail():
        with writing(tmp_path), atomic_write(tmp_path / "inner"):
            raise OSError(errno.ENOSPC, "")

    with pytest.raises(CannotWrite, match="inner"):
        fail()

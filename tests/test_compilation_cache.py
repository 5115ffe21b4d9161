"""Compiled programs are kept where they can be, in the user's folder or where he says."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import pytest

import flowebm
from flowebm import compilation_cache
from flowebm.compilation_cache import use_compilation_cache, use_compilation_cache_by_default


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    """JAX as it starts, without a folder for programs; the tests' own comes back afterwards."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    monkeypatch.delenv("FLOWEBM_CACHE", raising=False)
    monkeypatch.setattr(compilation_cache._Chosen, "decided", False)
    monkeypatch.setattr(compilation_cache._Chosen, "folder", None)
    with warnings.catch_warnings():
        yield
    for name, value in before.items():
        jax.config.update(name, value)


def kept_in():
    use_compilation_cache_by_default()
    return jax.config.jax_compilation_cache_dir


def test_programs_are_kept_in_the_users_cache_small_ones_too(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "flowebm" / "jax"
    assert kept_in() == str(folder)
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0
    # Nothing is left of the attempt to write, and nobody else may write there.
    assert [file.name for file in folder.iterdir()] == [".size-looked-at"]
    assert folder.stat().st_mode & 0o077 == 0


def test_a_folder_that_the_user_names_to_jax_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("FLOWEBM_CACHE", str(tmp_path / "ours"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    assert kept_in() == str(tmp_path / "mine")
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 1
    assert flowebm.use_compilation_cache(False) == tmp_path / "mine"
    assert kept_in() == str(tmp_path / "mine")


def test_a_threshold_that_the_user_sets_in_jax_stays(tmp_path):
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    use_compilation_cache(tmp_path)
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.5


@pytest.mark.parametrize("word", ["off", "0", "False"])
def test_the_environment_turns_it_off(tmp_path, monkeypatch, word):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("FLOWEBM_CACHE", word)
    assert kept_in() is None
    assert list(tmp_path.iterdir()) == []


def test_the_environment_names_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWEBM_CACHE", str(tmp_path / "ours"))
    assert kept_in() == str(tmp_path / "ours")
    assert use_compilation_cache(False) is None
    # And what was said last is not undone where the next module is imported.
    assert kept_in() is None
    assert use_compilation_cache() == tmp_path / "ours"


def test_a_cache_that_cannot_be_made_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert kept_in() is None


def test_a_cache_that_is_there_and_takes_no_file_is_done_without(tmp_path, monkeypatch):
    """Permissions would not stop the superuser, as who tests often run; /proc does."""
    (tmp_path / "flowebm").mkdir()
    (tmp_path / "flowebm" / "jax").symlink_to("/proc/self/fdinfo")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kept_in() is None


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert kept_in() is None


def test_what_was_used_longest_ago_is_deleted_beyond_the_limit(tmp_path):
    for number, name in enumerate(("old", "older", "oldest")):
        (tmp_path / name).write_bytes(bytes(1000))
        os.utime(tmp_path / name, (10_000 - number, 10_000 - number))
    use_compilation_cache(tmp_path, max_bytes=2500)
    assert {file.name for file in tmp_path.iterdir()} == {".size-looked-at", "old", "older"}
    # Within the hour nobody looks again.
    use_compilation_cache(tmp_path, max_bytes=0)
    assert (tmp_path / "old").exists()


def test_a_second_process_finds_the_programs_of_the_first(tmp_path):
    """From `import flowebm` on, without a word of the user."""
    code = """
import jax, jax.numpy as jnp, flowebm
flowebm.EnergyModel
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
jax.jit(lambda x: jnp.sin(x) + 0.125)(jnp.arange(3.0))
print(sum("cache_hits" in event for event in hits), sum("cache_misses" in e for e in hits))
"""
    hidden = ("JAX_COMPILATION_CACHE_DIR", "FLOWEBM_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    first, second = (
        subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for _ in range(2)
    )
    assert first[0] == "0"
    assert second == [first[1], "0"]

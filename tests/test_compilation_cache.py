"""The command line keeps compiled programs where it can, and does without where it cannot."""

import warnings
from pathlib import Path

import jax
import pytest

from flowebm.cli.entry import _keep_compiled_programs


@pytest.fixture
def no_cache():
    """JAX as it starts, without a folder for programs; the tests' own comes back afterwards."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    with warnings.catch_warnings():
        yield
    for name, value in before.items():
        jax.config.update(name, value)


def kept_in():
    _keep_compiled_programs()
    return jax.config.jax_compilation_cache_dir


@pytest.mark.usefixtures("no_cache")
def test_programs_are_kept_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert kept_in() == str(tmp_path / "cache" / "flowebm" / "jax")
    # Nothing is left of the attempt to write.
    assert list(Path(kept_in()).iterdir()) == []


@pytest.mark.usefixtures("no_cache")
def test_a_folder_that_the_user_names_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    assert kept_in() == str(tmp_path / "mine")


@pytest.mark.usefixtures("no_cache")
def test_a_cache_that_cannot_be_made_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert kept_in() is None


@pytest.mark.usefixtures("no_cache")
def test_a_cache_that_is_there_and_takes_no_file_is_done_without(tmp_path, monkeypatch):
    """Permissions would not stop the superuser, as who tests often run; /proc does."""
    (tmp_path / "flowebm").mkdir()
    (tmp_path / "flowebm" / "jax").symlink_to("/proc/self/fdinfo")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kept_in() is None


@pytest.mark.usefixtures("no_cache")
def test_a_user_without_a_home_has_no_cache(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert kept_in() is None

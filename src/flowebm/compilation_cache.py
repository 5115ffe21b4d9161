"""Compiled programs are kept on disk, so that the next process finds them.

JAX's own limit of size (`jax_compilation_cache_max_size`) is not used: it wants one package more,
and reads a file for each entry whenever one is written, 0.12 s among 600 entries and 0.55 s among
3,000, for each of some hundred programs. Here the folder is looked at once an hour.
"""

import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

#: Set in the environment, `off` or the folder that programs are kept in.
VARIABLE = "FLOWEBM_CACHE"

#: Bytes of programs that are kept, of which the first fit of a table adds one or two million.
MAX_BYTES = 2**28

#: Seconds in which the size is looked at no more than once, by whatever processes.
_LOOKED_AT_EVERY = 3600

#: JAX's own threshold, in seconds: a user who set another one keeps his.
_JAX_LEAST_SECONDS = 1.0


class _Chosen:
    """What this process has been told, or has found out by itself."""

    decided = False
    folder: Path | None = None


def use_compilation_cache(
    folder: bool | str | os.PathLike[str] = True, *, max_bytes: int = MAX_BYTES
) -> Path | None:
    """Keep compiled programs in a folder, or keep none.

    Without a call, they are kept in the folder that the environment variable `FLOWEBM_CACHE` names
    (`off` for none), or in `flowebm/jax` of the user's cache folder (`$XDG_CACHE_HOME`, by default
    `~/.cache`), unless a folder for JAX is set already. A folder that cannot be written is done
    without. Several processes can share one. Whoever can write there can make this process execute
    what he likes: it must be the user's own.

    Args:
        folder: Where to keep them; `True` for the folder named above, `False` for none.
        max_bytes: The size from which on programs that have not been used for the longest time are
            deleted. It is looked at once an hour, when a process begins, so that the folder can be
            larger for a while.

    Returns:
        The folder in which programs are kept from now on; `None` if they are not. A folder that was
        set in JAX itself stays with `False`.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    _Chosen.decided = True
    wanted = None if folder is False else _default_folder() if folder is True else Path(folder)
    if wanted is not None and not _can_be_written(wanted):
        wanted = None
    if wanted is None and _folder_of_jax() != _Chosen.folder:
        return _folder_of_jax()
    if wanted != _folder_of_jax():
        # JAX looks at its options when it compiles for the first time, and never again.
        compilation_cache.reset_cache()
    _Chosen.folder = wanted
    jax.config.update("jax_compilation_cache_dir", None if wanted is None else str(wanted))
    if wanted is None:
        return None
    if _option("jax_persistent_cache_min_compile_time_secs") == _JAX_LEAST_SECONDS:
        # All of them: the hundred small ones take longer together than the large ones.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # The disk may fill up later, and another process may delete what this one is about to read.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation")
    _delete_oldest(wanted, max_bytes)
    return wanted


def use_compilation_cache_by_default() -> None:
    """Keep compiled programs unless the user has said otherwise, here or in JAX."""
    if _Chosen.decided or not _option("jax_enable_compilation_cache"):
        return
    if _folder_of_jax() is None and _default_folder() is not None:
        use_compilation_cache()


def _folder_of_jax() -> Path | None:
    folder = _option("jax_compilation_cache_dir")
    return Path(folder) if folder else None


def _option(name: str) -> Any:
    """The value of an option of JAX's, of which its types do not tell."""
    import jax

    return getattr(jax.config, name)


def _default_folder() -> Path | None:
    named = os.environ.get(VARIABLE, "").strip()
    if named.lower() in ("off", "0", "false", "no"):
        return None
    if named:
        return Path(named).expanduser()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "flowebm", "jax")
    except RuntimeError:
        # The user has no home.
        return None


def _can_be_written(folder: Path) -> bool:
    try:
        # A program is executed: nobody else may put one there.
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Permissions do not tell of disks that are full or mounted read-only.
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError:
        return False
    return True


def _delete_oldest(folder: Path, max_bytes: int) -> None:
    """Delete what was last used longest ago, until no more than `max_bytes` are left.

    The time of the last use is the file's own, which most systems write once a day. A process that
    finds a program gone compiles it.
    """
    stamp = folder / ".size-looked-at"
    try:
        if time.time() - stamp.stat().st_mtime < _LOOKED_AT_EVERY:
            return
    except OSError:
        # There is none yet.
        pass
    entries = []
    try:
        stamp.touch()
        with os.scandir(folder) as files:
            for file in files:
                if file.is_file() and file.name != stamp.name:
                    about = file.stat()
                    entries.append((max(about.st_atime, about.st_mtime), about.st_size, file.path))
    except OSError:
        # Another process deletes, too.
        return
    size = sum(entry[1] for entry in entries)
    for _, bytes_of_it, path in sorted(entries):
        if size <= max_bytes:
            return
        Path(path).unlink(missing_ok=True)
        size -= bytes_of_it

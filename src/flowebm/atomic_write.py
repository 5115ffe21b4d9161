"""Whole files: one appears under its name complete, or not at all."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

#: What has happened, and what to do, where a file cannot be written.
_REASONS = {
    errno.ENOSPC: "no space is left on its disk: free some",
    errno.EDQUOT: "your share of its disk is used up: free some",
    errno.EROFS: "its disk is mounted read-only: give another place, or mount it to be written",
    errno.EACCES: "its folder may not be written in: change its permissions or give another place",
    errno.EPERM: "its folder may not be written in: change its permissions or give another place",
}

#: What file systems of the network, and libraries, say of the same.
_PHRASES = {os.strerror(number).lower(): number for number in _REASONS} | {
    "resource_exhausted": errno.ENOSPC,
    "permission_denied": errno.EACCES,
}


class CannotWrite(OSError):
    """A file could not be written; what it held before is still there.

    Args:
        sentence: Which file, why, and what to do.
        number: The system's number of the failure, where it is known.
    """

    def __init__(self, sentence: str, number: int | None = None):
        super().__init__(sentence)
        self.errno = number


def cannot_write(path: Path, error: BaseException) -> CannotWrite:
    """A failure of the disk in words.

    Args:
        path: The file, or a folder of files that a library writes.
        error: Whatever was raised.

    Returns:
        The error to raise in its place.
    """
    number = _number(error)
    reason = None if number is None else _REASONS.get(number)
    if reason is None:
        known = error.strerror if isinstance(error, OSError) else None
        reason = f"{' '.join(str(known or error).split())[:200].rstrip('.')}: look at its disk"
    return CannotWrite(f"Cannot write {path}, because {reason}.", number)


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Write a file as a whole: it is renamed to its name when all of it is on the disk.

    Where that fails, and where the process is killed, the file is as it was before. What is
    written until then stands beside it under a hidden name, which failures remove.

    Args:
        path: The file; the permissions of one that is there stay.

    Yields:
        A file to write bytes to.

    Raises:
        CannotWrite: If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            # Of a process that was killed and had the same number.
            temporary.unlink(missing_ok=True)
            # Exclusive, so that nothing is written through a link that is there.
            with temporary.open("xb") as file:
                if path.exists():
                    os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of any failure of the disk which file it hindered.

    Args:
        path: The file, or a folder of files that a library writes.

    Raises:
        CannotWrite: If there was one.
    """
    try:
        yield
    except CannotWrite:
        raise
    except OSError as error:
        raise cannot_write(path, error) from error


def remove_unfinished(folder: Path) -> None:
    """Remove what `atomic_write` left in a folder when its process was killed.

    Args:
        folder: A folder that no other process writes in.
    """
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _number(error: BaseException) -> int | None:
    """The system's number of a failure, which libraries tell in words."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    said = str(error).lower()
    return next((number for phrase, number in _PHRASES.items() if phrase in said), None)

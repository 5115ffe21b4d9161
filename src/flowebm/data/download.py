"""Files of published data sets from the network, checked by their SHA-256."""

import hashlib
import tarfile
from collections.abc import Iterable
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from flowebm.atomic_write import atomic_write, writing
from flowebm.refusal import Refused

_PIECE = 1 << 20
_PATIENCE = 30


def download(urls: Iterable[str], path: Path, sha256: str) -> None:
    """Download a file, and let it appear under its name only when it is whole.

    Args:
        urls: Where it is published; the next is tried when one fails.
        path: Where to put it; its folder is made.
        sha256: Its checksum, in hexadecimal.

    Raises:
        ValueError: With one sentence, if no address gives the file with this checksum.
        OSError: If the file cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for url in urls:
        try:
            with atomic_write(path) as file:
                if _fetch(url, file) != sha256:
                    raise _SourceError(
                        f"the file at {url} has not the SHA-256 of the published one"
                    )
            return
        except _SourceError as error:
            failures.append(str(error))
    raise Refused(
        f"Cannot download {path.name} ({'; '.join(failures)}): fetch it on a machine that can, "
        f"and put it into {path.parent}."
    )


def download_members(
    urls: Iterable[str], archive: Path, sha256: str, members: Iterable[str]
) -> None:
    """Download a tar archive and keep some of its files.

    Args:
        urls: Where it is published.
        archive: Where to put it for the time it takes; the files go into the same folder, under
            the names that they have in it.
        sha256: Its checksum, in hexadecimal.
        members: The names of the files to keep, as in the archive.

    Raises:
        ValueError: With one sentence, if the archive cannot be had or a file is not in it.
        OSError: If a file cannot be written.
    """
    download(urls, archive, sha256)
    try:
        with tarfile.open(archive) as tar:
            for name in members:
                # Written here by a name that is ours, not by the archive's own idea of a path.
                _keep(tar, name, archive.parent / name)
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise Refused(
            f"Cannot unpack {archive.name} ({_reason(error)}): download it again."
        ) from error
    finally:
        archive.unlink(missing_ok=True)


class _SourceError(Exception):
    """An address fails, which must not be mistaken for a failure of the disk."""


def _fetch(url, file):
    digest = hashlib.sha256()
    for piece in _pieces(url):
        digest.update(piece)
        file.write(piece)
    return digest.hexdigest()


def _pieces(url):
    try:
        with urlopen(url, timeout=_PATIENCE) as response:
            while piece := response.read(_PIECE):
                yield piece
    except (OSError, HTTPException) as error:
        raise _SourceError(f"{url}: {_reason(error)}") from error


def _reason(error):
    return " ".join(str(error).split())[:120].rstrip(".") or type(error).__name__


def _keep(tar, name, path):
    source = tar.extractfile(name)
    if source is None:
        raise KeyError(f"{name} is not a file")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with source, atomic_write(path) as file:
        while piece := source.read(_PIECE):
            file.write(piece)

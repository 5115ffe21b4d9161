"""IDX files: the arrays of MNIST and of the sets that took its place."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from flowebm.refusal import Refused

_BYTES = 0x08
_HELD = {1: "labels", 3: "images"}
_GZIP = b"\x1f\x8b"


def read_idx(path: Path, ndim: int) -> UInt8[np.ndarray, "..."]:
    """Read an IDX file of bytes, gzipped or not.

    Args:
        path: The file.
        ndim: The number of dimensions it must have: 1 of labels, 3 of grey images.

    Returns:
        The array, of the shape in the file's header.

    Raises:
        ValueError: With one sentence, if the file cannot be read, is not IDX, holds another kind
            of array, or does not hold as many bytes as its header says.

    Source: LeCun, Cortes, Burges, *The MNIST database*: the IDX file format.
    """
    try:
        with path.open("rb") as raw:
            zipped = raw.read(len(_GZIP)) == _GZIP
        if path.suffix == ".gz" and not zipped:
            raise Refused(
                f"{path} is not a gzip file: copy it again, or take .gz off its name if it was "
                "unpacked already."
            )
        with gzip.open(path) if zipped else path.open("rb") as file:
            shape = _shape(path, file, ndim)
            values = _payload(file, math.prod(shape) + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise Refused(f"Cannot read {path} ({reason}): copy it again.") from error
    if len(values) != math.prod(shape):
        have = "more" if len(values) > math.prod(shape) else f"only {len(values):,}"
        raise Refused(
            f"{path} should hold {' x '.join(map(str, shape))} = {math.prod(shape):,} bytes of "
            f"{_HELD[ndim]} by its header, and holds {have}: copy it again."
        )
    if not values:
        raise Refused(f"There are no {_HELD[ndim]} in {path}: copy it again.")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _shape(path, file, ndim):
    magic = file.read(4)
    expected = bytes([0, 0, _BYTES, ndim])
    if magic == expected:
        sizes = file.read(4 * ndim)
        if len(sizes) == 4 * ndim:
            return tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
        raise Refused(f"{path} ends within its header: copy it again.")
    if len(magic) == 4 and magic[:3] == expected[:3] and magic[3] in _HELD:
        raise Refused(
            f"{path} holds {_HELD[magic[3]]} where {_HELD[ndim]} are expected: give each file its "
            "own name."
        )
    raise Refused(
        f"{path} is not an IDX file of {_HELD[ndim]}: it begins with the bytes "
        f"'{magic.hex(' ')}', not '{expected.hex(' ')}'; copy it again."
    )


def _payload(file, limit):
    # In pieces: a damaged header may promise more bytes than there is memory for.
    values = bytearray()
    while len(values) < limit and (piece := file.read(min(1 << 20, limit - len(values)))):
        values += piece
    return values

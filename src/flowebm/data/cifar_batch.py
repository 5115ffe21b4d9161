"""One batch of CIFAR-10, in its binary or its Python form."""

from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from flowebm.data.plain_pickle import read_plain_pickle
from flowebm.refusal import Refused

IMAGE = (3, 32, 32)
CLASSES = 10
_WIDTH = 3072
_ROWS = 10_000


def read_cifar_batch(
    path: Path,
) -> tuple[UInt8[np.ndarray, "n 3 32 32"], Int[np.ndarray, " n"]]:
    """Read one batch of CIFAR-10.

    Args:
        path: A binary batch (`.bin`), whose 10,000 records are a label and 3,072 pixels, or a
            Python batch (no suffix), a pickle of `data` and `labels`.

    Returns:
        The images and their classes.

    Raises:
        ValueError: With one sentence, if the file cannot be read, is cut off, holds anything but
            images of 3 x 32 x 32 with a class each, or names a function to call.

    Source: Krizhevsky (2009), *Learning multiple layers of features from tiny images*; the
        formats are those of the data set's page.
    """
    pixels, labels = (_read_binary if path.suffix == ".bin" else _read_python)(path)
    if labels.min() < 0 or labels.max() >= CLASSES:
        row = int(np.argmax((labels < 0) | (labels >= CLASSES)))
        raise Refused(
            f"Image {row + 1} in {path} has the class {labels[row]}, and CIFAR-10 has 0 to "
            f"{CLASSES - 1}: copy the file again."
        )
    return pixels.reshape(-1, *IMAGE), labels


def _read_binary(path):
    # The format has no header, so a whole number of records alone does not show a file to be whole.
    size, whole = path.stat().st_size, _ROWS * (1 + _WIDTH)
    if size != whole:
        raise Refused(
            f"{path} has {size:,} bytes, and a binary batch of CIFAR-10 has {whole:,}: copy it "
            "again."
        )
    records = np.fromfile(path, np.uint8).reshape(_ROWS, 1 + _WIDTH)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _read_python(path):
    batch = read_plain_pickle(path)
    if not isinstance(batch, dict):
        raise Refused(f"{path} is not a batch of CIFAR-10: its pickle is not a dictionary.")
    pixels, labels = (batch.get(key.encode(), batch.get(key)) for key in ("data", "labels"))
    if not isinstance(pixels, np.ndarray) or not isinstance(labels, list):
        listed = ", ".join(
            k.decode(errors="replace") if isinstance(k, bytes) else str(k) for k in batch
        )
        raise Refused(
            f"{path} is not a batch of CIFAR-10: it has {listed or 'nothing'}, not an array "
            "'data' and a list 'labels'."
        )
    if pixels.ndim != 2 or pixels.shape[1] != _WIDTH or len(pixels) == 0:
        raise Refused(
            f"The images in {path} are an array of shape {pixels.shape}, and those of CIFAR-10 "
            f"are rows of 3 x 32 x 32 = {_WIDTH:,} pixels: copy the file again."
        )
    if len(labels) != len(pixels) or not all(type(label) is int for label in labels):
        raise Refused(
            f"The labels in {path} are not one whole number for each of its {len(pixels):,} "
            f"images, there are {len(labels):,}: copy the file again."
        )
    return pixels, np.array(labels, np.int64)

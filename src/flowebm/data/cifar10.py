"""CIFAR-10 from its binary or Python batches."""

from pathlib import Path

import numpy as np

from flowebm.data.cifar_batch import read_cifar_batch
from flowebm.data.download import download_members
from flowebm.data.images import Images
from flowebm.refusal import Refused

_BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
_CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
# Of TensorFlow Datasets (url_checksums/cifar10.txt): the binary batches, which are no pickles.
_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
_BINARY = "cifar-10-batches-bin"
_PLACES = [
    Path(outer, inner)
    for outer in ("", "cifar-10", "CIFAR10")
    for inner in ("", _BINARY, "cifar-10-batches-py")
]


def load_cifar10(folder: Path, part: str, *, fetch: bool = False) -> Images:
    """Read CIFAR-10 from a folder.

    Args:
        folder: The folder of the batches (`data_batch_1` or `data_batch_1.bin` to 5, `test_batch`
            or `test_batch.bin`), or the one above it.
        part: `train`, `test`, or `all` for the batches that there are of both.
        fetch: Whether to download the binary batches if one of the part is missing.

    Returns:
        The images and their labels.

    Raises:
        ValueError: With one sentence, if a batch of `train` or `test` is missing, there is none
            at all, or one is damaged.
    """
    names = [name for of in _BATCHES if part in (of, "all") for name in _BATCHES[of]]
    paths = [_find(folder, name) for name in names]
    if fetch and None in paths:
        members = [f"{_BINARY}/{name}.bin" for batches in _BATCHES.values() for name in batches]
        members = [member for member in members if not (folder / member).exists()]
        download_members([_URL], folder / "cifar-10-binary.tar.gz", _SHA256, members)
        paths = [_find(folder, name) for name in names]
    found = [path for path in paths if path is not None]
    if not found or (part != "all" and len(found) < len(names)):
        missing = ", ".join(name for name, path in zip(names, paths, strict=True) if path is None)
        hint = "; part='all' takes the batches that there are" if found else ""
        raise Refused(
            f"{missing} of cifar-10 {'is' if ',' not in missing else 'are'} missing in {folder}: "
            f"unpack cifar-10-binary.tar.gz or cifar-10-python.tar.gz there, or let it be "
            f"downloaded (download=True){hint}."
        )
    pixels, labels = zip(*(read_cifar_batch(path) for path in found), strict=True)
    return Images("cifar-10", np.concatenate(pixels), np.concatenate(labels), _CLASS_NAMES)


def _find(folder: Path, name: str) -> Path | None:
    paths = (folder / place / (name + end) for place in _PLACES for end in (".bin", ""))
    return next((path for path in paths if path.is_file()), None)

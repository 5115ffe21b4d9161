"""MNIST, Fashion-MNIST and Kuzushiji-MNIST from their IDX files."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flowebm.data.download import download
from flowebm.data.idx import read_idx
from flowebm.data.idx_published import PUBLISHED
from flowebm.data.images import Images
from flowebm.refusal import Refused

_PREFIX = {"train": "train", "test": "t10k"}
_SIDE = 28


def load_idx_set(name: str, folder: Path, part: str, *, fetch: bool = False) -> Images:
    """Read MNIST, Fashion-MNIST or KMNIST from a folder.

    Args:
        name: The name of the set, one of `PUBLISHED`.
        folder: The folder of its files, or the one above it: `raw`, `mnist`, `MNIST/raw` and the
            like are looked into. Files may be gzipped, and called `train-images-idx3-ubyte` or
            `train-images.idx3-ubyte`.
        part: `train`, `test`, or `all` for what there is of both.
        fetch: Whether to download the files of the part that are missing.

    Returns:
        The images, with labels if each file of images has one of labels beside it.

    Raises:
        ValueError: With one sentence, if there are no images of the part, a file is damaged, or
            the images and labels are not those of such a set.
    """
    published = PUBLISHED[name]
    images, labels = [], []
    for of in _PREFIX if part == "all" else (part,):
        path = next(_places(folder, name, of, "images-idx3"), None)
        if fetch:
            path = _fetch(folder, name, of, path)
        if path is not None:
            images.append(_read_images(path, name))
            named = next(_names(path.parent, of, "labels-idx1"), None)
            labels.append(None if named is None else _read_labels(named, path, len(images[-1])))
    if not images:
        wanted = " or ".join(f"{_PREFIX[p]}-images-idx3-ubyte.gz" for p in _parts(part))
        there = [p for p in _PREFIX if next(_places(folder, name, p, "images-idx3"), None)]
        hint = f"; the {there[0]} part is there, part='{there[0]}' reads it" if there else ""
        raise Refused(
            f"There are no {'' if part == 'all' else part + ' '}images of {name} in {folder}: put "
            f"{wanted} there, or let it be downloaded (download=True){hint}."
        )
    return Images(
        name,
        np.concatenate(images)[:, None],
        None if any(x is None for x in labels) else np.concatenate(labels),
        published.class_names,
    )


def _parts(part):
    return tuple(_PREFIX) if part == "all" else (part,)


def _places(folder: Path, name: str, part: str, kind: str) -> Iterator[Path]:
    own = (name, PUBLISHED[name].folder)
    for place in ("", "raw", *own, *(f"{sub}/raw" for sub in own)):
        yield from _names(folder / place, part, kind)


def _names(folder: Path, part: str, kind: str) -> Iterator[Path]:
    what, idx = kind.split("-")
    for separator in "-.":
        for suffix in ("", ".gz"):
            path = folder / f"{_PREFIX[part]}-{what}{separator}{idx}-ubyte{suffix}"
            if path.is_file():
                yield path


def _fetch(folder, name, part, images):
    published = PUBLISHED[name]
    place = folder if images is None else images.parent
    for kind in ("images-idx3", "labels-idx1"):
        if next(_names(place, part, kind), None) is None:
            file = f"{_PREFIX[part]}-{kind}-ubyte.gz"
            urls = [base + file for base in published.urls]
            download(urls, place / file, published.sha256[file])
    return next(_names(place, part, "images-idx3"))


def _read_images(path, name):
    images = read_idx(path, 3)
    if images.shape[1:] != (_SIDE, _SIDE):
        raise Refused(
            f"The images in {path} have {images.shape[1]} x {images.shape[2]} pixels, and those of "
            f"{name} {_SIDE} x {_SIDE}: it is a file of another set."
        )
    return images


def _read_labels(path, images, count):
    labels = read_idx(path, 1).astype(np.int64)
    if len(labels) != count:
        raise Refused(
            f"{path} holds {len(labels):,} labels, and {images.name} beside it {count:,} images: "
            "put the two that belong together there."
        )
    if labels.max() > 9:
        row = int(np.argmax(labels > 9))
        raise Refused(
            f"Label {row + 1} in {path} is {labels[row]}, and the classes are 0 to 9: it is a file "
            "of another set."
        )
    return labels

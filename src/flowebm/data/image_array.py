"""Images as the arrays of NumPy's files."""

from pathlib import Path

import numpy as np

from flowebm.data.images import Images
from flowebm.data.numpy_file import read_numpy
from flowebm.data.pixels import as_pixels
from flowebm.refusal import Refused

_IMAGES = ("images", "X", "data", "pixels", "x")
_LABELS = ("labels", "y")
_PARTED = (("x_{}", "y_{}"), ("{}_images", "{}_labels"))


def load_image_array(path: Path, part: str | None = None) -> Images:
    """Read images from an `.npy` or `.npz` file.

    Args:
        path: The file. In an `.npz` file the images are its only array or the one called `images`,
            `X`, `data`, `pixels` or `x`, and their classes are called `labels` or `y`. A file of
            parts calls them `x_train` and `y_train`, or `train_images` and `train_labels`.
        part: `train`, `test` or `all` of a file of parts; `train` unless given.

    Returns:
        The images, with labels where the file has them for all.

    Raises:
        ValueError: With one sentence, if the file cannot be read, holds no array of images, has
            values that are no pixels, or labels that are not one class an image.
    """
    names: list[str] = []
    pairs: list[tuple[str, str | None]] = []

    def choose(files):
        names.extend(files)
        pairs.extend(_pairs(files, part, path))
        return [name for pair in pairs for name in pair if name is not None]

    arrays = read_numpy(path, choose)
    if "" in arrays:
        refuse_part(path, part)
        pairs.append(("", None))
    if not pairs:
        listed = ", ".join(map(repr, names)) or "none"
        raise Refused(
            f"Of the arrays in {path} ({listed}) none is called {', '.join(map(repr, _IMAGES))} or "
            "'x_train': call the images so."
        )
    images = [as_pixels(arrays[name], _where(path, name)) for name, _ in pairs]
    if len({i.shape[1:] for i in images}) > 1:
        raise Refused(f"The parts in {path} have images of differing size: read them apart.")
    labels = [
        _labels(arrays[name], len(i), _where(path, name))
        for (_, name), i in zip(pairs, images, strict=True)
        if name is not None
    ]
    labelled = len(labels) == len(images)
    return Images(str(path), np.concatenate(images), np.concatenate(labels) if labelled else None)


def refuse_part(path: Path, part: str | None) -> None:
    """Refuse to take all the images of a path for a part of them.

    Raises:
        ValueError: If the part is `train` or `test`.
    """
    if part in ("train", "test"):
        raise Refused(
            f"{path} does not say which of its images are the {part} part: leave part out, or "
            "give the path of that part."
        )


def _labels(array, count, where):
    flat = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if flat.ndim != 1 or flat.dtype.kind not in "iu":
        raise Refused(
            f"The labels in {where} are an array of {array.dtype} of shape {array.shape}: give "
            "one whole number an image."
        )
    if len(flat) != count:
        raise Refused(
            f"There are {len(flat):,} labels in {where} for {count:,} images: give one an image."
        )
    if flat.min() < 0:
        row = int(np.argmax(flat < 0))
        raise Refused(f"Label {row + 1} in {where} is {flat[row]}: classes begin at 0.")
    return flat.astype(np.int64)


def _pairs(files, part, path):
    """The names of the images to read, each with that of its labels or None."""
    parts = {
        of: (images.format(of), labels.format(of) if labels.format(of) in files else None)
        for of in ("train", "test")
        for images, labels in _PARTED
        if images.format(of) in files
    }
    if not parts:
        refuse_part(path, part)
        images = files if len(files) == 1 else [name for name in _IMAGES if name in files]
        labels = [name for name in _LABELS if name in files and name not in images]
        return [(name, next(iter(labels), None)) for name in images[:1]]
    if part == "all":
        return list(parts.values())
    part = part or "train"
    if part not in parts:
        there = next(iter(parts))
        raise Refused(
            f"There are no {part} images in {path}: it has the {there} part only, part='{there}' "
            "reads it."
        )
    return [parts[part]]


def _where(path, name):
    return f"'{name}' of {path}" if name else str(path)

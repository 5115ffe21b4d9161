"""Images by the name of their set, or by a path."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from flowebm.data.cifar10 import load_cifar10
from flowebm.data.idx_sets import load_idx_set
from flowebm.data.image_array import load_image_array
from flowebm.data.image_folder import load_image_folder
from flowebm.data.images import Images
from flowebm.refusal import Refused

_PARTS = ("train", "test", "all")
_ARRAYS = (".npy", ".npz")
_SETS: dict[str, tuple[Callable[..., Images], str]] = {
    "mnist": (load_idx_set, "70,000 handwritten digits of 28x28 grey pixels"),
    "fashion-mnist": (load_idx_set, "70,000 pieces of clothing of 28x28 grey pixels"),
    "kmnist": (load_idx_set, "70,000 handwritten hiragana of 28x28 grey pixels"),
    "cifar-10": (load_cifar10, "60,000 photographs of ten kinds of things, 32x32 colour pixels"),
}


def available_images() -> dict[str, str]:
    """The names that `load_images` knows.

    Returns:
        A line for each that says what it is.
    """
    return {name: line for name, (_, line) in _SETS.items()}


def image_set_name(name: str) -> str | None:
    """The name of a set of images however it is written (`CIFAR10`, `fashion_mnist`), or None."""
    return {_plain(known): known for known in _SETS}.get(_plain(name))


def load_images(
    name_or_path: str | Path,
    folder: str | Path | None = None,
    *,
    part: Literal["train", "test", "all"] | None = None,
    download: bool = False,
) -> Images:
    """Load a set of images by its name, or images from a path.

    Args:
        name_or_path: One of `available_images()`; or the path of a folder of image files, whose
            sub-folders name classes, or of an `.npy` or `.npz` file of pixels.
        folder: The folder of the files of a set with a name, or the one above it.
        part: `train` or `test`, or `all`, which is what the folder has of both. Unless given, the
            training part of a set that has parts, and all images of a path.
        download: Whether to fetch missing files of a set with a name into the folder. They are
            checked by their SHA-256.

    Returns:
        The images, the same and in the same order every time.

    Raises:
        ValueError: With one sentence that says what is wrong, where, and what to do: an unknown
            name, a missing or damaged file, images of differing size, labels that do not fit, or
            a download that failed.
        OSError: If a downloaded file cannot be written.
    """
    if part is not None and part not in _PARTS:
        raise Refused(f"There is no part {part!r} of images: give one of {', '.join(_PARTS)}.")
    name = image_set_name(str(name_or_path))
    if name is not None:
        return _load_set(name, folder, part or "train", download)
    path = Path(name_or_path)
    if not path.exists():
        near = difflib.get_close_matches(_plain(str(name_or_path)), map(_plain, _SETS), n=2)
        near = [known for known in _SETS if _plain(known) in near]
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise Refused(
            f"There are no images {str(name_or_path)!r}{hint}: give one of {', '.join(_SETS)}, a "
            f"folder of images, or a file ending in {' or '.join(_ARRAYS)}."
        )
    if folder is not None or download:
        given = "download=True" if folder is None else f"folder={str(folder)!r}"
        raise Refused(
            f"{given} was given with the path {path}: it goes with one of {', '.join(_SETS)}."
        )
    if path.is_dir():
        return load_image_folder(path, part)
    if path.suffix.lower() in _ARRAYS:
        return load_image_array(path, part)
    raise Refused(
        f"Cannot tell what images {path} holds: give a folder of images or a file ending in "
        f"{' or '.join(_ARRAYS)}, and for a file of {', '.join(_SETS)} the name and its folder."
    )


def _load_set(name, folder, part, download):
    if folder is None:
        raise Refused(
            f"{name} comes from files: name the folder that they are in, or are to be downloaded "
            "to."
        )
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise Refused(f"{folder} is a file: name the folder of the files of {name}.")
    if not folder.exists() and not download:
        raise Refused(f"There is no folder {folder}: name the one that the files of {name} are in.")
    return _SETS[name][0](*(() if name == "cifar-10" else (name,)), folder, part, fetch=download)


def _plain(name):
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")

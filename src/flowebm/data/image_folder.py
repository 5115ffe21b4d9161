"""Images as the files of a folder."""

from pathlib import Path

import numpy as np

from flowebm.data.image_array import refuse_part
from flowebm.data.images import Images
from flowebm.refusal import Refused

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
_CHANNELS = {"L": 1, "RGB": 3}


def load_image_folder(folder: Path, part: str | None = None) -> Images:
    """Read the images in a folder, or in its sub-folders, which then are their classes.

    Files are taken in the order of their names; those that are no images by their suffix are
    passed over, and so is what is hidden.

    Args:
        folder: The folder. All its images have one size, and all are grey or all in colour.
        part: `all`, or nothing; a folder has no parts.

    Returns:
        The images; their labels count the sub-folders in the order of their names.

    Raises:
        ValueError: With one sentence, if there are no images, one cannot be read or differs in
            size or colour from the first, or there are images both beside and in sub-folders.
    """
    refuse_part(folder, part)
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not _is_hidden(p))
    direct = _image_files(folder)
    filed = [_image_files(p) for p in classes]
    if direct and any(filed):
        raise Refused(
            f"There are images both in {folder} and in its sub-folders, such as "
            f"{direct[0].name} and {next(f for f in filed if f)[0].relative_to(folder)}: put every "
            "image into the folder of its class, or none."
        )
    if not direct and not any(filed):
        raise Refused(
            f"There are no images ({', '.join(SUFFIXES)}) in {folder} or its sub-folders; for the "
            "files of a set with a name, give the name and the folder."
        )
    if direct:
        return Images(str(folder), _read(direct))
    if not all(filed):
        empty = next(p for p, files in zip(classes, filed, strict=True) if not files)
        raise Refused(
            f"There are no images in {empty}, though it stands for a class beside others: remove "
            "it, or put its images there."
        )
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in filed])
    pixels = _read([path for files in filed for path in files])
    return Images(str(folder), pixels, labels, tuple(p.name for p in classes))


def _is_hidden(path):
    return path.name.startswith((".", "__"))


def _image_files(folder):
    return sorted(
        p
        for p in folder.iterdir()
        if p.suffix.lower() in SUFFIXES and p.is_file() and not _is_hidden(p)
    )


def _read(paths):
    first = _pixels(paths[0])
    images = np.empty((len(paths), *first.shape), np.uint8)
    images[0] = first
    for i, path in enumerate(paths[1:], 1):
        pixels = _pixels(path)
        if pixels.shape != first.shape:
            raise Refused(
                f"{path} is {_size(pixels)}, and {paths[0].name} before it {_size(first)}: bring "
                "all images to one size, grey or colour."
            )
        images[i] = pixels
    return images


def _size(pixels):
    channels, height, width = pixels.shape
    return f"{'grey' if channels == 1 else 'colour'} of {width} x {height} pixels"


def _pixels(path):
    from PIL import Image

    try:
        with Image.open(path) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise Refused(f"{path} has several frames: save each as an image of its own.")
            mode = image.mode
            # Two-level and palette images hold grey or colour in fewer bits, nothing is lost.
            if mode == "1":
                image = image.convert("L")
            elif mode == "P" and "transparency" not in image.info:
                image = image.convert("RGB")
            pixels = np.asarray(image)
    except ValueError:
        raise
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())[:120].rstrip(".")
        raise Refused(f"Cannot read {path} as an image ({reason}): save it again.") from error
    if image.mode not in _CHANNELS:
        raise Refused(
            f"{path} is an image of the kind {mode}, neither grey nor red, green and blue of 8 "
            "bits: convert it."
        )
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)

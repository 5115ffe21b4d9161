"""A folder of images is one array, or is refused at the first image that does not fit."""

import numpy as np
import pytest
from PIL import Image

from flowebm.data import load_images

RNG = np.random.default_rng(2)
GREY = RNG.integers(0, 256, (4, 5, 6), np.uint8)
COLOUR = RNG.integers(0, 256, (4, 5, 6, 3), np.uint8)


def _save(array, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "PNG"])
@pytest.mark.parametrize("array", [GREY, COLOUR], ids=["grey", "colour"])
def test_images_are_read_in_the_order_of_their_names(tmp_path, array, suffix):
    for i in (2, 0, 3, 1):
        _save(array[i], tmp_path / f"{i}.{suffix}")
    (tmp_path / "README.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("not an image")
    images = load_images(tmp_path)
    expected = array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(images.pixels, expected)
    assert images.labels is None
    assert images.class_names is None


def test_jpeg_images_are_read_close_to_what_they_were(tmp_path):
    smooth = np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8) * 8
    _save(smooth, tmp_path / "a.jpg", quality=95)
    pixels = load_images(str(tmp_path)).pixels[0, 0].astype(int)
    assert np.abs(pixels - smooth).max() <= 8


def test_sub_folders_are_classes(tmp_path):
    for name, i in (("dog", 1), ("cat", 0), ("dog", 2)):
        _save(GREY[i], tmp_path / name / f"{i}.png")
    (tmp_path / "__MACOSX").mkdir()
    images = load_images(tmp_path, part="all")
    np.testing.assert_array_equal(images.pixels[:, 0], GREY[:3])
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 1]
    assert images.class_names == ("cat", "dog")


def test_images_of_fewer_bits_lose_nothing(tmp_path):
    few = GREY[0] // 64
    image = Image.fromarray(few, "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    image.save(tmp_path / "a.png")
    palette = np.arange(10, 130, 10, dtype=np.uint8).reshape(4, 3)
    pixels = load_images(tmp_path).pixels[0]
    np.testing.assert_array_equal(pixels, palette[few].transpose(2, 0, 1))
    Image.fromarray(GREY[0] > 99).save(tmp_path / "a.png")
    pixels = load_images(tmp_path).pixels[0, 0]
    np.testing.assert_array_equal(pixels, np.where(GREY[0] > 99, 255, 0))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (GREY[1, :4], "b.png is grey of 6 x 4 pixels, and a.png before it grey of 6 x 5 pixels"),
        (COLOUR[1], "b.png is colour of 6 x 5 pixels"),
        (np.dstack([COLOUR[1], GREY[1]]), "b.png is an image of the kind RGBA"),
        (GREY[1].astype(np.uint16) * 200, "b.png is an image of the kind I;16"),
    ],
)
def test_an_image_that_does_not_fit_is_refused(tmp_path, refused, other, words):
    _save(GREY[0], tmp_path / "a.png")
    _save(other, tmp_path / "b.png")
    refused(words, load_images, tmp_path)


@pytest.mark.parametrize("keep", [0, 20, -30])
def test_an_image_that_is_cut_off_is_refused(tmp_path, refused, keep):
    _save(COLOUR[0], tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:keep])
    refused("a.png as an image", load_images, tmp_path)


def test_an_image_of_several_frames_is_refused(tmp_path, refused):
    frames = [Image.fromarray(image) for image in GREY]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    refused("has several frames", load_images, tmp_path)


def test_folders_without_one_place_for_images_are_refused(tmp_path, refused):
    refused("There are no images (.png", load_images, tmp_path)
    (tmp_path / "empty").mkdir()
    refused("There are no images (.png", load_images, tmp_path)
    _save(GREY[0], tmp_path / "cat/a.png")
    refused("There are no images in", load_images, tmp_path)
    _save(GREY[0], tmp_path / "b.png")
    refused("There are images both in", load_images, tmp_path)


def test_a_folder_has_no_parts(tmp_path, refused):
    _save(GREY[0], tmp_path / "a.png")
    words = "which of its images are the train part"
    refused(words, load_images, tmp_path, part="train")

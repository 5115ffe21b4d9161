"""Arrays of images come in whatever their layout, or are refused."""

import numpy as np
import pytest

from flowebm.data import load_images

RNG = np.random.default_rng(1)
GREY = RNG.integers(0, 256, (4, 5, 6), np.uint8)
COLOUR = RNG.integers(0, 256, (4, 5, 6, 3), np.uint8)


@pytest.mark.parametrize("dtype", ["u1", "i8", "f4"])
@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (GREY, GREY[:, None]),
        (GREY[..., None], GREY[:, None]),
        (GREY[:, None], GREY[:, None]),
        (COLOUR, COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR.transpose(0, 3, 1, 2), COLOUR.transpose(0, 3, 1, 2)),
    ],
    ids=["n h w", "n h w 1", "n 1 h w", "n h w 3", "n 3 h w"],
)
def test_every_layout_is_the_same_images(tmp_path, array, expected, dtype):
    path = tmp_path / "images.npy"
    np.save(path, array.astype(dtype))
    images = load_images(path)
    np.testing.assert_array_equal(images.pixels, expected)
    assert images.pixels.dtype == np.uint8
    assert images.labels is None


@pytest.mark.parametrize(
    ("arrays", "labels"),
    [
        ({"anything": GREY}, None),
        ({"X": GREY, "y": np.array([0, 1, 2, 1])}, [0, 1, 2, 1]),
        ({"images": GREY, "labels": np.array([[3], [1], [2], [1]], "u1")}, [3, 1, 2, 1]),
        ({"data": GREY, "other": np.zeros(3)}, None),
        ({"x_train": GREY, "y_train": np.arange(4), "x_test": GREY[:1]}, [0, 1, 2, 3]),
        ({"train_images": GREY, "train_labels": np.arange(4), "val_images": GREY}, [0, 1, 2, 3]),
    ],
)
def test_an_npz_file_names_its_images_and_labels(tmp_path, arrays, labels):
    np.savez(tmp_path / "images.npz", **arrays)
    images = load_images(tmp_path / "images.npz")
    np.testing.assert_array_equal(images.pixels[:, 0], GREY)
    assert (None if images.labels is None else images.labels.tolist()) == labels


def test_an_npz_file_of_parts_keeps_them_apart(tmp_path, refused):
    path = tmp_path / "images.npz"
    parts = {"x_train": GREY[:3], "y_train": np.arange(3), "x_test": GREY[3:], "y_test": [7]}
    np.savez(path, **parts)
    assert load_images(path, part="train").labels.tolist() == [0, 1, 2]
    assert load_images(path, part="test").labels.tolist() == [7]
    both = load_images(path, part="all")
    np.testing.assert_array_equal(both.pixels[:, 0], GREY)
    assert both.labels.tolist() == [0, 1, 2, 7]
    np.savez(path, x_test=GREY, y=np.arange(4))
    refused("There are no train images", load_images, path)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (GREY[0], "(5, 6): give one image a row"),
        (np.zeros((4, 5, 6, 2), "u1"), "with 1 or 3 channels"),
        (np.zeros((4, 3, 6, 3), "u1"), "both its second and its last axis"),
        (np.zeros((0, 5, 6), "u1"), "There are no pixels"),
        (GREY.astype("i4") + 1000, "where pixels are whole numbers from 0 to 255"),
        (GREY.astype("i4") - 300, "has a pixel of -"),
        (GREY / 255, "multiply by 255 and round"),
        (GREY + 0.5, "give whole numbers from 0 to 255"),
        (np.where(GREY[1, 2, 3] == GREY, np.nan, GREY), "has a pixel of nan"),
        (GREY.astype("U3"), "are of type <U3"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path, refused, array, words):
    np.save(tmp_path / "images.npy", array)
    refused(words, load_images, tmp_path / "images.npy")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.arange(3), "There are 3 labels"),
        (np.array([0, 1, -2, 1]), "Label 3 in 'y' of"),
        (np.array([0.0, 1, 2, 3]), "give one whole number an image"),
        (np.eye(4, dtype=int), "give one whole number an image"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, refused, labels, words):
    np.savez(tmp_path / "images.npz", X=GREY, y=labels)
    refused(words, load_images, tmp_path / "images.npz")


def test_an_npz_file_without_a_known_name_is_refused(tmp_path, refused):
    np.savez(tmp_path / "images.npz", a=GREY, b=GREY)
    refused("('a', 'b') none is called 'images'", load_images, tmp_path / "images.npz")


@pytest.mark.parametrize("name", ["images.npy", "images.npz"])
@pytest.mark.parametrize("content", [b"", b"text"])
def test_a_damaged_file_is_refused(tmp_path, refused, name, content):
    (tmp_path / name).write_bytes(content)
    refused("Cannot read", load_images, tmp_path / name)


def test_pickled_objects_are_refused(tmp_path, refused):
    np.save(tmp_path / "images.npy", np.array([GREY, None], object), allow_pickle=True)
    refused("Cannot read", load_images, tmp_path / "images.npy")


def test_parts_that_the_file_does_not_tell_apart_are_refused(tmp_path, refused):
    np.save(tmp_path / "images.npy", GREY)
    np.savez(tmp_path / "images.npz", X=GREY)
    for name in ("images.npy", "images.npz"):
        refused("which of its images are the test part", load_images, tmp_path / name, part="test")

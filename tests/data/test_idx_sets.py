"""MNIST and its like come from a folder as it is, or are refused with what to do."""

import gzip
import hashlib
import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flowebm.data import download as network
from flowebm.data import load_images
from flowebm.data.idx_published import PUBLISHED

_REPOSITORY = Path(__file__).parents[2]
MNIST = Path(os.environ.get("FLOWEBM_MNIST", _REPOSITORY.parent / "shared/data/mnist"))

RNG = np.random.default_rng(0)
PIXELS = {"train": RNG.integers(0, 256, (5, 28, 28)), "t10k": RNG.integers(0, 256, (3, 28, 28))}
LABELS = {"train": np.array([3, 1, 4, 1, 5]), "t10k": np.array([9, 2, 6])}


def _idx(array):
    array = np.asarray(array)
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def _write(folder, *, parts=("train", "t10k"), labels=True, dot=False, zipped=True):
    folder.mkdir(parents=True, exist_ok=True)
    pack, suffix = (gzip.compress, ".gz") if zipped else (bytes, "")
    for part in parts:
        files = {"images": (PIXELS[part], 3), "labels": (LABELS[part], 1)}
        for kind, (array, ndim) in files.items():
            if kind == "images" or labels:
                name = f"{part}-{kind}{'.' if dot else '-'}idx{ndim}-ubyte{suffix}"
                (folder / name).write_bytes(pack(_idx(array)))
    return folder


def _check(images, parts):
    pixels = np.concatenate([PIXELS[part] for part in parts])
    np.testing.assert_array_equal(images.pixels, pixels[:, None])
    assert images.pixels.dtype == np.uint8
    np.testing.assert_array_equal(images.labels, np.concatenate([LABELS[part] for part in parts]))


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("dot", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_set_is_read_under_its_usual_file_names(tmp_path, name, dot, zipped):
    _write(tmp_path, dot=dot, zipped=zipped)
    images = load_images(name, tmp_path)
    _check(images, ["train"])
    assert images.name == name
    assert images.class_names is not None
    assert len(images.class_names) == 10


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("mnist", "raw"),
        ("mnist", "MNIST/raw"),
        ("kmnist", "kmnist"),
        ("fashion-mnist", "FashionMNIST"),
    ],
)
def test_the_usual_sub_folders_are_looked_into(tmp_path, name, place):
    _write(tmp_path / place)
    _check(load_images(name, tmp_path), ["train"])


def test_the_sub_folder_of_another_set_is_not(tmp_path, refused):
    _write(tmp_path / "FashionMNIST/raw")
    refused("There are no train images of mnist", load_images, "mnist", tmp_path)


def test_parts_are_kept_apart_unless_all_are_asked_for(tmp_path):
    _write(tmp_path)
    _check(load_images("mnist", tmp_path, part="train"), ["train"])
    _check(load_images("mnist", tmp_path, part="test"), ["t10k"])
    _check(load_images("mnist", tmp_path, part="all"), ["train", "t10k"])


def test_all_is_what_the_folder_has(tmp_path):
    _check(load_images("mnist", _write(tmp_path, parts=["t10k"]), part="all"), ["t10k"])


def test_labels_are_there_only_if_every_image_has_one(tmp_path):
    _write(tmp_path, parts=["train"])
    _write(tmp_path, parts=["t10k"], labels=False)
    assert load_images("mnist", tmp_path, part="test").labels is None
    assert load_images("mnist", tmp_path, part="all").labels is None
    assert load_images("mnist", tmp_path, part="train").labels is not None


def test_a_missing_part_is_refused_with_the_one_that_is_there(tmp_path, refused):
    _write(tmp_path, parts=["t10k"])
    words = "put train-images-idx3-ubyte.gz there, or let it be downloaded (download=True); the "
    refused(f"{words}test part is there, part='test' reads it", load_images, "mnist", tmp_path)


def test_an_empty_folder_is_refused(tmp_path, refused):
    refused("There are no images of kmnist", load_images, "kmnist", tmp_path, part="all")


@pytest.mark.parametrize(
    ("file", "array", "words"),
    [
        ("images-idx3", PIXELS["train"][:, :20], "have 20 x 28 pixels, and those of mnist 28 x 28"),
        ("images-idx3", LABELS["train"], "holds labels where images are expected"),
        ("labels-idx1", PIXELS["train"], "holds images where labels are expected"),
        ("labels-idx1", LABELS["t10k"], "holds 3 labels, and train-images-idx3-ubyte.gz"),
        ("labels-idx1", [0, 1, 2, 10, 4], "Label 4 in"),
    ],
)
def test_files_that_do_not_belong_are_refused(tmp_path, refused, file, array, words):
    _write(tmp_path)
    (tmp_path / f"train-{file}-ubyte.gz").write_bytes(gzip.compress(_idx(array)))
    refused(words, load_images, "mnist", tmp_path)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A network that has the files of `_write`, with their checksums, and counts the requests."""
    files = {p.name: p.read_bytes() for p in _write(tmp_path / "published").iterdir()}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setitem(PUBLISHED, "mnist", replace(PUBLISHED["mnist"], sha256=sums))
    asked = []

    def opener(url, timeout):
        asked.append(url.rpartition("/")[2])
        return io.BytesIO(files[asked[-1]])

    monkeypatch.setattr(network, "urlopen", opener)
    return asked


def test_missing_files_are_downloaded_and_others_are_not(tmp_path, published):
    folder = _write(tmp_path / "here/MNIST/raw", parts=["t10k"], labels=False).parents[1]
    before = {p: p.read_bytes() for p in folder.rglob("*.gz")}
    _check(load_images("mnist", folder, part="all", download=True), ["train", "t10k"])
    assert sorted(published) == [
        "t10k-labels-idx1-ubyte.gz",
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
    ]
    assert all(p.read_bytes() == content for p, content in before.items())
    _check(load_images("mnist", folder, part="all", download=True), ["train", "t10k"])
    assert len(published) == 3


def test_a_folder_is_made_for_a_download(tmp_path, published):
    _check(load_images("mnist", tmp_path / "new/folder", part="test", download=True), ["t10k"])
    assert len(published) == 2


@pytest.mark.skipif(not MNIST.is_dir(), reason=f"no MNIST files in {MNIST}")
def test_the_published_file_is_mnist():
    """The first digits and the class counts of the published test set, and its checksums."""
    images = load_images("mnist", MNIST, part="test")
    assert images.pixels.shape == (10_000, 1, 28, 28)
    assert images.labels is not None
    assert images.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(images.labels).tolist() == counts
    np.testing.assert_allclose(images.pixels.mean() / 255, 0.1325, atol=5e-5)
    for path in MNIST.glob("*.gz"):
        expected = PUBLISHED["mnist"].sha256[path.name]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == expected

"""CIFAR-10 comes from binary and Python batches alike, or is refused with what to do."""

import hashlib
import io
import pickle
import pickletools
import tarfile

import numpy as np
import pytest

from flowebm.data import cifar10, cifar_batch, load_images
from flowebm.data import download as network

N = 20
NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def _batch(seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (N, 3072), np.uint8), rng.integers(0, 10, N)


def _binary(seed):
    pixels, labels = _batch(seed)
    return np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1).tobytes()


def _python_2(value):
    """Pickle as Python 2 did, whose NumPy had other modules and whose text was bytes."""
    whole = pickle.dumps(value, 3)
    written, position = bytearray(b"\x80\x02"), 2
    older = {"BINBYTES": b"T", "SHORT_BINBYTES": b"U"}
    starts = [at for _, _, at in pickletools.genops(whole)] + [len(whole)]
    for (op, argument, at), end in zip(pickletools.genops(whole), starts[1:], strict=True):
        piece = whole[at:end]
        if op.name == "GLOBAL":
            piece = b"c" + argument.replace("_core", "core").replace(" ", "\n").encode() + b"\n"
        elif op.name in older:
            piece = older[op.name] + piece[1:]
        if op.name != "PROTO":
            written += piece
        position = end
    assert position == len(whole)
    return bytes(written)


def _python(seed):
    pixels, labels = _batch(seed)
    return _python_2({b"data": pixels, b"labels": labels.tolist(), b"batch_label": b"batch"})


@pytest.fixture
def binary(tmp_path, monkeypatch):
    """Binary batches, which are of fewer images here to be faster."""
    monkeypatch.setattr(cifar_batch, "_ROWS", N)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for seed, name in enumerate(NAMES):
        (folder / f"{name}.bin").write_bytes(_binary(seed))
    return folder


@pytest.fixture
def python(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for seed, name in enumerate(NAMES):
        (folder / name).write_bytes(_python(seed))
    return folder


def _check(images, seeds):
    pixels, labels = zip(*(_batch(seed) for seed in seeds), strict=True)
    assert images.pixels.shape == (N * len(seeds), 3, 32, 32)
    assert images.pixels.dtype == np.uint8
    np.testing.assert_array_equal(images.pixels.reshape(-1, 3072), np.concatenate(pixels))
    np.testing.assert_array_equal(images.labels, np.concatenate(labels))
    assert images.class_names[3] == "cat"


def test_binary_batches_are_read(binary):
    _check(load_images("cifar-10", binary), range(5))
    _check(load_images("CIFAR10", binary.parent, part="test"), [5])


def test_a_published_binary_batch_has_ten_thousand_images(tmp_path):
    (tmp_path / "test_batch.bin").write_bytes((bytes([7]) + bytes(3072)) * 10_000)
    images = load_images("cifar-10", tmp_path, part="test")
    assert images.pixels.shape == (10_000, 3, 32, 32)
    assert images.pixels.max() == 0
    assert (images.labels == 7).all()


def test_python_batches_are_read(python):
    _check(load_images("cifar-10", python), range(5))
    _check(load_images("cifar-10", python.parent, part="test"), [5])
    _check(load_images("cifar-10", python.parent, part="all"), range(6))


def test_pixels_are_rows_of_a_colour_plane(tmp_path):
    """Red, then green, then blue, each from the top row down."""
    image = np.zeros((3, 32, 32), np.uint8)
    image[1, 2, 3] = 200
    flat = image.reshape(1, -1)
    assert flat[0, 1024 + 2 * 32 + 3] == 200
    (tmp_path / "test_batch").write_bytes(_python_2({b"data": flat, b"labels": [0]}))
    np.testing.assert_array_equal(load_images("cifar10", tmp_path, part="test").pixels[0], image)


def test_a_missing_batch_is_refused_unless_all_that_is_there_will_do(python, refused):
    (python / "data_batch_4").unlink()
    words = "data_batch_4 of cifar-10 is missing"
    assert "part='all'" in refused(words, load_images, "cifar-10", python)
    _check(load_images("cifar-10", python, part="all"), [0, 1, 2, 4, 5])


def test_an_empty_folder_is_refused(tmp_path, refused):
    message = refused("are missing in", load_images, "cifar-10", tmp_path)
    assert "cifar-10-binary.tar.gz" in message
    assert "part='all'" not in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has 0 bytes, and a binary batch of CIFAR-10 has 30,730,000"),
        (bytes(3073 * 9_999), "has 30,726,927 bytes"),
        (bytes(3074 * 10_000), "has 30,740,000 bytes"),
        (bytes(3073) + b"\x0a" + bytes(3073 * 9_999 - 1), "Image 2 in"),
    ],
)
def test_a_damaged_binary_batch_is_refused(tmp_path, refused, content, words):
    (tmp_path / "test_batch.bin").write_bytes(content)
    refused(words, load_images, "cifar-10", tmp_path, part="test")


PIXELS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([PIXELS, [0, 1]], "its pickle is not a dictionary"),
        ({b"data": PIXELS, b"fine_labels": [0, 1]}, "it has data, fine_labels, not an array"),
        ({b"data": [1], b"labels": [1]}, "not an array 'data'"),
        ({b"data": PIXELS, b"labels": [0]}, "not one whole number for each of its 2 images"),
        ({b"data": PIXELS, b"labels": [0, 1.5]}, "not one whole number for each"),
        ({b"data": PIXELS, b"labels": [0, 10]}, "Image 2 in"),
        ({b"data": PIXELS, b"labels": [-1, 9]}, "Image 1 in"),
        ({b"data": PIXELS[:, :784], b"labels": [0, 1]}, "are an array of shape (2, 784)"),
        ({b"data": PIXELS[:0], b"labels": []}, "are an array of shape (0, 3072)"),
        ({b"data": PIXELS.astype("f4"), b"labels": [0, 1]}, "another type than unsigned bytes"),
    ],
)
def test_a_python_batch_of_something_else_is_refused(tmp_path, refused, value, words):
    (tmp_path / "test_batch").write_bytes(_python_2(value))
    refused(words, load_images, "cifar-10", tmp_path, part="test")


def test_a_python_batch_that_is_cut_off_is_refused(tmp_path, refused):
    (tmp_path / "test_batch").write_bytes(_python(0)[:-40])
    refused("Cannot read", load_images, "cifar-10", tmp_path, part="test")


def test_missing_batches_are_downloaded_without_their_archive(tmp_path, binary, monkeypatch):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.add(binary, arcname=binary.name)
    monkeypatch.setattr(network, "urlopen", lambda url, timeout: io.BytesIO(archive.getvalue()))
    digest = hashlib.sha256(archive.getvalue()).hexdigest()
    monkeypatch.setattr(cifar10, "_SHA256", digest)
    folder = tmp_path / "new"
    _check(load_images("cifar-10", folder, part="test", download=True), [5])
    files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    assert sorted(files) == [f"cifar-10-batches-bin/{name}.bin" for name in NAMES]

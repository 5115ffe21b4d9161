"""An IDX file is read as its header says, or refused."""

import gzip
import struct

import numpy as np
import pytest

from flowebm.data.idx import read_idx

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
LABELS = np.array([7, 0, 9], np.uint8)


def _idx(array, *, shape=None, kind=8):
    shape = array.shape if shape is None else shape
    header = bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
    return header + array.tobytes()


WHOLE = _idx(IMAGES)
ZIPPED = gzip.compress(WHOLE)


@pytest.mark.parametrize("array", [IMAGES, LABELS], ids=["images", "labels"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_the_array_is_read_as_it_was_written(tmp_path, array, pack):
    path = tmp_path / "file"
    path.write_bytes(pack(_idx(array)))
    np.testing.assert_array_equal(read_idx(path, array.ndim), array)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("file", b"", "is not an IDX file"),
        ("file", b"\x89PNG\r\n\x1a\n", "begins with the bytes '89 50 4e 47', not '00 00 08 03'"),
        ("file", _idx(IMAGES, kind=0x0D), "is not an IDX file"),
        ("file", _idx(IMAGES[0]), "is not an IDX file"),
        ("file", _idx(LABELS), "holds labels where images are expected"),
        ("file", WHOLE[:10], "ends within its header"),
        ("file", WHOLE[:-1], "should hold 2 x 3 x 4 = 24 bytes of images by its header, and holds "
         "only 23"),
        ("file", WHOLE + b"\0", "and holds more"),
        ("file", _idx(IMAGES, shape=(4, 3, 2, 1)), "is not an IDX file"),
        ("file", _idx(IMAGES, shape=(2**32 - 1,) * 3), "and holds only 24"),
        ("file", _idx(IMAGES[:0]), "There are no images"),
        ("file.gz", WHOLE, "is not a gzip file"),
        ("file.gz", ZIPPED[:5], "Cannot read"),
        ("file.gz", ZIPPED[:-12], "Cannot read"),
        ("file.gz", ZIPPED[:-8] + b"\0\0\0\0" + ZIPPED[-4:], "CRC check failed"),
        ("file.gz", ZIPPED + b"more", "Not a gzipped file"),
        ("file.gz", ZIPPED[:10] + b"\xff" * 20, "Cannot read"),
        ("file.gz", gzip.compress(_idx(IMAGES, shape=(2**32 - 1,) * 3)), "and holds only 24"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused(tmp_path, refused, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    assert str(path) in refused(words, read_idx, path, 3)


def test_images_where_labels_are_expected_are_refused(tmp_path, refused):
    path = tmp_path / "file"
    path.write_bytes(WHOLE)
    refused("holds images where labels are expected", read_idx, path, 1)

"""A pickle of arrays is read; what would run anything is refused, and nothing is run."""

import os
import pickle

import numpy as np
import pytest

from flowebm.data.plain_pickle import read_plain_pickle

ARRAY = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("array", [ARRAY, np.asfortranarray(ARRAY)], ids=["rows", "columns"])
def test_arrays_numbers_and_text_are_read(tmp_path, protocol, array):
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({b"data": array, "names": [1, "a", (b"b", None)]}, protocol))
    value = read_plain_pickle(path)
    np.testing.assert_array_equal(value[b"data"], array)
    assert value["names"] == [1, "a", (b"b", None)]


class _Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "make",
    [
        lambda marker: _Calls(os.mkdir, str(marker)),
        lambda marker: {b"data": _Calls(os.system, f"mkdir {marker}")},
        lambda marker: {b"data": _Calls(eval, f"__import__('os').mkdir({str(marker)!r})")},
        lambda marker: {b"data": _Calls(getattr, "", "join"), b"labels": []},
        lambda marker: {b"data": _Calls(np.fromfile, str(marker))},
        lambda marker: {b"data": _Calls(np.save, str(marker), [1])},
    ],
)
def test_a_malicious_pickle_is_refused_and_does_nothing(tmp_path, refused, make):
    marker, path = tmp_path / "marker.npy", tmp_path / "batch"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(make(marker), protocol))
        refused("which no array needs", read_plain_pickle, path)
    assert [p.name for p in tmp_path.iterdir()] == ["batch"]


def test_allowed_names_cannot_be_walked_to_others(tmp_path, refused):
    """`numpy ndarray.tofile` by a dotted name of protocol 4, and a state for a name itself."""
    path = tmp_path / "batch"
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.")
    refused("names numpy.ndarray.tofile", read_plain_pickle, path)
    path.write_bytes(b"\x80\x02}U\x04datacnumpy\nndarray\n}U\x08__call__K\x01sbs.")
    refused("an array without its values", read_plain_pickle, path)


def test_numpy_is_given_no_type_or_object_by_the_file(tmp_path, refused):
    path = tmp_path / "batch"
    for array in (np.array([None]), ARRAY.astype(float), np.zeros(2, [("a", "u1"), ("b", "O")])):
        path.write_bytes(pickle.dumps({b"data": array}, 4))
        refused("another type than unsigned bytes", read_plain_pickle, path)


@pytest.mark.parametrize("end", [0, 1, 20, 60, -1])
def test_a_cut_off_pickle_is_refused(tmp_path, refused, end):
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({b"data": ARRAY}, 3)[:end])
    refused("Cannot read", read_plain_pickle, path)


def test_a_damaged_number_does_not_fill_the_memory(tmp_path, refused):
    path = tmp_path / "batch"
    path.write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")
    refused("it numbers a value 2147483647", read_plain_pickle, path)


def test_an_array_with_fewer_values_than_its_shape_is_refused(tmp_path, refused):
    path = tmp_path / "batch"
    whole = pickle.dumps({b"data": ARRAY}, 3)
    path.write_bytes(whole.replace(b"K\x03K\x04\x86", b"K\x03K\x05\x86"))
    refused("cannot reshape", read_plain_pickle, path)

"""Tables come in as they were written, or are refused in one sentence."""

import io
import zipfile

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from flowebm.data import Choice, check_table, read_table

VALUES = np.array([[1.0, -2.5], [3.0, 4e-3], [0.1, 7.0]])
NAMES = ("height", "mass")


def _message(source, **options):
    with pytest.raises(ValueError, match=r".+") as error:
        read_table(source, **options)
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def _write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(params=["csv", "parquet", "npy", "npz", "frame", "array", "jax", "str path"])
def source(request, tmp_path):
    """The same table in every form, with the names that the form can carry."""
    frame = pd.DataFrame(VALUES, columns=list(NAMES))
    path = tmp_path / f"table.{request.param}"
    match request.param:
        case "csv":
            frame.to_csv(path, index=False)
        case "parquet":
            frame.to_parquet(path)
        case "npy":
            np.save(path, VALUES)
        case "npz":
            np.savez(path, anything=VALUES)
        case "frame":
            return frame, NAMES
        case "array":
            return VALUES, ("x1", "x2")
        case "jax":
            return jnp.asarray(VALUES), ("x1", "x2")
        case "str path":
            np.save(tmp_path / "t.npy", VALUES)
            return str(tmp_path / "t.npy"), ("x1", "x2")
    return path, NAMES if request.param in ("csv", "parquet") else ("x1", "x2")


def test_values_come_in_as_they_were_written(source):
    table = read_table(source[0])
    np.testing.assert_allclose(table.values, VALUES, rtol=1e-7)
    assert table.values.dtype == np.float64
    assert table.names == source[1]
    assert table.shape == (2,)


def test_a_copy_is_returned():
    values = VALUES.copy()
    read_table(values).values[:] = 0
    np.testing.assert_array_equal(values, VALUES)


def test_csv_without_a_header_loses_no_row(tmp_path):
    table = read_table(_write(tmp_path / "t.csv", "1,2\n3,nan\n5,6\n"))
    np.testing.assert_array_equal(table.values, [[1, 2], [3, np.nan], [5, 6]])
    assert table.names == ("x1", "x2")


def test_csv_may_have_a_byte_order_mark_spaces_and_quotes(tmp_path):
    table = read_table(_write(tmp_path / "t.csv", '\ufeff"a", b\n1, 2\n'))
    assert table.names == ("a", "b")
    np.testing.assert_array_equal(table.values, [[1, 2]])


def test_truth_values_missing_values_and_decimals_are_numbers():
    frame = pd.DataFrame(
        {"a": pd.array([1, None], dtype="Int64"), "b": [True, False], "c": ["1.5", None]}
    )
    np.testing.assert_array_equal(read_table(frame).values, [[1, 1, 1.5], [np.nan, 0, np.nan]])


def test_frames_of_other_libraries_are_read_by_their_columns():
    class Frame:
        columns = ("a", "b")

        def to_numpy(self):
            return VALUES

    assert read_table(Frame()).names == ("a", "b")


@pytest.mark.parametrize("chosen", ["X", "data"])
def test_npz_with_several_arrays_is_read_by_name(tmp_path, chosen):
    np.savez(tmp_path / "t.npz", y=np.zeros(3), **{chosen: VALUES})
    np.testing.assert_array_equal(read_table(tmp_path / "t.npz").values, VALUES)


@pytest.mark.parametrize("shape", [(5, 2, 3), (5, 1, 2, 3)])
def test_images_are_rows_that_keep_their_shape(tmp_path, shape):
    images = np.arange(30.0).reshape(shape)
    np.save(tmp_path / "t.npy", images)
    table = read_table(tmp_path / "t.npy", images=True)
    assert table.shape == shape[1:]
    np.testing.assert_array_equal(table.values.reshape(shape), images)
    assert len(set(table.names)) == 6
    assert "images=True" in _message(tmp_path / "t.npy")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,b\n1,2\n3,tall\n", ["Row 2", "'b'", "'tall'"]),
        ("1,2\n3,tall\n", ["Row 2", "'x2'", "'tall'"]),
        ("a;b\n1;2\n", ["Row 1", "'a;b'", "'1;2'"]),
        (",a,b\n0,1,2\n", ["Column 1", "no name"]),
        ("a,b\n1,2,3\n4,5,6\n", ["more values", "header"]),
        ("a,b\n0,1,2\n1,3,4\n", ["more values", "header"]),
        ("a,b\n1,2\n3,4,5\n", ["Cannot read", "CSV"]),
        ("a,b\n", ["No values"]),
        ("", ["is empty"]),
        ("\n\n", ["Cannot read"]),
        ("a,b\n2020-01-01,1\n", ["Row 1", "'a'", "2020-01-01"]),
    ],
)
def test_csv_that_is_not_a_table_of_numbers_is_refused(tmp_path, text, parts):
    message = _message(_write(tmp_path / "t.csv", text))
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npy", "npz"])
@pytest.mark.parametrize("damage", ["noise", "cut"])
def test_damaged_files_are_refused(tmp_path, suffix, damage):
    path = tmp_path / f"t.{suffix}"
    rng = np.random.default_rng(0)
    if damage == "noise" or suffix == "csv":
        path.write_bytes(rng.bytes(400))
    else:
        rows = rng.standard_normal((1000, 3))
        match suffix:
            case "parquet":
                pd.DataFrame(rows, columns=list("abc")).to_parquet(path)
            case "npy":
                np.save(path, rows)
            case "npz":
                np.savez_compressed(path, rows)
        path.write_bytes(path.read_bytes()[:1000])
    assert "Cannot read" in _message(path)


def test_a_damaged_member_of_an_npz_is_refused(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, np.zeros((1000, 3)))
    content = bytearray(path.read_bytes())
    content[5000] ^= 0xFF
    path.write_bytes(content)
    assert "Cannot read" in _message(path)


def test_files_that_would_run_code_are_refused(tmp_path):
    ran = tmp_path / "ran"

    class Pickled:
        def __reduce__(self):
            return ran.touch, ()

    array = np.array([[Pickled()]], dtype=object)
    np.save(tmp_path / "t.npy", array, allow_pickle=True)
    np.savez(tmp_path / "t.npz", array)
    assert "Cannot read" in _message(tmp_path / "t.npy")
    assert "Cannot read" in _message(tmp_path / "t.npz")
    assert not ran.exists()


def test_other_sources_are_refused(tmp_path):
    np.savez(tmp_path / "t.npz", train=VALUES, test=VALUES)
    assert "'train', 'test'" in _message(tmp_path / "t.npz")
    assert "There is no file" in _message(tmp_path / "absent.csv")
    assert "must end in" in _message(tmp_path / "t.dat")
    assert "pandas.read_excel" in _message(tmp_path / "t.xlsx")
    assert "pandas.read_feather" in _message(tmp_path / "t.feather")
    assert "rows and columns" in _message(np.zeros(3))
    assert "differ in length" in _message([[1, 2], [3]])
    assert "No values" in _message(np.zeros((0, 3)))
    assert "No values" in _message(np.zeros((3, 0)))
    assert "complex" in _message(np.zeros((3, 2), complex))
    assert "datetime" in _message(np.zeros((3, 2), "datetime64[s]"))
    frame = pd.DataFrame({"a": [1.0], "when": [pd.Timestamp("2020-01-01")]})
    assert "column 'when'" in _message(frame)


def _check(values, **options):
    options = {"min_rows": 2} | options
    with pytest.raises(ValueError, match=r".+") as error:
        check_table(np.asarray(values, float), NAMES, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_good_table_passes():
    check_table(VALUES, NAMES, min_rows=3, width=2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_the_first_is_named(value):
    bad = VALUES.copy()
    bad[1, 1] = bad[2, 0] = value
    message = _check(bad)
    assert "Row 2 of column 'mass'" in message
    assert str(value) in message
    assert "first of 2" in message


def test_too_few_rows_wrong_width_and_wrong_dimensions_are_refused():
    assert "got n_samples=3, needs at least 10" in _check(VALUES, min_rows=10)
    assert "Expected 3 columns in new.csv, got 2" in _check(VALUES, width=3, where="new.csv")
    assert "rows and columns" in _check(VALUES[0])


def test_a_constant_column_is_refused_unless_allowed():
    constant = VALUES.copy()
    constant[:, 0] = 5
    message = _check(constant)
    assert "'height'" in message
    assert "value 5" in message
    check_table(constant, NAMES, min_rows=1, allow_constant=True)


def test_the_column_numbers_of_an_exported_data_frame_are_a_header(tmp_path):
    path = tmp_path / "numbered.csv"
    pd.DataFrame(np.arange(6.0).reshape(2, 3) + 7).to_csv(path, index=False)
    table = read_table(path)
    assert table.names == ("0", "1", "2")
    np.testing.assert_array_equal(table.values, np.arange(6.0).reshape(2, 3) + 7)


def test_a_first_row_that_only_begins_like_column_numbers_is_data(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("0,1,2.5\n3,4,5\n")
    np.testing.assert_array_equal(read_table(path).values, [[0, 1, 2.5], [3, 4, 5]])


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_header_that_promises_more_than_the_file_holds_is_refused(tmp_path, suffix):
    """A pebibyte, which no machine has."""
    header = {"descr": "<f8", "fortran_order": False, "shape": (2**27, 2**20)}
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, header)
    content.write(bytes(64))
    path = tmp_path / f"rows{suffix}"
    if suffix == ".npy":
        path.write_bytes(content.getvalue())
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("X.npy", content.getvalue())
    with pytest.raises(ValueError, match=r"Cannot read .* as a NumPy file .* write it again"):
        read_table(path)


MIXED = pd.DataFrame(
    {
        "a": [1.5, 2.5, 3.5],
        "kind": ["T", "B", None],
        "n": pd.array([1, None, 3], dtype="Int64"),
        "Time": [9, 8, 7],
    }
)


@pytest.mark.parametrize("form", ["frame", "csv", "parquet"])
def test_labels_are_kept_apart_and_columns_left_out(tmp_path, form):
    source = MIXED
    if form != "frame":
        source = tmp_path / f"t.{form}"
        MIXED.to_csv(source, index=False) if form == "csv" else MIXED.to_parquet(source)
    table = read_table(source, choice=Choice("kind", drop=("Time",)))
    assert table.names == ("a", "n")
    np.testing.assert_array_equal(table.values, [[1.5, 1], [2.5, np.nan], [3.5, 3]])
    assert list(table.labels[:2]) == ["T", "B"]
    named = read_table(source, choice=Choice(columns=("Time", "a")))
    assert named.names == ("Time", "a")
    assert named.labels is None
    np.testing.assert_array_equal(named.values[0], [9, 1.5])


def test_columns_that_are_not_there_are_refused_with_the_names_that_are_near():
    with pytest.raises(ValueError, match=r"no column .*'Kind': did you mean 'kind'"):
        read_table(MIXED, choice=Choice(labels="Kind"))
    with pytest.raises(ValueError, match=r"no column .*'weight'"):
        read_table(MIXED, choice=Choice("kind", drop=("weight",)))
    with pytest.raises(ValueError, match=r"'a' is asked for and left out"):
        read_table(MIXED, choice=Choice("kind", drop=("a",), columns=("a",)))
    with pytest.raises(ValueError, match=r"asked for twice"):
        read_table(MIXED, choice=Choice(columns=("a", "a")))
    with pytest.raises(ValueError, match=r"No column .* is left"):
        read_table(MIXED, choice=Choice("kind", drop=("a", "n", "Time")))
    # A table to score may lack what a run left out.
    table = read_table(MIXED[["a", "n"]], choice=Choice("kind", ("Time",), lenient=True))
    assert table.names == ("a", "n")


def test_fcs_files_have_the_names_of_their_channels(tmp_path):
    flowio = pytest.importorskip("flowio")
    values = np.arange(12.0).reshape(4, 3)
    with (tmp_path / "t.fcs").open("wb") as file:
        flowio.create_fcs(file, values.ravel(), ["FSC-A", "B1-A", "Time"], ["", "CD4", ""])
    table = read_table(tmp_path / "t.fcs")
    assert table.names == ("FSC-A", "CD4", "Time")
    np.testing.assert_array_equal(table.values, values)
    (tmp_path / "u.fcs").write_bytes(b"FCS3.0 and no more")
    with pytest.raises(ValueError, match="as FCS"):
        read_table(tmp_path / "u.fcs")

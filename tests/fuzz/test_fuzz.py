"""Whatever files and command lines hold: no traceback, no code of theirs run, no file of others."""

import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
from contextlib import contextmanager, suppress

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowebm.cli import main
from flowebm.cli.entry import COMMANDS
from flowebm.data.cifar_batch import read_cifar_batch
from flowebm.data.idx import read_idx

pytestmark = [
    pytest.mark.slow,
    # Numbers beyond a type's range, and headers of arrays beyond all memory.
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
]


def cases(number):
    """Settings of a test: its number of cases, the same ones in every run."""
    return settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[*HealthCheck],
    )


#: A pickle that makes a folder when it is loaded as pickles are.
MARKER = "a_file_was_executed"


class Payload:
    """Runs code where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (MARKER,)


@st.composite
def damaged(draw, valid: bytes):
    """Bytes that a file might have become: cut, overwritten, inserted in, or taken apart."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        # Damage to headers, which are at both ends, tells more than damage to numbers.
        at = draw(st.sampled_from([at, min(at, 64), max(0, len(content) - at % 64)]))
        kind = draw(st.sampled_from(["cut", "flip", "insert", "remove", "replace"]))
        if kind == "cut":
            del content[at:]
        elif kind == "flip" and at < len(content):
            content[at] ^= draw(st.integers(1, 255))
        elif kind == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif kind == "remove":
            del content[at : at + draw(st.integers(1, 64))]
        elif kind == "replace":
            piece = draw(st.binary(min_size=1, max_size=8))
            content[at : at + len(piece)] = piece
    return bytes(content)


#: Values that a JSON file might have in the place of another.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.sampled_from([2**31, 2**63, 10**30, -(2**40)])
    | st.floats()
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@st.composite
def damaged_json(draw, value):
    """A JSON value of which an entry somewhere is missing or another."""
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 3)) == 0:
        return draw(VALUES)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = draw(st.sampled_from(keys))
    copy = value.copy()
    if draw(st.integers(0, 4)) == 0:
        del copy[key]
    else:
        copy[key] = draw(damaged_json(value[key]))
    return copy


def snapshot(*folders):
    """Every file under folders, with its content."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }


#: Options of runs of both kinds of model.
OPTIONS = {
    "ebflow": "--method ebflow --n 200 --max-steps 50 --batch-size 32 --n-blocks 1",
    # All that a saved energy model may hold: mixtures, a network and a tilt.
    "joint": """--method joint --n 400 --max-steps 50 --network-rows 100 --most-networks 1
        --network-width 8 --network-blocks 1 --network-components 2 --tilt-steps 50 --n-draws 1024
        --batch-size 32 --width 4 --depth 1""",
}


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Finished runs of two columns, by method; copied, never written to."""
    paths = {method: tmp_path_factory.mktemp(method) / "run" for method in OPTIONS}
    for method, path in paths.items():
        options = ["--data", "mixture", *OPTIONS[method].split(), "--quiet"]
        assert main(["train", "--out", str(path), *options]) == 0
    return paths


@pytest.fixture(scope="session")
def run(runs):
    return runs["ebflow"]


@pytest.fixture
def checked(tmp_path, monkeypatch, capsys):
    """Run a command, and see that it ends as it may: with a status, without a traceback."""
    monkeypatch.chdir(tmp_path)

    def status(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        said = f"{arguments}: {err}"
        assert code in (0, 1, 2), said
        assert "Traceback" not in out + err, said
        assert "fault of flowebm" not in err, said
        assert not os.path.exists(MARKER), said
        return code

    return status


@contextmanager
def untouched(*folders):
    """See that a block changes nothing in folders."""
    before = snapshot(*folders)
    yield
    after = snapshot(*folders)
    assert before.keys() == after.keys()
    assert before == after


@pytest.fixture(scope="session")
def rows():
    return np.random.default_rng(0).normal(size=(12, 2)).round(3)


# Data files.


def table_file(suffix, rows):
    """The bytes of a table."""
    frame, content = pd.DataFrame(rows, columns=["x1", "x2"]), io.BytesIO()
    if suffix == ".csv":
        frame.to_csv(content, index=False)
    elif suffix == ".parquet":
        frame.to_parquet(content, index=False)
    elif suffix == ".npy":
        np.save(content, rows)
    else:
        np.savez(content, X=rows)
    return content.getvalue()


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy", ".npz"])
@given(data=st.data())
@cases(250)
def test_damaged_tables_are_scored_or_refused(run, rows, tmp_path, checked, suffix, data):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(data.draw(damaged(table_file(suffix, rows))))
    with untouched(tmp_path, run):
        checked("score", run, path, "--quiet")


@given(text=st.text(alphabet="0123456789.,;-+eE \"'\n\r\t\0ax\u00e9NaNinf", max_size=80))
@cases(200)
def test_text_that_calls_itself_a_table_is_scored_or_refused(run, tmp_path, checked, text):
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8", newline="")
    checked("score", run, path, "--quiet")


@given(
    kind=st.sampled_from(["<f8", "|O", "<U5", "<M8[s]", "<c16", "|V3", "f8,i4", "nonsense", 7]),
    order=st.sampled_from([True, False, None, "x"]),
    shape=st.one_of(st.lists(st.integers(-2, 2**40), max_size=4).map(tuple), st.integers()),
    content=st.binary(max_size=64),
)
@cases(200)
def test_headers_of_arrays_that_lie_are_refused(
    run, tmp_path, checked, kind, order, shape, content
):
    header = repr({"descr": kind, "fortran_order": order, "shape": shape}).encode() + b"\n"
    path = tmp_path / "rows.npy"
    prefix = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    path.write_bytes(prefix + header + content)
    checked("score", run, path, "--quiet")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".parquet"])
def test_pickles_in_the_place_of_tables_are_not_executed(run, tmp_path, checked, suffix):
    path = tmp_path / f"rows{suffix}"
    objects = np.array([[Payload(), 1.0]], dtype=object)
    with path.open("wb") as file:
        if suffix == ".npy":
            np.save(file, objects, allow_pickle=True)
        elif suffix == ".npz":
            np.savez(file, X=objects)
        else:
            pickle.dump(Payload(), file)
    assert checked("score", run, path, "--quiet") == 2
    # The payload is one that a careless reader would run.
    if suffix == ".npy":
        np.load(path, allow_pickle=True)
        assert (tmp_path / MARKER).is_dir()


def read_or_refused(read, *arguments):
    """A reader returns an array, or raises one sentence."""
    with suppress(ValueError):
        read(*arguments)
    assert not os.path.exists(MARKER)


@given(data=st.data(), zipped=st.booleans(), ndim=st.sampled_from([1, 3]))
@cases(250)
def test_damaged_idx_files_are_read_or_refused(tmp_path, data, zipped, ndim):
    shape = (4, 3, 2)[:ndim]
    content = bytes([0, 0, 8, ndim]) + np.array(shape, ">u4").tobytes() + bytes(np.prod(shape))
    path = tmp_path / "set"
    path.write_bytes(data.draw(damaged(gzip.compress(content) if zipped else content)))
    read_or_refused(read_idx, path, ndim)


@given(data=st.data(), protocol=st.integers(0, 4), planted=st.booleans())
@cases(250)
def test_damaged_batches_of_cifar_are_read_or_refused_and_never_executed(
    tmp_path, monkeypatch, data, protocol, planted
):
    monkeypatch.chdir(tmp_path)
    batch = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2]}
    if planted:
        batch[b"more"] = Payload()
    content = pickle.dumps(batch, protocol)
    path = tmp_path / "data_batch_1"
    path.write_bytes(data.draw(st.just(content) | damaged(content)))
    read_or_refused(read_cifar_batch, path)


# Models and run directories.


def command_on_copy(run, tmp_path, name, content):
    """A copy of a run with another file in it, and the file of rows to score."""
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(content)
    return copy


@pytest.mark.parametrize("method", OPTIONS)
@given(data=st.data())
@cases(250)
def test_damaged_values_of_a_model_are_used_or_refused(runs, rows, tmp_path, checked, method, data):
    run = runs[method]
    values = data.draw(damaged_json(json.loads((run / "model.json").read_text())))
    copy = command_on_copy(run, tmp_path, "model.json", json.dumps(values).encode())
    np.save(tmp_path / "rows.npy", rows)
    with untouched(copy):
        checked("score", copy, tmp_path / "rows.npy", "--quiet")


@pytest.mark.parametrize("method", OPTIONS)
@given(data=st.data(), named=st.booleans())
@cases(250)
def test_damaged_arrays_of_a_model_are_used_or_refused(
    runs, rows, tmp_path, checked, method, data, named
):
    run = runs[method]
    content = data.draw(damaged((run / "model.safetensors").read_bytes()))
    copy = command_on_copy(run, tmp_path, "model.safetensors", content)
    if named:
        values = json.loads((copy / "model.json").read_text())
        values["arrays_sha256"] = hashlib.sha256(content).hexdigest()
        (copy / "model.json").write_text(json.dumps(values))
    np.save(tmp_path / "rows.npy", rows)
    with untouched(copy):
        checked("score", copy, tmp_path / "rows.npy", "--quiet")


@given(data=st.data(), name=st.sampled_from(["config.json", "evaluation.json", "metrics.jsonl"]))
@cases(250)
def test_damaged_run_directories_are_reported_or_refused(run, tmp_path, checked, data, name):
    whole = (run / name).read_bytes()
    if name == "metrics.jsonl" or data.draw(st.booleans()):
        content = data.draw(damaged(whole))
    else:
        content = json.dumps(data.draw(damaged_json(json.loads(whole)))).encode()
    copy = command_on_copy(run, tmp_path, name, content)
    with untouched(copy):
        checked("report", copy, "-o", tmp_path / "report.html")
        (tmp_path / "report.html").unlink(missing_ok=True)
        checked("sample", copy, "-n", "2", "-o", tmp_path / "s.csv", "--overwrite", "--quiet")


@given(data=st.data())
@cases(20)
def test_damaged_runs_are_resumed_or_refused(run, tmp_path, checked, data):
    files = [path for path in run.rglob("*") if path.is_file() and path.suffix != ".png"]
    files = sorted(path.relative_to(run) for path in files if path.stat().st_size)
    name = data.draw(st.sampled_from(files))
    content = data.draw(st.none() | damaged((run / name).read_bytes()))
    copy = command_on_copy(run, tmp_path, name, content)
    options = ["--data", "mixture", *OPTIONS["ebflow"].split(), "--resume", "--quiet"]
    with untouched(run):
        checked("train", "--out", copy, *options)


# Command lines.

WORDS = st.sampled_from(
    [
        *COMMANDS,
        *("RUN", "nowhere", "rows.npy", "mixture", "iris", "out.csv", "out.npy", "-", "--", ""),
        *("-n", "-o", "--data", "--out", "--seed", "--json", "--quiet", "--overwrite", "--resume"),
        *("--max-steps", "--width", "--method", "ebflow", "balanced", "--time-budget", "--sigma"),
        *("3", "-1", "0", "1e400", "nan", "ten", "\0", "é", "../x", "/dev/null", "--draws"),
        *("--accept-changed-data", "--help", "--version", "--point-shape", "--dequantise"),
    ]
)


@given(
    command=st.sampled_from([*COMMANDS]), words=st.lists(WORDS | st.text(max_size=6), max_size=7)
)
@cases(400)
def test_any_command_line_is_done_or_refused(run, rows, tmp_path, checked, command, words):
    # A run that could begin would train for minutes: it has no data that could be fitted.
    words = [str(run) if word == "RUN" else word for word in words]
    if command == "train":
        words = [word for word in words if word not in ("mixture", "iris")]
        words += ["--data", "nowhere.csv"]
    np.save(tmp_path / "rows.npy", rows)
    with untouched(run.parent):
        checked(command, *words)

"""The metrics file: valid JSON, whole lines, and no row of a past that did not happen."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from flowebm.training.metrics import MetricsFile, read_metrics


def rows(stage, n):
    return [{"stage": stage, "iteration": i, "nll": 1 / (i + 3)} for i in range(n)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "metrics.jsonl"


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)


def test_rows_come_back_exactly(path):
    file = MetricsFile(path)
    for i, row in enumerate(rows("a", 3)):
        file.on_block("a", row, 3)
        assert read_metrics(path) == rows("a", 3)[: i + 1]  # on disk at once


def test_what_is_not_finite_is_null_in_valid_json(path):
    row = {
        "stage": "a",
        "nll": math.nan,
        "ess": -math.inf,
        "weights": np.array([0.5, np.nan]),
        "log_z": jnp.float32(jnp.inf),
        "held": np.float32(0.5),
        "n": np.int64(3),
        "done": True,
        "note": None,
    }
    MetricsFile(path).append(row)

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    (line,) = path.read_text().splitlines()
    assert json.loads(line, parse_constant=refuse) == {
        "stage": "a",
        "nll": None,
        "ess": None,
        "weights": [0.5, None],
        "log_z": None,
        "held": 0.5,
        "n": 3,
        "done": True,
        "note": None,
    }


@pytest.mark.parametrize("torn", ['{"stage": "a", "itera', '{"stage": "ä"'.encode()[:-2]])
def test_a_torn_last_line_is_left_out(path, torn):
    MetricsFile(path).append(rows("a", 1)[0])
    with path.open("ab") as file:
        file.write(torn if isinstance(torn, bytes) else torn.encode())
    assert read_metrics(path) == rows("a", 1)


def test_damage_before_the_last_line_is_refused(path):
    write(path, '{"iteration": 0}\nnonsense\n{"iteration": 1}\n')
    with pytest.raises(ValueError, match=r"Line 2 of .* is not a JSON object"):
        read_metrics(path)


def test_truncation_keeps_finished_stages_and_exactly_the_restored_history(path):
    file = MetricsFile(path)
    for row in rows("first", 2) + rows("second", 5):
        file.append(row)
    with path.open("a") as handle:
        handle.write('{"stage": "second", "it')
    file.truncate(rows("second", 3))
    assert read_metrics(path) == rows("first", 2) + rows("second", 3)
    file.append({"stage": "second", "iteration": 3})
    assert read_metrics(path)[-1] == {"stage": "second", "iteration": 3}
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_truncating_a_finished_stage_changes_nothing(path):
    file = MetricsFile(path)
    for row in rows("first", 2) + rows("second", 2):
        file.append(row)
    before = path.read_text()
    file.truncate(rows("first", 2))
    assert path.read_text() == before


def test_a_stage_that_starts_anew_leaves_no_rows(path):
    file = MetricsFile(path)
    for row in rows("first", 2) + rows("second", 2):
        file.append(row)
    file.truncate([], stage="second")
    assert read_metrics(path) == rows("first", 2)
    with pytest.raises(ValueError, match="pass stage="):
        file.truncate([])


def test_a_missing_file_is_made_from_the_history(path):
    MetricsFile(path).truncate(rows("a", 2))
    assert read_metrics(path) == rows("a", 2)


def test_truncation_is_all_or_nothing(path, monkeypatch):
    file = MetricsFile(path)
    for row in rows("a", 4):
        file.append(row)

    def fail(*arguments):
        raise OSError("power failure")

    monkeypatch.setattr("flowebm.atomic_write.os.replace", fail)
    with pytest.raises(OSError, match="power failure"):
        file.truncate(rows("a", 1))
    assert read_metrics(path) == rows("a", 4)

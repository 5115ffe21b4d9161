"""Scalars for TensorBoard: the numbers of the metrics, in files that its reader takes."""

import struct

import pytest
from tensorboardX.proto.event_pb2 import Event

from flowebm.training.tensorboard import tensorboard_observer


def scalars(folder):
    """Tag, step and value of every scalar in a folder of event files."""
    (path,) = folder.glob("events*")
    content, found = path.read_bytes(), {}
    while content:
        # A record: its length, a checksum of that, the record, a checksum of it.
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]
        for value in event.summary.value:
            found[value.tag, event.step] = value.simple_value
    return found


def test_every_number_of_a_row_is_a_scalar_of_its_stage(tmp_path):
    with tensorboard_observer(tmp_path / "run") as on_block:
        assert not (tmp_path / "run").exists()
        on_block("flow", {"stage": "flow", "iteration": 50, "seconds": 1.5, "nll": 2.25}, 100)
        on_block("balanced", {"stage": "balanced", "iteration": 0, "nll": 2.0, "ess": None}, 100)
    assert scalars(tmp_path / "run") == {
        ("flow/seconds", 50): 1.5,
        ("flow/nll", 50): 2.25,
        ("balanced/nll", 0): 2.0,
    }


def test_a_writer_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("flowebm.training.tensorboard.find_spec", lambda name: None)
    with (
        pytest.raises(ValueError, match="tensorboardX, which is not installed"),
        tensorboard_observer(tmp_path),
    ):
        pass

"""A disk that is full, or must not be written: one sentence, and what was there stays."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from flowebm.atomic_write import CannotWrite, atomic_write
from flowebm.cli import main
from flowebm.training.metrics import read_metrics

CLI = "import sys; from flowebm.cli import main; sys.exit(main(sys.argv[1:]))"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts a disk as Linux does")


@pytest.fixture
def mount(tmp_path):
    """Mounts a small disk in memory at a folder."""
    mounted = []

    def make(name, size="1m"):
        folder = tmp_path / name
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("only root may mount a disk")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder, leave=0):
    """Fill a disk up to some bytes."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
        file.truncate(max(0, file.tell() - leave))


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def refused(capsys, *arguments):
    """The one sentence with which a command fails."""
    assert main([str(argument) for argument in arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    return err


@pytest.fixture(scope="module")
def finished(tmp_path_factory, command):
    path = tmp_path_factory.mktemp("disks") / "finished"
    assert main(command.tiny(path, "--max-steps", "50", method="ebflow")) == 0
    return path


def test_a_file_on_a_full_disk_stays_as_it_was(mount):
    disk = mount("disk")
    (disk / "file").write_text("old")
    fill(disk)

    def write():
        with atomic_write(disk / "file") as file:
            file.write(bytes(2**20))

    with pytest.raises(CannotWrite, match="file, because no space is left on its disk: free some"):
        write()
    assert (disk / "file").read_text() == "old"
    assert sorted(os.listdir(disk)) == ["file", "filler"]


def test_outputs_on_a_full_disk_are_refused_and_earlier_ones_stay(mount, finished, capsys):
    disk = mount("disk")
    output = disk / "samples.npy"
    assert main(["sample", str(finished), "-n", "5", "-o", str(output), "--quiet"]) == 0
    before = output.read_bytes()
    fill(disk)
    arguments = ("sample", finished, "-n", "20000", "-o", output, "--overwrite", "--quiet")
    assert f"Cannot write {output}, because no space" in refused(capsys, *arguments)
    assert output.read_bytes() == before
    page = disk / "report.html"
    assert f"Cannot write {page}" in refused(capsys, "report", finished, "-o", page)
    assert sorted(os.listdir(disk)) == ["filler", "samples.npy"]


def test_an_output_that_nobody_can_take_is_told(finished, command):
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [sys.executable, "-c", CLI, "score", str(finished), "mixture", "--quiet"],
            env=command.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert process.returncode == 1
    assert "No space left on device" in process.stderr
    assert process.stderr.count("\n") == 1, process.stderr


@pytest.mark.slow
def test_a_run_on_a_disk_that_fills_up_stops_and_goes_on_when_there_is_room(
    mount, finished, command
):
    """The disk fills up at each of the files that a run writes, one after the other."""
    disk = mount("disk", "2m")
    run = disk / "run"
    everything = """
from flowebm.training.checkpoints import Checkpoints
Checkpoints.__init__.__kwdefaults__["interval"] = 0.0
"""
    room = sum(path.stat().st_size for path in finished.rglob("*") if path.is_file())
    sentences = []
    for leave in range(0, 2 * room, room // 4):
        if run.exists():
            shutil.rmtree(run)
        fill(disk, leave)
        process = command.train(run, "--max-steps", "50", method="ebflow", before=everything)
        _, err = process.communicate()
        assert "Traceback" not in err, err
        if process.returncode == 0:
            break
        assert process.returncode == 1, err
        sentences.append(err.splitlines()[-1])
        assert "no space is left on its disk: free some" in sentences[-1]
        assert not list(disk.rglob("*.tmp"))
        (disk / "filler").unlink()
        resume = ["--resume"] if "--resume" in sentences[-1] else []
        if run.exists() and not resume:
            assert not any(path.is_file() and path.name != ".lock" for path in run.rglob("*"))
        process = command.train(run, "--max-steps", "50", *resume, method="ebflow")
        _, err = process.communicate()
        assert process.returncode == 0, (sentences[-1], err)
        arrays = [(path / "model.safetensors").read_bytes() for path in (run, finished)]
        assert arrays[0] == arrays[1]
    assert len(set(sentences)) > 2, sentences


def test_a_disk_mounted_read_only_is_refused(mount, finished, capsys):
    disk = mount("disk")
    shutil.copytree(finished, disk / "run")
    np.save(disk / "rows.npy", np.zeros((3, 2)))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    before = contents(disk)
    for arguments in (
        ["report", disk / "run"],
        ["sample", disk / "run", "-n", "5", "-o", disk / "samples.csv", "--quiet"],
        ["train", "--data", "mixture", "--out", disk / "other", "--quiet"],
        ["train", "--data", "mixture", "--out", disk / "run", "--overwrite", "--quiet"],
    ):
        try:
            assert main([str(argument) for argument in arguments]) in (1, 2)
        finally:
            _, err = capsys.readouterr()
        assert "cannot be written in" in err
        assert err.count("\n") == 1
    # What only reads needs no disk that can be written.
    assert main(["score", str(disk / "run"), str(disk / "rows.npy"), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 3
    assert contents(disk) == before


def test_a_failed_row_of_metrics_is_a_torn_last_line(mount, finished):
    """Which readers leave out."""
    from flowebm.training.metrics import MetricsFile

    disk = mount("disk", "64k")
    metrics = MetricsFile(disk / "metrics.jsonl")
    metrics.append({"stage": "a", "iteration": 0})
    fill(disk, 100)
    with pytest.raises(CannotWrite, match=r"metrics\.jsonl, because no space"):
        metrics.append({"stage": "a", "iteration": 1, "text": "x" * 9000})
    assert read_metrics(disk / "metrics.jsonl") == [{"stage": "a", "iteration": 0}]

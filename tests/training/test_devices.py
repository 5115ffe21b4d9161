"""Several devices and processes: the same results up to the order of summation, and one run.

Devices are simulated in processes of their own, because JAX counts them once.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from flowebm.training import read_metrics
from flowebm.training.devices import use_devices

HERE = Path(__file__).parent

#: What makes `flowebm train` take seconds.
SMALL = [
    *("--data", "moons", "--n", "100", "--method", "balanced", "--quiet", "--max-steps", "150"),
    *("--width", "8", "--depth", "1", "--n-chains", "16", "--n-evaluation", "64"),
    *("--flow", "affine-coupling", "--flow-layers", "1", "--flow-width", "4", "--flow-depth", "1"),
    *("--flow-batch", "16", "--batch-size", "30"),
]


#: Objectives that are trained on several devices in every run of the tests.
SOME = ("dsm", "sml", "persistent")


def train(out, *options):
    """Arguments of a small training."""
    return ["train", *SMALL, "--out", str(out), *options]


def environment(n_devices=1, **variables):
    """That of a process with a number of simulated devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={n_devices}"
    return {**os.environ, "XLA_FLAGS": flags, **variables}


def flowebm(*arguments, **variables):
    """Start the command line in a process of its own."""
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from flowebm.cli import main; raise SystemExit(main())",
            *arguments,
        ],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def job(*arguments, n_processes=2):
    """Start the processes of a job on the loopback address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    shared = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(n_processes)}
    return [
        flowebm(*arguments, "--distributed", **shared, JAX_PROCESS_ID=str(number))
        for number in range(n_processes)
    ]


def on_devices(folder, *names):
    """Which part of its arrays each device had in small trainings, whose states lie in a folder."""
    run = subprocess.run(
        [sys.executable, HERE / "on_devices.py", folder, *names],
        env=environment(8),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads((folder / "parts.json").read_text())


def assert_same(folder, name, many):
    """In double precision, where summation is far below what a wrong batch or key would change."""
    one, other = (dict(np.load(folder / f"{name}-{n}.npz")) for n in (1, many))
    assert one.keys() == other.keys()
    for leaf, value in one.items():
        np.testing.assert_allclose(other[leaf], value, rtol=1e-7, atol=1e-9, err_msg=leaf)


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    """The last states of some trainings, of one process, and which parts each device had."""
    folder = tmp_path_factory.mktemp("devices")
    return folder, on_devices(folder, "balanced", *SOME)


def test_1_2_and_8_devices_give_the_same_up_to_the_order_of_summation(some):
    folder, parts = some
    assert {name: part for name, part in parts.items() if name.startswith("balanced")} == {
        "balanced-1": {},
        "balanced-2": {".chains": [8, 4]},
        "balanced-8": {".chains": [2, 4]},
    }
    for many in (2, 8):
        assert_same(folder, "balanced", many)


@pytest.mark.slow
def test_matrices_and_particles_are_shared_out_too(tmp_path):
    parts = on_devices(tmp_path, "ebflow", "convolutional", "sampling")
    weights = [f".chain.layers[{i}].weight" for i in (0, 2)]
    where = (".params", ".average", ".optimizer[0].mu", ".optimizer[0].nu")
    assert parts == {
        "ebflow-1": {},
        "ebflow-8": {place + weight: [1, 4] for place in where for weight in weights},
        "convolutional-1": {},
        "convolutional-4": {},
        "convolutional-8": {},
        "sampling-1": {},
        "sampling-8": {".positions": [8, 2]},
    }
    for name in ("ebflow", "convolutional", "sampling"):
        assert_same(tmp_path, name, 8)
    assert_same(tmp_path, "convolutional", 4)


@pytest.mark.parametrize("name", SOME)
def test_objectives_add_their_gradients_up_once(some, name):
    """Batches of 12 on four devices, whose draws are those of one."""
    assert_same(some[0], name, 4)


@pytest.mark.slow
def test_the_other_objectives_do_too(tmp_path):
    others = ("slices", "exact", "fdssm", "waste-recycled")
    on_devices(tmp_path, *others)
    for name in others:
        assert_same(tmp_path, name, 4)


def test_a_job_that_there_is_not_is_told_how_to_make(tmp_path, capsys):
    arguments = [*train(tmp_path / "run"), "--distributed"]
    lonely = flowebm(*arguments)
    error = lonely.communicate()[1]
    assert lonely.returncode == 2
    assert "--distributed finds no job here" in error


needs_two_cores = pytest.mark.skipif(
    (os.cpu_count() or 1) < 2, reason="a processor of one core is one device"
)


def on_cores(program, *arguments):
    """Run a program where nothing says how many devices a processor is."""
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in f]
    variables = {**os.environ, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=variables,
        capture_output=True,
        text=True,
    )


@needs_two_cores
def test_cores_are_devices_where_the_program_says_so_first():
    program = """
import jax
jax.config.update("jax_num_cpu_devices", {told})
import flowebm
with flowebm.use_devices(2) as n:
    print(n, "devices")
"""
    assert on_cores(program.format(told=2)).stdout == "2 devices\n"
    late = on_cores(program.format(told=1))
    assert 'begin the program with jax.config.update("jax_num_cpu_devices", 2)' in late.stderr


@needs_two_cores
def test_the_command_line_takes_cores_for_devices_when_asked(tmp_path):
    program = "from flowebm.cli import main; raise SystemExit(main())"
    done = on_cores(program, *train(tmp_path / "run", "--max-steps", "50"), "--devices", "2")
    assert done.returncode == 0, done.stderr
    too_many = str((os.cpu_count() or 1) + 1)
    refused = on_cores(program, *train(tmp_path / "other"), "--devices", too_many)
    assert refused.returncode == 2
    assert (
        f"{too_many} devices are asked for, and JAX sees {os.cpu_count()} (cpu)" in refused.stderr
    )


def test_more_devices_than_there_are_are_refused():
    with (
        pytest.raises(ValueError, match=r"99 devices are asked for, and JAX sees \d"),
        use_devices(99),
    ):
        pass
    with (
        pytest.raises(ValueError, match="model must divide the 1 devices; got 2"),
        use_devices(1, model=2),
    ):
        pass


@pytest.mark.slow
def test_two_processes_train_the_same_model_as_one_with_two_devices(tmp_path):
    one = flowebm(*train(tmp_path / "one"), "--devices", "2", n_devices=2)
    assert one.wait() == 0, one.stderr.read()
    two = job(*train(tmp_path / "two"), "--json")
    outputs = [process.communicate() for process in two]
    assert [process.returncode for process in two] == [0, 0], outputs
    # A sum of two numbers has no order.
    models = [load_file(tmp_path / run / "model.safetensors") for run in ("one", "two")]
    assert models[0].keys() == models[1].keys()
    for name, value in models[0].items():
        np.testing.assert_array_equal(models[1][name], value)
    # One of the processes speaks, and what the libraries have to say is kept out of its answer.
    assert json.loads(outputs[0][0])["iterations"] == 150
    assert outputs[1][0] == ""


@pytest.mark.slow
def test_a_job_stops_as_one_and_one_process_goes_on_with_its_checkpoint(tmp_path):
    whole = flowebm(*train(tmp_path / "whole"))
    processes = job(*train(tmp_path / "run"))
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and '"balanced", "iteration": 50' in metrics.read_text()):
        assert processes[0].poll() is None, processes[0].stderr.read()
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [143, 143], errors
    assert "--distributed --resume" in errors[0]
    stopped = read_metrics(metrics)
    resumed = flowebm(*train(tmp_path / "run"), "--resume")
    assert resumed.wait() == 0, resumed.stderr.read()
    assert whole.wait() == 0, whole.stderr.read()
    rows = read_metrics(metrics)
    assert rows[: len(stopped)] == stopped
    assert rows[-1]["iteration"] == 150
    expected = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert rows[-1]["nll"] == pytest.approx(expected[-1]["nll"], abs=0.02)


@pytest.mark.slow
def test_what_one_process_refuses_ends_the_job(tmp_path):
    (tmp_path / "file").touch()
    processes = job(*train(tmp_path / "file"))
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 1]
    assert "is a file: give a directory to --out" in errors[0]
    assert "Stopped because process 0 of the job could not go on" in errors[1]

"""Runs in processes of their own, which can be stopped, killed and starved."""

import os
import subprocess
import sys
import time

import pytest

_SMALL = """
    --data mixture --n 400 --max-steps 150 --n-chains 64 --batch-size 64 --width 8 --depth 1
    --flow-layers 1 --flow-width 8 --flow-depth 1 --flow-batch 64 --n-evaluation 128 --quiet
"""

#: Options that make a run of a few seconds.
TINY = {
    "balanced": f"--method balanced --flow affine-coupling {_SMALL}",
    "joint": """
        --data mixture --method joint --n 400 --epochs 2 --least-steps 150 --most-networks 2
        --worthwhile 0 --network-width 16 --tilt-steps 150 --n-draws 2048 --batch-size 64 --width 8
        --depth 1 --quiet
    """,
    "ebflow": """
        --data mixture --method ebflow --n 400 --max-steps 300 --batch-size 64 --n-blocks 1
        --conditioner-width 8 --quiet
    """,
}


class Command:
    """The command line, in processes that share the tests' compiled programs."""

    def __init__(self):
        # With the folder of programs that the tests' own processes have, `FLOWEBM_CACHE`.
        self.environment = dict(os.environ)

    def start(self, *arguments, before="", environment=None, **options):
        """Start a command; Python code may come before it."""
        code = f"import sys; from flowebm.cli import main\n{before}\nsys.exit(main(sys.argv[1:]))"
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=self.environment | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def train(self, path, *options, method="balanced", **others):
        """Start a tiny run."""
        return self.start(*self.tiny(path, *options, method=method), **others)

    def tiny(self, path, *options, method="balanced"):
        """Arguments of a tiny run."""
        return ["train", "--out", str(path), *TINY[method].split(), *options]


@pytest.fixture(scope="session")
def command():
    return Command()


def wait_until(condition, process, seconds=120.0):
    """Wait for something that a process does; fail if the process ends before."""
    until = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"the process ended with {process.returncode} before: {out}{err}")
        time.sleep(0.01)


@pytest.fixture(scope="session")
def wait():
    return wait_until

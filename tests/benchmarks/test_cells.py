"""The frame of the benchmarks, by a script of two cells."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

SCRIPT = '''
"""Squares."""
import os
from pathlib import Path
import cells

def measure(number, key):
    if number == os.environ.get("REFUSED"):
        raise RuntimeError("no square")
    print("a word in between")
    with open("measured", "a") as file:
        file.write(f"{number} {os.getppid()} {os.getpid()}\\n")
    return {"square": int(number) ** 2, "curve": [1, 2]}

def table(results):
    return ";".join(f"{n}:{r['0']['square']}" for n, r in results.items())

parser = cells.parser(__doc__, Path("kept") / "squares.json")
parser.add_argument("--only", nargs="+", default=["2", "3"])
arguments = parser.parse_args()
wanted = [{"number": n, "key": "0"} for n in arguments.only]
cells.main(arguments, wanted, measure, table, packages=["numpy"])
'''


@pytest.fixture
def run(tmp_path):
    script = tmp_path / "squares.py"
    script.write_text(SCRIPT)

    def run(*arguments, **variables):
        return subprocess.run(
            [sys.executable, str(script), *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(BENCHMARKS)} | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def _lines(tmp_path):
    return [line.split() for line in (tmp_path / "measured").read_text().splitlines()]


def test_cells_are_measured_once_each_in_a_process_of_its_own(run, tmp_path):
    assert run("--only", "2").stdout == "2:4\n"
    assert run().stdout == "2:4;3:9\n"
    assert [number for number, *_ in _lines(tmp_path)] == ["2", "3"]
    (_, first_parent, first), (_, second_parent, second) = _lines(tmp_path)
    assert len({first_parent, first, second_parent, second}) == 4

    record = json.loads((tmp_path / "kept" / "squares.json").read_text())["results"]["3"]["0"]
    assert record["square"] == 9
    assert record["run"]["versions"] == {"numpy": version("numpy")}
    # Those of the process, where the system tells them apart from the machine's.
    cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count()))(0)
    assert record["run"]["cores"] == len(cores)
    # Outside a clone there is none.
    assert int(record["run"]["commit"] or "0", 16) >= 0
    assert 2**20 < record["run"]["peak_memory_bytes"] < 2**40

    assert run("--table").stdout == "2:4;3:9\n"
    assert run("--only", "3", "--again").stdout == "2:4;3:9\n"
    assert [number for number, *_ in _lines(tmp_path)] == ["2", "3", "3"]


def test_a_cell_that_fails_stops_the_run_and_loses_nothing(run, tmp_path):
    failed = run(REFUSED="3")
    assert failed.returncode == 1
    assert "no square" in failed.stderr
    assert run("--table").stdout == "2:4\n"
    assert run().stdout == "2:4;3:9\n"
    assert [number for number, *_ in _lines(tmp_path)] == ["2", "3"]

"""Section `startup`: seconds from a command to its first result, each in processes of their own.

`import` is what `from flowebm import FlowEBM` takes in a fresh interpreter, beside `import jax`,
alternating; the difference is flowebm's and its other libraries'. `train NAME` is
`flowebm train --data NAME` from its start until the first evaluation stands in `metrics.jsonl`,
which is computed and on disk then, and until the first block of iterations does: once with an
empty folder of compiled programs, and then with what that run has left there. Medians.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

CELLS = ["import", "train mixture", "train ebflow digits"]
PACKAGES = ("flowebm", "jax", "equinox", "flowjax", "blackjax", "scikit-learn")

TURNS = 5

OPTIONS = {
    "mixture": ["--data", "mixture"],
    "ebflow digits": ["--data", "digits", "--method", "ebflow"],
}


def measure(name: str) -> dict:
    """Medians of seconds."""
    if name == "import":
        return _imports()
    options = OPTIONS[name.removeprefix("train ")]
    with tempfile.TemporaryDirectory() as folder:
        runs = [_first_rows(options, Path(folder), number) for number in range(TURNS - 1)]
    first, *later = runs
    return {
        "first": first,
        "second": {key: median(run[key] for run in later) for key in first},
    }


def _imports() -> dict:
    statements = {
        "nothing": "",
        "jax": "import jax",
        "flowebm": "import flowebm",
        "FlowEBM": "from flowebm import FlowEBM",
    }
    seconds = {key: [] for key in statements}
    for turn in range(TURNS + 1):
        for key, statement in statements.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            # The first turn reads the files from the disk.
            if turn:
                seconds[key].append(time.perf_counter() - started)
    return {key: median(values) for key, values in seconds.items()}


def _first_rows(options: list[str], folder: Path, number: int) -> dict:
    run = folder / str(number)
    command = [sys.executable, "-c", "from flowebm.cli import main; raise SystemExit(main())"]
    command += ["train", *options, "--out", str(run), "--quiet"]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment | {"XDG_CACHE_HOME": str(folder)})
    found = {}
    for key, rows in (("evaluation", 1), ("block", 2)):
        while len(_rows(run / "metrics.jsonl")) < rows:
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command[3:])} ended before its first block.")
            time.sleep(0.01)
        found[key] = time.perf_counter() - started
    process.send_signal(signal.SIGKILL)
    process.wait()
    return found


def _rows(path: Path) -> list[dict]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if "\n" in line]


def table(results: dict) -> str:
    """Imports, then a line a command."""
    lines = []
    if "import" in results:
        found = results["import"]
        lines += [
            "| interpreter | `import jax` | `import flowebm` | `from flowebm import FlowEBM` |",
            "|---|---|---|---|",
            "| " + " | ".join(f"{found[key]:.2f} s" for key in found if key != "run") + " |",
            "",
        ]
    lines += [
        "| command | programs | first evaluation (s) | first block (s) |",
        "|---|---|---|---|",
    ]
    for name, found in results.items():
        for key, programs in (("first", "to compile"), ("second", "kept")):
            if key in found:
                row = found[key]
                lines.append(
                    f"| {name} | {programs} | {row['evaluation']:.1f} | {row['block']:.1f} |"
                )
    return "\n".join(lines)

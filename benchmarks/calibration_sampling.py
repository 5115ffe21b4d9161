r"""Whether the error that `flowebm.sample` states of log Z is the one that it makes.

    python benchmarks/calibration_sampling.py --keys 100       # everything
    python benchmarks/calibration_sampling.py --only cube --keys 25
    python benchmarks/calibration_sampling.py --table          # the table of what was measured

The error of log Z in units of its stated standard error, z, over many keys, on densities of
`sampling_truths.py` that are cheap, of different kinds, and of known log Z. Their standard
deviation is 1 where errors are as stated. The keys of one process share its compiled programs; a
stopped run goes on with the next of these parts.
"""

import time
from pathlib import Path

import cells
from sampling_truths import make

RESULTS = Path(__file__).parent / "results" / "calibration_sampling.json"

#: A small mode beside a large one, walls, four modes, and what is far from normal.
TARGETS = ("1%", "cube", "mixture, 2", "Müller-Brown, 15")

#: Keys of one process.
PART = 25

#: Between which the standard deviation of z is to lie.
AIM = (0.8, 1.25)


def measure(target: str, keys: str) -> dict:
    """The runs of one process: the first compiles, the others find its programs."""
    first, last = map(int, keys.split("-"))
    return {"runs": {str(key): run(target, key) for key in range(first, last + 1)}}


def run(target: str, key: int) -> dict:
    """One run."""
    import warnings

    import jax

    from flowebm import sample

    warnings.simplefilter("ignore")
    known = make(target)
    started = time.perf_counter()
    result = sample(
        jax.random.key(key), known.log_density, known.initial, verbose=False, **known.choices
    )
    return {
        "log_z": result.log_partition.value,
        "log_z_stderr": result.log_partition.stderr,
        "true_log_z": known.log_z,
        "khat": result.log_partition.khat,
        "evaluations": result.n_evaluations,
        "seconds": time.perf_counter() - started,
        "warnings": list(result.warnings),
    }


def parts(n_keys: int) -> list[str]:
    """The keys of each process, such as `25-49`."""
    firsts = range(0, n_keys, PART)
    return [f"{first}-{min(first + PART, n_keys) - 1}" for first in firsts]


def runs(results: dict) -> list[dict]:
    """Each key's run once: of parts that overlap, the longer one's."""
    found = {}
    for part in sorted(results.values(), key=lambda part: len(part["runs"])):
        found |= part["runs"]
    return list(found.values())


def table(results: dict) -> str:
    """A row a target."""
    import numpy as np

    lines = [
        "| density | keys | mean of z | standard deviation of z | as stated | largest of z "
        "| said | stated error, median | seconds, median |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for target in [name for name in TARGETS if name in results]:
        records = runs(results[target])
        error = np.array([record["log_z_stderr"] for record in records])
        off = np.array([record["log_z"] - record["true_log_z"] for record in records])
        z, n = off / error, len(records)
        spread = z.std(ddof=1) if n > 1 else float("nan")
        doubt = _error_of_spread(z)
        said = sum(bool(record["warnings"]) for record in records)
        seconds = np.median([record["seconds"] for record in records])
        lines.append(
            f"| {target} | {n} | {z.mean():+.2f} ± {spread / n**0.5:.2f} "
            f"| {spread:.2f} ± {doubt:.2f} | {_judgement(spread, doubt)} | {np.abs(z).max():.1f} "
            f"| {said} | {np.median(error):.4f} | {seconds:.1f} |"
        )
    return "\n".join(lines)


def _judgement(spread: float, doubt: float) -> str:
    """Whether errors are as stated; open where more keys may bring the spread to the aim."""
    beyond = max(AIM[0] - spread, spread - AIM[1])
    return "yes" if beyond <= 0 else "no" if beyond > 2 * doubt else "open"


def _error_of_spread(z) -> float:
    """Standard error of a standard deviation, by the fourth moment."""
    import numpy as np

    square = (z - z.mean()) ** 2
    return float(np.sqrt(square.var() / len(z)) / (2 * np.sqrt(square.mean())))


def main() -> None:
    parser = cells.parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--keys", type=int, default=PART)
    arguments = parser.parse_args()
    wanted = [
        {"target": target, "keys": part}
        for part in parts(arguments.keys)
        for target in arguments.only
    ]
    cells.main(arguments, wanted, measure, table, packages=["flowebm", "jax", "flowjax"])


if __name__ == "__main__":
    main()

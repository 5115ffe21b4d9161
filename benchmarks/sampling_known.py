r"""Whether `flowebm.sample` is right where the truth is known, and says so where it is not.

    python benchmarks/sampling_known.py                          # everything, one key each
    python benchmarks/sampling_known.py --only banana --keys 5   # some densities
    python benchmarks/sampling_known.py --table                  # the table of what was measured

A run is right where log Z is within three of its standard errors and the weight of a region within
a fifth or three standard errors, which are those of the chains' means; it is a silent miss where
it is wrong and `result.warnings` is empty. A weight counts by the kept draws. Seconds are those of
a process's first run, compilation included, and the processor's are those of all its threads.
"""

import time
from pathlib import Path

import cells
from sampling_truths import KNOWN, make

RESULTS = Path(__file__).parent / "results" / "sampling_known.json"


def measure(density: str, key: str) -> dict:
    """One run."""
    import warnings

    import jax
    import numpy as np

    from flowebm import sample

    warnings.simplefilter("ignore")
    known = make(density)
    started, core_started = time.perf_counter(), time.process_time()
    result = sample(
        jax.random.key(int(key)),
        known.log_density,
        known.initial,
        verbose=False,
        **known.choices,
    )
    seconds, core_seconds = time.perf_counter() - started, time.process_time() - core_started
    inside = np.asarray(jax.vmap(jax.vmap(known.region))(result.draws), float)
    by_chain = inside.mean(axis=1)
    log_z = result.log_partition
    return {
        "log_z": log_z.value,
        "log_z_stderr": log_z.stderr,
        "true_log_z": known.log_z,
        "khat": log_z.khat,
        "weight": float(inside.mean()),
        "weight_stderr": float(by_chain.std(ddof=1) / len(by_chain) ** 0.5),
        "true_weight": known.weight,
        "modes": [[mode.weight, mode.stderr] for mode in result.modes],
        "opinions": {name: list(map(float, o)) for name, o in result.opinions.items()},
        "evaluations": result.n_evaluations,
        "seconds": seconds,
        "core_seconds": core_seconds,
        "warnings": list(result.warnings),
    }


def z_score(record: dict) -> float:
    """The error of log Z in units of what is stated; zero where the truth is not known."""
    if record["true_log_z"] != record["true_log_z"]:
        return 0.0
    return (record["log_z"] - record["true_log_z"]) / record["log_z_stderr"]


def is_right(record: dict) -> bool:
    """Whether log Z and the region's weight are."""
    gap = abs(record["weight"] - record["true_weight"])
    limit = max(0.2 * record["true_weight"], 3 * record["weight_stderr"])
    return abs(z_score(record)) <= 3 and gap <= limit


def table(results: dict) -> str:
    """A row a density, and what all come to."""
    lines = [
        "| density | right | said | silent misses | error of log Z / its own | weight, right "
        "| evaluations | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    totals = [0, 0, 0]
    for density in [name for name in KNOWN if name in results]:
        records = list(results[density].values())
        right = [is_right(record) for record in records]
        said = [bool(record["warnings"]) for record in records]
        silent = sum(not r and not s for r, s in zip(right, said, strict=True))
        totals = [a + b for a, b in zip(totals, (len(records), sum(right), silent), strict=True)]
        scores = " ".join(f"{z_score(record):+.1f}" for record in records)
        weights = " ".join(f"{record['weight']:.3g}" for record in records)
        lines.append(
            f"| {density} | {sum(right)} of {len(right)} | {sum(said)} | {silent} | {scores} "
            f"| {weights}, {records[0]['true_weight']:.3g} | {records[0]['evaluations']:,} "
            f"| {max(record['seconds'] for record in records):.0f} |"
        )
    lines.append(f"\n{totals[1]} of {totals[0]} runs are right; {totals[2]} are silent misses.")
    return "\n".join(lines)


def main() -> None:
    parser = cells.parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", default=list(KNOWN), choices=list(KNOWN))
    parser.add_argument("--keys", type=int, default=1)
    arguments = parser.parse_args()
    wanted = [
        {"density": density, "key": str(key)}
        for key in range(arguments.keys)
        for density in arguments.only
    ]
    cells.main(arguments, wanted, measure, table, packages=["flowebm", "jax", "flowjax"])


if __name__ == "__main__":
    main()

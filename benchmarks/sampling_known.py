r"""Whether `flowebm.sample` is right where the truth is known, and says so where it is not.

    python benchmarks/sampling_known.py                          # everything, one key each
    python benchmarks/sampling_known.py --only banana --keys 5   # some densities
    python benchmarks/sampling_known.py --table                  # the table of what was measured
    python benchmarks/sampling_known.py --samplers dynesty NUTS  # peers, on some of the densities

A run is right where log Z is within three of its standard errors and the weight of a region within
a fifth or three standard errors, which are those of the chains' means; it is a silent miss where
it is wrong and `result.warnings` is empty. A weight counts by the kept draws. Seconds are those of
a process's first run, compilation included, and the processor's are those of all its threads.

Peers, which `known_peers.py` has, are right by the same rule, and those that return no log Z by the
weight alone. They have a file of results and a limit of time of their own, and a table in which
flowebm's row is what the other file has of the same densities and keys.
"""

import argparse
import math
import os
import sys
import time
from pathlib import Path
from statistics import median

import cells
import known_peers
from known_peers import PEERS, WITHOUT_LOG_Z
from sampling_truths import KNOWN, make

RESULTS = Path(__file__).parent / "results" / "sampling_known.json"
PEER_RESULTS = Path(__file__).parent / "results" / "known_peers.json"

#: The least error of a log Z in single precision.
ROUNDING = 1e-6

#: Where peers run unless told otherwise.
VARIED = (
    "spike and slab, 10",
    "sinusoids",
    "1%",
    "1% in 10",
    "0.1%",
    "mirrored",
    "Müller-Brown, 10",
    "wide and narrow",
    "40 apart",
    "banana",
    "funnel",
    "hybrid Rosenbrock",
    "cube",
)


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
    # A prior that is the density itself has no error but that of rounding.
    return (record["log_z"] - record["true_log_z"]) / max(record["log_z_stderr"], ROUNDING)


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


def page(results: dict) -> str:
    """What the page of all benchmarks shows: the table, and that of peers."""
    parts = [table(results)]
    if peers := cells.load(PEER_RESULTS):
        parts.append(peers_table(peers, results))
    return "\n\n".join(parts)


def verdict(sampler: str, record: dict) -> str:
    """What came of a run in few words: `right`, or what is wrong with it."""
    if "cut" in record:
        return "cut"
    if "failed" in record:
        return "failed"
    if sampler in WITHOUT_LOG_Z:
        record = record | {"true_log_z": math.nan}
    if is_right(record):
        return "right"
    score = z_score(record)
    if abs(score) <= 3:
        return f"weight {record['weight']:.2g}"
    return f"log Z {score:+.0f}" if math.isfinite(score) else "log Z lost"


def peers_table(results: dict, own: dict) -> str:
    """A row a sampler, and what came of each density.

    Args:
        results: Those of peers.
        own: flowebm's, of which the same densities and keys count.
    """
    cells_of_peers = {
        (density, key)
        for by_density in results.values()
        for density, records in by_density.items()
        for key in records
    }
    of_own: dict = {}
    for density, key in cells_of_peers:
        if key in own.get(density, {}):
            of_own.setdefault(density, {})[key] = own[density][key]
    rows = {"flowebm": of_own} if of_own else {}
    rows |= {name: results[name] for name in PEERS if name in results}
    densities = [name for name in KNOWN if any(name in row for row in rows.values())]
    summary = [
        "| sampler | right | wrong | cut | failed | evaluations | seconds | second run "
        "| core seconds |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_summary(name, row) for name, row in rows.items()),
    ]
    details = [
        "| density | weight | " + " | ".join(rows) + " |",
        "|---|---|" + "---|" * len(rows),
    ]
    for density in densities:
        found = {name: row.get(density, {}) for name, row in rows.items()}
        words = [
            "; ".join(verdict(name, record) for record in records.values()) or "not run"
            for name, records in found.items()
        ]
        details.append(f"| {density} | {make(density).weight:.3g} | {' | '.join(words)} |")
    note = (
        "Medians: evaluations and the second run's seconds, which compiles nothing, of the runs "
        "that ended; seconds of all, with those that were cut for as long as they had. "
        f"{' and '.join(WITHOUT_LOG_Z)} return no log Z, and are right where the weight is. The "
        "prior that peers are given has standard deviation 10 where there are no bounds, which is "
        "less than flowebm's start reaches: it decides `40 apart`, and has a part in the hybrid "
        "Rosenbrock density and the banana."
    )
    return "\n".join([*summary, "", note, "", *details])


def _summary(sampler: str, by_density: dict) -> str:
    records = [record for found in by_density.values() for record in found.values()]
    words = [verdict(sampler, record) for record in records]
    counts = [words.count(word) for word in ("right", "cut", "failed")]
    wrong = len(words) - sum(counts)
    ended = [record for record in records if "evaluations" in record]
    runs = [
        [r["cut"]] if "cut" in r else _listed(r["seconds"]) for r in records if "failed" not in r
    ]
    columns = [
        sampler,
        f"{counts[0]} of {len(words)}",
        str(wrong),
        *map(str, counts[1:]),
        _median([record["evaluations"] for record in ended]),
        _median([run[0] for run in runs]),
        _median([run[1] for run in runs if len(run) > 1]),
        _median([_listed(record["core_seconds"])[0] for record in ended]),
    ]
    return f"| {' | '.join(columns)} |"


def _listed(seconds: float | list[float]) -> list[float]:
    return seconds if isinstance(seconds, list) else [seconds]


def _median(numbers: list[float]) -> str:
    if not numbers:
        return ""
    return f"{median(numbers):,.0f}" if median(numbers) >= 10 else f"{median(numbers):.1f}"


def main() -> None:
    parser = cells.parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", choices=list(KNOWN))
    parser.add_argument("--keys", type=int, default=1)
    parser.add_argument("--samplers", nargs="+", default=["flowebm"], choices=["flowebm", *PEERS])
    parser.add_argument("--peer-results", type=Path, default=PEER_RESULTS)
    parser.add_argument(
        "--limit", type=float, default=240.0, help="seconds of a peer's cell, start included"
    )
    arguments = parser.parse_args()
    is_peers_cell = arguments.cell is not None and "sampler" in arguments.cell
    if not is_peers_cell and (arguments.cell is not None or "flowebm" in arguments.samplers):
        wanted = _wanted(arguments.only or list(KNOWN), arguments.keys)
        cells.main(arguments, wanted, measure, table, packages=["flowebm", "jax", "flowjax"])
    if is_peers_cell or (arguments.cell is None and set(arguments.samplers) != {"flowebm"}):
        _main_of_peers(arguments)


def _wanted(densities: list[str], keys: int) -> list[dict[str, str]]:
    return [{"density": density, "key": str(key)} for key in range(keys) for density in densities]


def _main_of_peers(arguments: argparse.Namespace) -> None:
    samplers = [name for name in PEERS if name in arguments.samplers]
    missing = [name for name in samplers if not known_peers.is_installed(name)]
    if missing and not arguments.table:
        print(
            f"Not installed, and left out: {', '.join(missing)}. pip install '.[bench]'",
            file=sys.stderr,
        )
    wanted = [
        {"sampler": sampler} | cell
        for cell in _wanted(arguments.only or list(VARIED), arguments.keys)
        for sampler in samplers
        if sampler not in missing
    ]
    own = cells.load(arguments.results)
    packages = {known_peers.DISTRIBUTIONS[name] for name in PEERS if known_peers.is_installed(name)}
    cells.main(
        argparse.Namespace(**vars(arguments) | {"results": arguments.peer_results}),
        wanted,
        known_peers.measure,
        lambda results: peers_table(results, own),
        packages=["flowebm", "jax", *sorted(packages)],
        # Programs of earlier runs would be found on disk.
        environment=lambda cell: os.environ | {"FLOWEBM_CACHE": "off"},
        limit=arguments.limit,
    )


if __name__ == "__main__":
    main()

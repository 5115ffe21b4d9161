"""Memory and memory maps of a process that samples and fits all day, call by call.

    python benchmarks/ageing.py [--calls 40] [--kind sample|fit]

Every call is of another form, so that no program serves twice: log-densities of their own, and
networks of other sizes.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr

import flowebm
from flowebm import Architecture, BalancedOptions, FlowEBM, SamplingOptions
from flowebm.compiled_programs import memory_maps

RESULTS = Path(__file__).parent / "results" / "ageing.json"


def sample_once(number: int) -> None:
    """Sample a log-density that no call before had."""
    flowebm.sample(
        jr.key(number),
        lambda x: -0.5 * jnp.sum(x**2) / (1 + 0.1 * number),
        2,
        n_draws=40,
        max_steps=20,
        options=SamplingOptions(n_particles=128, flow_batch=32),
        verbose=False,
    )


def fit_once(number: int) -> None:
    """Fit a network of a size that no call before had."""
    FlowEBM(
        "balanced",
        max_steps=20,
        architecture=Architecture(width=8 + number, flow_width=8 + number, flow_layers=2),
        options=BalancedOptions(n_chains=64, batch_size=64, flow_batch=64, n_evaluation=256),
        random_state=number,
    ).fit(jr.normal(jr.key(number), (200, 2 + number % 3)))


def resident_megabytes() -> float:
    """What the process holds in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def curve(kind: str, calls: int) -> list[dict[str, float]]:
    """What the process has after each call."""
    once = {"sample": sample_once, "fit": fit_once}[kind]
    rows = []
    for number in range(calls):
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            once(number)
        row = {
            "call": number + 1,
            "megabytes": round(resident_megabytes()),
            "maps": memory_maps() or 0,
            "seconds": round(time.perf_counter() - started, 1),
        }
        rows.append(row)
        print(row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=40)
    parser.add_argument("--kind", choices=["sample", "fit"], default=None)
    given = parser.parse_args()
    # What is found on the disk is not compiled, and takes as many maps all the same.
    jax.config.update("jax_enable_compilation_cache", False)
    kinds = [given.kind] if given.kind else ["sample", "fit"]
    curves = {kind: curve(kind, given.calls) for kind in kinds}
    RESULTS.write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""By how much fits and samplings overrun their budgets of time.

    python benchmarks/budget.py                     # everything, ten minutes
    python benchmarks/budget.py --only images       # some of it
    python benchmarks/budget.py --table             # the table of what was measured

A budget may be overrun by a tenth, and by one program that was being compiled: `longest` is the
longest compilation of the process, by JAX's event `backend_compile_duration`. Each row is a process
of its own without a folder of compiled programs. `table` is flowebm's mixture of 20,000 rows in 20
columns, `sample` two normals in 32 coordinates and, as `path`, in 64; `images` are 3,000 colour
images of 32 x 32 noise for a convolutional EBFlow.
"""

import time
from pathlib import Path

import cells
import numpy as np

RESULTS = Path(__file__).parent / "results" / "budget.json"

#: Seconds that each is given.
BUDGETS = {"table": (20, 60), "sample": (15,), "path": (40,), "images": (90,)}

COMPILED = "/jax/core/compile/backend_compile_duration"


def table_of_columns(seconds: float):
    """What fits a table."""
    from flowebm import FlowEBM
    from flowebm.data import load_dataset

    rows = load_dataset("mixture", dim=20, n=20_000).values
    return lambda: FlowEBM(time_budget=seconds, random_state=0).fit(rows)


def two_normals(dim: int, seconds: float):
    """What samples a density of two modes."""
    import jax
    import jax.numpy as jnp

    import flowebm

    def log_density(x):
        return jnp.logaddexp(-0.5 * jnp.sum((x - 4) ** 2), -0.5 * jnp.sum((x + 4) ** 2))

    return lambda: flowebm.sample(
        jax.random.key(0), log_density, dim, time_budget=seconds, verbose=False
    )


def colour_images(seconds: float):
    """What fits a convolutional flow of colour images."""
    from flowebm import EBFlowArchitecture, FlowEBM

    pixels = np.random.default_rng(0).integers(0, 256, (3000, 3 * 32 * 32))
    model = FlowEBM(
        "ebflow",
        architecture=EBFlowArchitecture("cnn"),
        point_shape=(3, 32, 32),
        pixel_levels=256,
        time_budget=seconds,
        random_state=0,
    )
    return lambda: model.fit(pixels)


def measure(what: str, budget: str) -> dict:
    """Seconds used, and the longest compilation."""
    import warnings

    import jax

    from flowebm import use_compilation_cache

    use_compilation_cache(False)
    compilations = [0.0]
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compilations.append(seconds) if event == COMPILED else None
    )
    seconds = float(budget)
    run = {
        "table": lambda: table_of_columns(seconds),
        "sample": lambda: two_normals(32, seconds),
        "path": lambda: two_normals(64, seconds),
        "images": lambda: colour_images(seconds),
    }[what]()
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run()
    return {
        "seconds": time.perf_counter() - started,
        "longest": max(compilations),
        "compiling": sum(compilations),
    }


def table(results: dict) -> str:
    """A row a run, as markdown."""
    lines = [
        "| what | budget (s) | used (s) | allowed (s) | compiling (s) |",
        "|---|---|---|---|---|",
    ]
    for what, runs in results.items():
        for budget, cell in runs.items():
            allowed = 1.1 * float(budget) + cell["longest"]
            lines.append(
                f"| {what} | {budget} | {cell['seconds']:.1f} | {allowed:.1f} | "
                f"{cell['compiling']:.1f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = cells.parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", choices=list(BUDGETS), default=list(BUDGETS))
    arguments = parser.parse_args()
    wanted = [
        {"what": what, "budget": str(budget)} for what in arguments.only for budget in BUDGETS[what]
    ]
    cells.main(arguments, wanted, measure, table, packages=("flowebm", "jax"))


if __name__ == "__main__":
    main()

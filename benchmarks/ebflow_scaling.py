"""What an optimizer step of an EBFlow with full linear layers costs, against the dimension.

    python benchmarks/ebflow_scaling.py                    # D = 64 ... 4096
    python benchmarks/ebflow_scaling.py --only 64 128      # some dimensions
    python benchmarks/ebflow_scaling.py --table            # the table of what has been measured

The model is `fully_connected_ebflow((D,))`, the batch 100, the optimizer RMSprop. Each D is a
process of its own, in which the objectives take turns, so that whatever else the machine does
falls on all of them: the ratios are measured side by side, the seconds are of this machine on that
day. Each time is the median over the turns; since a factorisation waits longer for a busy core
than a product does, exponents and ratios are those of the fastest turns, and the ratios of the
medians stand beside them. Memory is that of the compiled step: arguments, results and temporary
arrays, without what the runtime and LAPACK take beside. Results are kept as they come, and what is
there already is not measured again (unless --again).
"""

import time
from math import log2
from pathlib import Path
from statistics import linear_regression, median

import cells

RESULTS = Path(__file__).parent / "results" / "ebflow_scaling.json"

DIMENSIONS = (64, 128, 256, 512, 1024, 2048, 4096)
OBJECTIVES = ("ml", "sml", "ssm", "dsm", "fdssm")
BATCH_SIZE = 100

#: Exponents are fitted from this dimension on, where the products outweigh the overheads.
FITTED_FROM = 512

#: Seconds each objective is timed for, and the fewest and most turns that it gets.
SECONDS = 3.0
TURNS = (5, 50)


def measure(dim: str) -> dict:
    """Seconds and bytes of one optimizer step of each objective, in turns."""
    import equinox as eqx
    import jax
    import numpy as np
    import optax

    from flowebm import objectives
    from flowebm.models import fully_connected_ebflow
    from flowebm.models.trainable import partition_trainable

    size = int(dim)
    batch = jax.random.normal(jax.random.key(0), (BATCH_SIZE, size))
    optimizer = optax.rmsprop(1e-4)
    start, static = partition_trainable(fully_connected_ebflow((size,)).initialized(batch))

    def compiled_step(name):
        objective = getattr(objectives, name)()

        def step(params, state, key):
            def loss(params):
                return objective(eqx.combine(params, static), batch, key)

            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates), state, value

        jitted = jax.jit(step, donate_argnums=(0, 1))
        return jitted.lower(start, optimizer.init(start), jax.random.key(1)).compile()

    steps = {name: compiled_step(name) for name in OBJECTIVES}

    def run(name, n):
        params = jax.tree.map(jax.numpy.copy, start)
        state, key = optimizer.init(params), jax.random.key(1)
        jax.block_until_ready((params, state))
        started, value = time.perf_counter(), None
        for _ in range(n):
            params, state, value = steps[name](params, state, key)
        value = jax.block_until_ready((params, state, value))[-1]
        seconds = (time.perf_counter() - started) / n
        if not np.isfinite(value):
            raise RuntimeError(f"The loss of {name} at D={dim} is {value}.")
        return seconds

    # A turn is as many steps as take a tenth of a second, so that the clock does not matter.
    in_a_turn = {name: max(1, round(0.1 / run(name, 2))) for name in OBJECTIVES}
    slowest = max(run(name, 1) * in_a_turn[name] for name in OBJECTIVES)
    turns = min(max(round(SECONDS / slowest), TURNS[0]), TURNS[1])
    times = {name: [] for name in OBJECTIVES}
    for _ in range(turns):
        for name in OBJECTIVES:
            times[name].append(run(name, in_a_turn[name]))
    result = {}
    for name in OBJECTIVES:
        memory = steps[name].memory_analysis()
        result[name] = {
            "seconds": median(times[name]),
            "fastest": min(times[name]),
            "slowest": max(times[name]),
            "bytes": memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes,
        }
    return result | {"turns": turns}


def exponent(steps: dict[int, dict], objective: str, quantity: str) -> float:
    """The slope of log quantity over log D, by least squares."""
    fitted = [dim for dim in steps if dim >= FITTED_FROM]
    slope, _ = linear_regression(
        [log2(dim) for dim in fitted], [log2(steps[dim][objective][quantity]) for dim in fitted]
    )
    return slope


def table(results: dict) -> str:
    """Seconds, ratios and memory, a row a dimension, as markdown."""
    steps = {int(dim): results[dim] for dim in sorted(results, key=int)}
    lines = [
        "| D | "
        + " | ".join(f"{name}: ms, fastest, MB" for name in OBJECTIVES)
        + " | ml/ssm: fastest, median | ml/dsm: fastest, median |",
        "|---" * (len(OBJECTIVES) + 3) + "|",
    ]
    for dim, measured in steps.items():
        costs = " | ".join(
            f"{1e3 * measured[name]['seconds']:.3g}, {1e3 * measured[name]['fastest']:.3g}, "
            f"{measured[name]['bytes'] / 1e6:.3g}"
            for name in OBJECTIVES
        )
        ratios = " | ".join(
            ", ".join(
                f"{measured['ml'][time] / measured[name][time]:.2f}"
                for time in ("fastest", "seconds")
            )
            for name in ("ssm", "dsm")
        )
        lines.append(f"| {dim} | {costs} | {ratios} |")
    if sum(dim >= FITTED_FROM for dim in steps) > 1:
        exponents = " | ".join(
            f"–, {exponent(steps, name, 'fastest'):.2f}, {exponent(steps, name, 'bytes'):.2f}"
            for name in OBJECTIVES
        )
        lines.append(f"| exponent, D ≥ {FITTED_FROM} | {exponents} | | |")
    return "\n".join(lines)


def main() -> None:
    parser = cells.parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", type=int, default=list(DIMENSIONS), metavar="D")
    arguments = parser.parse_args()
    wanted = [{"dim": str(dim)} for dim in arguments.only]
    cells.main(arguments, wanted, measure, table, packages=("flowebm", "jax", "optax"))


if __name__ == "__main__":
    main()

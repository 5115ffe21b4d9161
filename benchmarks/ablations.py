"""What else balanced training could do in an iteration, and what it gives: KL and price.

    python benchmarks/ablations.py                     # everything, one key
    python benchmarks/ablations.py --only mixture-2    # one set
    python benchmarks/ablations.py --table             # the table of what was measured

All fits are of the same 20,000 points, of which 2,000 choose, from the same flow, for 600
iterations; one thing differs from the defaults in each. KL is measured with log Z from draws of
truth and flow together. Milliseconds are those of an iteration with its share of evaluations,
without compilation.
"""

import time
from pathlib import Path
from statistics import median

import cells

RESULTS = Path(__file__).parent / "results" / "ablations.json"

SETS = ("mixture-2", "mixture-16")
MAX_STEPS, BLOCK_LENGTH = 600, 50

#: What differs from the defaults, in the order of the table.
VARIANTS = {
    "the defaults": {},
    "waste recycling": {"gradient": "waste-recycled"},
    "i-SIR, 4 proposals": {"global_kernel": "isir"},
    "i-SIR, 4 proposals, waste recycling": {"global_kernel": "isir", "gradient": "waste-recycled"},
    "1 MALA step": {"n_local": 1},
    "5 MALA steps": {"n_local": 5},
    "1 MALA step, flow steps of 4,096 points": {"n_local": 1, "flow_batch": 4096},
    "a flow step every iteration": {"flow_interval": 1},
    "no average of parameters": {"average_decay": 0.0},
    "no defensive mixture": {},
}

N_MEASURE = 50_000


def measure(data: str, variant: str, key: str) -> dict:
    """One fit, its KL and the price of its iterations."""
    import jax
    import jax.numpy as jnp
    from balanced import covering_log_partition
    from flowjax.distributions import Transformed

    from flowebm.data import Standardise, load_dataset
    from flowebm.evaluation import kl_divergence
    from flowebm.models import Architecture, build
    from flowebm.training import BalancedOptions, fit_balanced

    name, _, dim = data.partition("-")
    dataset = load_dataset(name, dim=int(dim) if dim else None, seed=1000 + int(key))
    scaling = Standardise.fit(dataset.values[:18_000])
    rows = jnp.asarray(scaling.transform_rows(dataset.values), float)
    truth = Transformed(dataset.target, scaling)
    train, validation = rows[:18_000], rows[18_000:]
    parts = build(Architecture(), train.shape[1:], data=train, key=jax.random.key(int(key)))
    proposal = parts.proposal if variant != "no defensive mixture" else parts.proposal.flow

    started = time.perf_counter()
    result = fit_balanced(
        jax.random.key(int(key)),
        parts.model,
        train,
        validation=validation,
        proposal=proposal,
        options=BalancedOptions(**VARIANTS[variant]),
        max_steps=MAX_STEPS,
        block_length=BLOCK_LENGTH,
    )
    model, flow = result.model, result.flow
    blocks = [row for row in result.history if row["stage"] == "balanced"]
    seconds = time.perf_counter() - started
    log_z = covering_log_partition(1, model, truth, flow, N_MEASURE)
    kl = kl_divergence(jax.random.key(2), truth, model, n=N_MEASURE, log_partition=log_z)
    first, last = blocks[1], blocks[-1]
    price = (last["seconds"] - first["seconds"]) / (last["iteration"] - first["iteration"])
    return {
        "kl": kl.value,
        "kl_stderr": kl.stderr,
        "ess": last["ess"],
        "milliseconds": 1e3 * price,
        "seconds": seconds,
    }


def table(results: dict) -> str:
    """A row a variant, as markdown: medians over the keys."""
    lines = [
        "| data | what differs | keys | KL: median, worst (nats) | milliseconds an iteration | "
        "ESS at the end |",
        "|---|---|---|---|---|---|",
    ]
    for data in (name for name in SETS if name in results):
        for variant in (name for name in VARIANTS if name in results[data]):
            fits = list(results[data][variant].values())
            kl = [fit["kl"] for fit in fits]
            lines.append(
                f"| {data} | {variant} | {len(fits)} | {median(kl):.4f}, {max(kl):.4f} | "
                f"{median(fit['milliseconds'] for fit in fits):.1f} | "
                f"{median(fit['ess'] for fit in fits):.0%} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = cells.parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--keys", type=int, default=1)
    arguments = parser.parse_args()
    wanted = [
        {"data": data, "variant": variant, "key": str(key)}
        for key in range(arguments.keys)
        for data in arguments.only
        for variant in VARIANTS
    ]
    cells.main(arguments, wanted, measure, table, packages=("flowebm", "jax", "flowjax"))


if __name__ == "__main__":
    main()

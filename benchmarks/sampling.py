r"""Effective draws of all modes, per second and per evaluation of the density.

    python benchmarks/sampling.py                               # everything, one key each
    python benchmarks/sampling.py --only mixture-16 --keys 3    # some targets
    python benchmarks/sampling.py --table                       # the table of what was measured

The usual effective size is measured on the draws alone: chains that all stay in one mode look
perfect. Here the truth is known, and a sampler is worth as many independent draws as would have
the same error. For a function $f$ of mean $\mu$ and variance $v$ under the density, draws in $G$
groups (chains, or populations of particles) with means $m_g$ and mean $\bar m$ overall count as

$$n_f = \frac{v}{s^2 / G + (\bar m - \mu)^2}, \qquad
  s^2 = \frac{1}{G - 1} \sum_g (m_g - \bar m)^2.$$

The effective draws of all modes are the harmonic mean of $n_f$ over the density's modes (or slices
of equal mass), or over its coordinates within them, whichever is less. A sampler that never leaves
a mode of weight 0.1 is worth less than one draw, however long it runs, and one that misses that
mode fewer than forty. $s^2 / G$ is what independent groups say of their own error; groups that
share a flow may all be wrong together, which the second term does not forgive. $N$ independent
exact draws count as about $N / 2$, for the two terms are then alike.

Every sampler makes two runs in its process with two keys: the first compiles, and is what a user
waits for; the second finds what can be kept of the first's programs. Both count equally for the
effective draws. Seconds are kept by the clock, and as what the cores were busy for: the table shows
the latter, which other work on the machine disturbs less. Evaluations are counted for the whole of
a run, warm-up included. What the samplers are set to stands in `sampling_peers.py`.
"""

import sys
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import cells

RESULTS = Path(__file__).parent / "results" / "sampling.json"

TARGETS = (
    *(f"mixture-{dimension}" for dimension in (2, 16, 64, 128)),
    "funnel",
    "banana",
    "phi4",
    "logistic",
)
NAMES = ("flowebm", "NUTS", "tempered SMC", "flowMC")


def effective_draws(values, target) -> float:
    """What draws are worth at whose functions' values, `(groups, draws, functions)`, these are."""
    import numpy as np

    group_means = np.asarray(values, float).mean(axis=1)
    spread = group_means.var(axis=0, ddof=1) / len(group_means)
    errors = spread + (group_means.mean(axis=0) - target.means) ** 2
    # A chain that left for infinity is worth nothing.
    per_draw = np.nan_to_num(errors / target.variances, nan=np.inf)
    parts = np.split(per_draw, [target.n_modes])
    return float(min(1 / part.mean() for part in parts if part.size))


def measure(target: str, sampler: str, key: str) -> dict:
    """Two runs of a sampler on a target."""
    import warnings

    import jax
    import numpy as np
    import sampling_peers
    import sampling_targets

    warnings.simplefilter("ignore")
    made = sampling_targets.make(target)
    functions = jax.jit(jax.vmap(jax.vmap(made.functions)))
    run = sampling_peers.SAMPLERS[sampler]
    seconds, core_seconds, effective, evaluations, means = [], [], [], [], []
    for repeat in range(2):
        started, core_started = time.perf_counter(), time.process_time()
        drawn = run(jax.random.key(2 * int(key) + repeat), made)
        jax.block_until_ready(drawn.draws)
        seconds.append(time.perf_counter() - started)
        core_seconds.append(time.process_time() - core_started)
        values = np.asarray(functions(drawn.draws))
        effective.append(effective_draws(values, made))
        evaluations.append(drawn.n_evaluations)
        means.append([float(mean) for mean in values.mean(axis=(0, 1))[:8]])
    return {
        "seconds": seconds,
        "core_seconds": core_seconds,
        "effective": effective,
        "evaluations": evaluations,
        "draws": int(np.prod(drawn.draws.shape[:2])),
        "means": means,
        "true_means": [float(mean) for mean in made.means[:8]],
    }


def _rounded(number: float) -> str:
    """Whole from 100 on, two figures below."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def table(results: dict) -> str:
    """A row a target and sampler: medians over runs, and the worst run."""
    lines = [
        "| target | sampler | runs | effective draws: median, worst | a core second, compiling "
        "| a core second, compiled | per 1,000 evaluations | evaluations |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for target in [name for name in TARGETS if name in results]:
        for sampler in [name for name in NAMES if name in results[target]]:
            records = list(results[target][sampler].values())
            effective = [n for record in records for n in record["effective"]]
            evaluations = [n for record in records for n in record["evaluations"]]
            worth = median(effective)
            first, second = (median(r["core_seconds"][i] for r in records) for i in range(2))
            lines.append(
                f"| {target} | {sampler} | {len(effective)} "
                f"| {_rounded(worth)}, {_rounded(min(effective))} "
                f"| {worth / first:.3g} | {worth / second:.3g} "
                f"| {1e3 * worth / median(evaluations):.3g} | {median(evaluations):,.0f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = cells.parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", default=TARGETS, choices=TARGETS)
    parser.add_argument("--samplers", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--keys", type=int, default=1)
    arguments = parser.parse_args()
    samplers = [name for name in NAMES if name in arguments.samplers]
    packages = ["flowebm", "jax", "blackjax", "flowjax"]
    if find_spec("flowMC") is not None:
        packages.append("flowMC")
    elif "flowMC" in samplers and arguments.cell is None and not arguments.table:
        samplers.remove("flowMC")
        print(
            "flowMC is not installed: its cells are left out. pip install '.[bench]'",
            file=sys.stderr,
        )
    wanted = [
        {"target": target, "sampler": sampler, "key": str(key)}
        for key in range(arguments.keys)
        for target in arguments.only
        for sampler in samplers
    ]
    cells.main(arguments, wanted, measure, table, packages=packages)


if __name__ == "__main__":
    main()

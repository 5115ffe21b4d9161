r"""How often 95% intervals for log Z and for the held-out NLL cover the truth.

    python benchmarks/calibration.py                      # everything
    python benchmarks/calibration.py --only rings --methods joint
    python benchmarks/calibration.py --table              # the table of what was measured
    python benchmarks/calibration.py --weights            # importance weights alone, in minutes

Many small fits to sets in two dimensions whose density is known: 1,500 rows, of which 300 choose
the best model, small networks, 100 iterations, so that the models are far from perfect and
their proposals too. What each interval is judged by is computed by quadrature in double precision
(`calibration_truth.py`): a model's $\log Z$, and its cross entropy
$-\mathbb E_{p^*} \log p_\theta$, which is what a held-out NLL estimates.

The intervals are estimate ± 1.96 standard errors:

- *log Z, fit*: what a fit returns (`log_partition_`), 20,000 draws of the proposal.
- *log Z, evaluate*: what `flowebm evaluate` prints, as many other draws.
- *NLL, evaluate*: what it prints of 500 rows that took no part in the fit.
- *log Z, in training* and *NLL, validation*: a fit's last row of metrics (4,096 draws), of the
  averaged model. The validation rows have chosen the model, and chosen when its flow stopped.
- *online log Z* and *online training NLL*: of the model in the middle of a fit (iteration 50) and
  at its end (iteration 100), smoothed over iterations while the model moves. The latter is an
  estimate of the NLL of the training rows.

A run's intervals are not independent of each other, different runs' are.
"""

from pathlib import Path
from statistics import mean, median

import cells

RESULTS = Path(__file__).parent / "results" / "calibration.json"

SETS = ("mixture-2", "rings", "moons", "swirl", "funnel")
METHODS = ("joint", "balanced", "ebflow")

#: Rows of a fit, rows that it is judged by, iterations, and runs of one process.
N_ROWS, N_TEST, STEPS, RUNS = 1_500, 500, 100, 20

#: Intervals, in the table's order, by their names there.
INTERVALS = {
    "log_z_fit": "log Z, fit",
    "log_z_evaluate": "log Z, evaluate",
    "nll_evaluate": "NLL, evaluate",
    "log_z_training": "log Z, in training",
    "nll_validation": "NLL, validation",
    "online_log_z_middle": "online log Z, middle",
    "online_log_z_end": "online log Z, end",
    "online_nll_middle": "online training NLL, middle",
    "online_nll_end": "online training NLL, end",
}


def measure(data: str, method: str, runs: str) -> dict:
    """Fits of one process: the first compiles, the others find its programs."""
    first = int(runs.partition("-")[0])
    return {"fits": [fit(data, method, key) for key in range(first, first + RUNS)]}


def fit(data: str, method: str, key: int) -> dict:
    """One fit: every interval as its estimate, its standard error and the truth."""
    import warnings

    import calibration_truth as truth
    import jax
    import numpy as np

    from flowebm.cli.measure import measure as evaluate
    from flowebm.data import load_dataset
    from flowebm.estimator import FlowEBM
    from flowebm.models.architecture import Architecture
    from flowebm.models.ebflow_architecture import EBFlowArchitecture
    from flowebm.training.balanced import BalancedOptions
    from flowebm.training.driver import Callbacks

    name = data.partition("-")[0]
    # Common random numbers would let fits of different sets hit and miss together.
    seed = 10_000 * (SETS.index(data) * len(METHODS) + METHODS.index(method)) + key
    dim = 2 if name in ("mixture", "funnel") else None
    rows = load_dataset(name, dim=dim, n=N_ROWS + N_TEST, seed=5_000 + seed).values
    rows, test = rows[:N_ROWS], rows[N_ROWS:]
    states = {}

    def remember(stage, state, history):
        if stage == "balanced":
            parts = (state.inner.params, state.inner.average)
            states[history[-1]["iteration"]] = jax.tree.map(np.asarray, parts), history[-1]

    is_flow = method == "ebflow"
    estimator = FlowEBM(
        method,
        max_steps=4 * STEPS if is_flow else STEPS,
        architecture=EBFlowArchitecture(n_blocks=3, conditioner_width=32)
        if is_flow
        else Architecture(width=32, depth=2, flow_layers=3, flow_width=32, flow_depth=1),
        options=None if is_flow else BalancedOptions(batch_size=256, n_chains=256, flow_batch=256),
        validation_fraction=0.2,
        random_state=seed,
        callbacks=Callbacks(save=remember),
    )
    with warnings.catch_warnings():
        # That the rows are few, and what the record says of the weights.
        warnings.simplefilter("ignore")
        estimator.fit(rows)
        measures = evaluate(10**6 + seed, estimator, test)
    saved = estimator.saved_
    quadrature = truth.quadrature(name)
    points, log_det = truth.doubles(saved.preprocessing.transform_and_log_det, quadrature.points)
    log_det, error = quadrature.mean(log_det)
    errors = [error]

    def mean_energy(model) -> float:
        """Under the truth, in standardised units: the model's exact NLL, less log Z."""
        mean, error = quadrature.mean(truth.doubles(model.energy, points))
        errors.append(error)
        return mean

    def log_z(model) -> float:
        value, error = truth.log_partition(model)
        errors.append(error)
        return value

    exact = saved.log_partition if is_flow else log_z(saved.model)
    nll, again = (measures.values[name] for name in ("nll", "log_partition"))
    intervals = {
        "nll_evaluate": (nll["value"], nll["stderr"], mean_energy(saved.model) - log_det + exact)
    }
    record = {"key": key, "intervals": intervals, "warnings": measures.warnings}
    if is_flow:
        return record | {"quadrature_error": max(errors)}
    record |= {"khat": again["khat"], "ess": again["ess"] / again["n"]}
    intervals["log_z_fit"] = saved.log_partition, saved.log_partition_stderr, exact
    intervals["log_z_evaluate"] = again["value"], again["stderr"], exact

    train = training_rows(estimator, rows)
    for when, iteration in (("middle", STEPS // 2), ("end", STEPS)):
        (params, average), row = states[iteration]
        current = with_parameters(saved.model, params)
        exact = log_z(current)
        on_rows = float(truth.doubles(current.energy, train).mean())
        for metric, interval, value in (
            ("online_log_partition", "online_log_z", exact),
            ("train_nll", "online_nll", on_rows + exact),
        ):
            intervals[f"{interval}_{when}"] = row[metric], row[f"{metric}_stderr"], value
    averaged = with_parameters(saved.model, average)
    exact = log_z(averaged)
    intervals["log_z_training"] = row["log_partition"], row["log_partition_stderr"], exact
    intervals["nll_validation"] = row["nll"], row["nll_stderr"], mean_energy(averaged) + exact
    return record | {"quadrature_error": max(errors)}


def training_rows(estimator, rows):
    """The standardised rows that took part in a fit, split off as the estimator does."""
    import jax

    from flowebm.data import split

    key = jax.random.split(jax.random.key(estimator.saved_.metadata["seed"]), 3)[0]
    train = split(key, rows, estimator.validation_fraction).train
    return estimator.saved_.preprocessing.transform_rows(train)


def with_parameters(model, params):
    """The model with other trainable parameters."""
    import equinox as eqx
    import jax

    from flowebm.models.trainable import partition_trainable

    params = jax.tree.map(jax.numpy.asarray, params)
    return eqx.combine(params, partition_trainable(model)[1])


def covered(interval) -> bool:
    """Whether an interval holds the truth."""
    estimate, stderr, exact = interval
    return abs(estimate - exact) < 1.96 * stderr


def share(intervals) -> str:
    """How many of some intervals hold the truth."""
    n = sum(map(covered, intervals))
    return f"{n}/{len(intervals)} ({n / len(intervals):.1%})" if intervals else "–"


def table(results: dict) -> str:
    """The share of intervals with the truth by method, of all methods, and of the worst set."""
    methods = [name for name in METHODS if any(name in results[data] for data in results)]
    fits = {
        (data, method): [fit for part in parts.values() for fit in part["fits"]]
        for data in SETS
        for method, parts in results.get(data, {}).items()
    }

    def found(interval, data, methods):
        return [
            fit["intervals"][interval]
            for (name, method), some in fits.items()
            if name in data and method in methods
            for fit in some
            if interval in fit["intervals"]
        ]

    lines = [
        f"| 95% interval | {' | '.join(methods)} | all | set with the fewest | root mean square of "
        "the error in standard errors | median standard error (nats) |",
        "|---" * (len(methods) + 5) + "|",
    ]
    for interval, title in INTERVALS.items():
        every = found(interval, SETS, METHODS)
        if not every:
            continue
        by_set = {data: found(interval, (data,), METHODS) for data in SETS}
        by_set = {data: some for data, some in by_set.items() if some}
        fewest = min(by_set, key=lambda data: sum(map(covered, by_set[data])) / len(by_set[data]))
        squares = [((estimate - exact) / stderr) ** 2 for estimate, stderr, exact in every]
        by_method = " | ".join(share(found(interval, SETS, (method,))) for method in methods)
        lines.append(
            f"| {title} | {by_method} | {share(every)} | {fewest}: {share(by_set[fewest])} | "
            f"{mean(squares) ** 0.5:.2f} | {median(stderr for _, stderr, _ in every):.4f} |"
        )
    everything = [fit for some in fits.values() for fit in some]
    unsafe = [fit for fit in everything if fit["warnings"]]
    khats = [fit["khat"] for fit in everything if "khat" in fit]
    ess = [fit["ess"] for fit in everything if "ess" in fit]
    error = max(fit["quadrature_error"] for fit in everything)
    lines += [
        "",
        f"{len(everything)} fits. If 95 of 100 intervals hold the truth, the share of N has "
        "a standard error of 0.22 / √N: 2.4 points for 80, 1.1 for 400.",
    ]
    if khats:
        lines[-1] += (
            f" k̂ of the last weights: median {median(khats):.2f}, largest {max(khats):.2f}; "
            f"effective share of draws: median {median(ess):.0%}, least {min(ess):.0%}; "
            f"{len(unsafe)} evaluations warned that their errors are not to be believed."
        )
    lines[-1] += f" Largest error of a quadrature: {error:.1e} nats."
    return "\n".join(lines)


def main() -> None:
    parser = cells.parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--keys", type=int, default=40, help="fits of each set and method")
    parser.add_argument("--weights", action="store_true", help="intervals from weights alone")
    arguments = parser.parse_args()
    if arguments.weights:
        import calibration_weights

        calibration_weights.main()
        return
    wanted = [
        {"data": data, "method": method, "runs": f"{first}-{first + RUNS - 1}"}
        for first in range(0, arguments.keys, RUNS)
        for data in arguments.only
        for method in arguments.methods
    ]
    packages = ("flowebm", "jax", "flowjax", "blackjax")
    cells.main(arguments, wanted, measure, table, packages=packages)


if __name__ == "__main__":
    main()

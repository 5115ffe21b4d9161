"""Balanced training against the truth: weights, KL, calibration of the online NLL, digits.

    python benchmarks/balanced.py                      # everything, five keys each
    python benchmarks/balanced.py --only rings funnel  # some rows
    python benchmarks/balanced.py --table              # the table of what has been measured

Each fit is a process of its own. That of the timed row compiles everything anew; the others
share a compilation cache, and their seconds mean little. Results are kept as they come, and
what is there already is not measured again (unless --again). All models are fitted with the
library's defaults, on 20,000 points of which 2,000 choose the best model. Everything is
measured on the model: log Z from fresh draws of the truth and the flow together, never from
training chains.
"""

import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

import cells

RESULTS = Path(__file__).parent / "results" / "balanced.json"

#: Each row: data set, its dimension if it can be chosen, and what is measured beside.
ROWS = {
    "mixture-2": {"name": "mixture", "dim": 2, "beside": "pcd"},
    "mixture-16": {"name": "mixture", "dim": 16, "beside": "autoregressive"},
    "mixture-32": {"name": "mixture", "dim": 32, "beside": "autoregressive"},
    "rings": {"name": "rings", "dim": None, "beside": None},
    "funnel": {"name": "funnel", "dim": None, "beside": None},
    "digits": {},
}

#: The row whose seconds count: it runs alone, and without a compilation cache.
TIMED = "mixture-2"

#: Draws for KL and for the true NLL of an evaluation.
N_MEASURE = 100_000
N_TRUE_NLL = 20_000

#: The digits' classes and their shares among 6,000 rows.
DIGITS = {0: 0.6, 1: 0.3, 7: 0.1}
N_DIGITS = 6_000


def synthetic(row: dict, key: int) -> dict:
    """One fit of a set whose truth is known."""
    import jax
    import numpy as np
    from flowjax.distributions import Transformed

    from flowebm.data import load_dataset
    from flowebm.estimator import FlowEBM
    from flowebm.evaluation import kl_divergence, total_variation
    from flowebm.training.driver import Callbacks

    dataset = load_dataset(row["name"], dim=row["dim"], seed=1000 + key)
    truth = dataset.target
    evaluations = []

    def remember(stage, state, history):
        if stage == "balanced":
            parts = jax.tree.map(np.asarray, (state.inner.average, state.inner.flow))
            evaluations.append((history[-1], parts))

    estimator = FlowEBM("balanced", random_state=key, callbacks=Callbacks(save=remember))
    started = time.perf_counter()
    estimator.fit(dataset.values)
    seconds = time.perf_counter() - started

    log_z = covering_log_partition(1, estimator.model_, truth, estimator.flow_, N_MEASURE)
    kl = kl_divergence(jax.random.key(2), truth, estimator.model_, n=N_MEASURE, log_partition=log_z)
    last = [r for r in estimator.history_ if r["stage"] == "balanced"][-1]
    result = {
        "seconds": seconds,
        "kl": kl.value,
        "kl_stderr": kl.stderr,
        "log_partition": estimator.log_partition_,
        "log_partition_stderr": estimator.log_partition_stderr_,
        "log_partition_true": log_z.value,
        "khat": estimator.result_.log_partition.khat,
        "ess": last["ess"],
        "global_acceptance": last["global_acceptance"],
        "local_acceptance": last["local_acceptance"],
    }
    if truth.mode_weights is not None:
        weights = covering_mode_weights(3, estimator.model_, truth, estimator.flow_)
        result["weights"] = [float(w) for w in weights]
        result["tv"] = float(total_variation(weights, truth.mode_weights))
        modes = np.asarray(jax.vmap(truth.mode)(dataset.values))
        shares = np.bincount(modes, minlength=len(weights)) / len(modes)
        result["tv_data"] = float(total_variation(shares, truth.mode_weights))
    preprocessing = estimator.saved_.preprocessing
    result |= calibration(evaluations, estimator.result_, Transformed(truth, preprocessing))
    if row["beside"] == "pcd":
        result["pcd"] = persistent(estimator, dataset, seconds, key)
    if row["beside"] == "autoregressive":
        result["autoregressive"] = autoregressive(estimator, dataset, key)
    return result


def covering_log_partition(key, model, truth, flow, n):
    """log Z from draws that cover both the truth and the model: half of each."""
    import jax

    from flowebm.evaluation import log_partition
    from flowebm.models.defensive import DefensiveMixture

    return log_partition(jax.random.key(key), model, DefensiveMixture(flow, truth, 0.5), n=n)


def covering_mode_weights(key, model, truth, flow):
    import jax

    from flowebm.evaluation import mode_weights
    from flowebm.models.defensive import DefensiveMixture

    both = DefensiveMixture(flow, truth, 0.5)
    n_modes = len(truth.mode_weights)
    estimate = mode_weights(jax.random.key(key), model, both, truth.mode, n_modes, n=N_MEASURE)
    return estimate.weights


def calibration(evaluations, result, truth) -> dict:
    """How many of the run's 95% intervals for the NLL contain the model's true NLL."""
    import equinox as eqx
    import jax

    from flowebm.evaluation import held_out_nll
    from flowebm.models.trainable import partition_trainable

    statics = [partition_trainable(tree)[1] for tree in (result.model, result.flow)]
    points = truth.sample(jax.random.key(4), (N_TRUE_NLL,))
    inside = []
    for metrics, parts in evaluations:
        model, flow = (eqx.combine(p, s) for p, s in zip(parts, statics, strict=True))
        log_z = covering_log_partition(5, model, truth, flow, 10_000)
        true_nll = held_out_nll(model, points, log_z).nll
        inside.append(bool(abs(metrics["nll"] - true_nll) < 1.96 * metrics["nll_stderr"]))
    return {"intervals": len(inside), "intervals_with_the_truth": sum(inside)}


def persistent(estimator, dataset, seconds, key) -> dict:
    """Persistent contrastive divergence for the same seconds, measured by quadrature."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from flowebm.evaluation import total_variation
    from flowebm.models.architecture import Architecture, build
    from flowebm.models.preprocessed import PreprocessedModel
    from flowebm.training.fit_balanced import fit_persistent

    truth, preprocessing = dataset.target, estimator.saved_.preprocessing
    rows = jnp.asarray(preprocessing.transform_rows(dataset.values), float)
    components = build(Architecture(), (2,), data=rows, key=jax.random.key(key))
    started = time.perf_counter()
    result = fit_persistent(
        jax.random.key(key), components.model, rows, max_steps=10**6, time_budget=seconds
    )
    elapsed = time.perf_counter() - started
    model = PreprocessedModel(result.model, preprocessing)
    axis = np.linspace(-16, 16, 1201)
    grid = jnp.asarray(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2), float)

    def batched(function, x):
        return np.asarray(jax.lax.map(function, x, batch_size=50_000), np.float64)

    log_density = batched(model.unnormalized_log_prob, grid)
    cell = (axis[1] - axis[0]) ** 2
    log_z = np.logaddexp.reduce(log_density) + np.log(cell)
    mass = np.exp(log_density - log_z) * cell
    weights = np.bincount(batched(truth.mode, grid).astype(int), mass, minlength=4)
    draws = truth.sample(jax.random.key(6), (N_MEASURE,))
    energies = -batched(model.unnormalized_log_prob, draws)
    kl = float(np.mean(np.asarray(truth.log_prob(draws), np.float64) + energies) + log_z)
    chains = preprocessing.inverse_rows(np.asarray(result.chains, np.float64))
    on_chains = np.bincount(np.asarray(jax.vmap(truth.mode)(chains)), minlength=4) / len(chains)
    return {
        "seconds": elapsed,
        "iterations": result.history[-1]["iteration"],
        "kl": kl,
        "weights": [float(w) for w in weights],
        "tv": float(total_variation(weights, truth.mode_weights)),
        "weights_of_the_chains": [float(w) for w in on_chains],
    }


def autoregressive(estimator, dataset, key) -> dict:
    """An autoregressive spline flow fitted by maximum likelihood, stopped on validation data."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from flowebm.data import split
    from flowebm.models.flows import make_flow
    from flowebm.training.flow import fit_flow

    truth, preprocessing = dataset.target, estimator.saved_.preprocessing
    parts = split(key, dataset.values, 0.1)
    train, validation = (
        jnp.asarray(preprocessing.transform_rows(part), float)
        for part in (parts.train, parts.validation)
    )
    flow = make_flow("spline-autoregressive", train.shape[1:], key=jax.random.key(key))
    started = time.perf_counter()
    flow, _ = fit_flow(jax.random.key(key + 100), flow, train, validation)
    elapsed = time.perf_counter() - started
    draws = truth.sample(jax.random.key(7), (N_MEASURE // 2,))
    rows = preprocessing.transform_rows(np.asarray(draws, np.float64))
    log_q = jax.lax.map(flow.log_prob, jnp.asarray(rows, float), batch_size=10_000)
    _, log_det = preprocessing.transform_and_log_det(draws[0])
    return {
        "seconds": elapsed,
        "kl": float(jnp.mean(truth.log_prob(draws) - log_q) - log_det),
    }


def digits(key: int) -> dict:
    """Digits at unequal shares through the command line, from a .csv file."""
    import numpy as np
    from sklearn.model_selection import cross_val_score
    from sklearn.svm import SVC

    from flowebm.data import tabular

    table = tabular.digits()
    rng = np.random.default_rng(key)
    rows = np.concatenate(
        [
            table.values[rng.choice(np.flatnonzero(table.labels == digit), round(share * N_DIGITS))]
            for digit, share in DIGITS.items()
        ]
    )
    flowebm = Path(sys.executable).with_name("flowebm")
    with tempfile.TemporaryDirectory() as folder:
        csv, run, samples = (Path(folder) / name for name in ("digits.csv", "run", "draws.npy"))
        header = ",".join(f"pixel{i}" for i in range(64))
        np.savetxt(csv, rng.permutation(rows), "%d", ",", header=header, comments="")
        started = time.perf_counter()
        train = [
            flowebm,
            "train",
            "--data",
            csv,
            "--out",
            run,
            "--dequantise",
            "--method",
            "balanced",
        ]
        train += ["--point-shape", "1", "8", "8", "--tilt", "conv", "--width", "32"]
        train += ["--base", "flow", "--learning-rate", "0.001", "--flow-interval", "2"]
        train += ["--n-chains", "512", "--batch-size", "512", "--flow-batch", "512"]
        train += ["--max-steps", "300", "--seed", str(key), "--quiet", "--json"]
        subprocess.run(list(map(str, train)), check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        subprocess.run(
            list(map(str, [flowebm, "sample", run, "-n", 10_000, "-o", samples])), check=True
        )
        draws = np.load(samples).reshape(10_000, 64)
        page = next((run / "plots").glob("sample_images*"), None)
        if page is not None and key == 0:
            (RESULTS.parent / "digits.png").write_bytes(page.read_bytes())
    # The classifier sees what the model was fitted to: pixels made continuous.
    noisy = table.values + rng.random(table.values.shape)
    classifier = SVC(C=10.0)
    accuracy = float(cross_val_score(classifier, noisy, table.labels, cv=5).mean())
    predicted = classifier.fit(noisy, table.labels).predict(draws)
    shares = {digit: float(np.mean(predicted == digit)) for digit in range(10)}
    worst = max(abs(shares[digit] - share) for digit, share in DIGITS.items())
    return {
        "seconds": seconds,
        "shares": shares,
        "worst_share_error": worst,
        "classifier_accuracy": accuracy,
    }


def measure(row: str, key: str) -> dict:
    """One fit."""
    warnings.simplefilter("default")
    return digits(int(key)) if row == "digits" else synthetic(ROWS[row], int(key))


def environment(cell) -> dict[str, str]:
    """The variables of a cell's process: no compilation cache where the seconds count."""
    name = "JAX_COMPILATION_CACHE_DIR"
    variables = {k: v for k, v in os.environ.items() if k != name}
    if cell["row"] == TIMED:
        return variables
    return variables | {name: str(Path(tempfile.gettempdir()) / "flowebm-benchmark-cache")}


def table(results: dict) -> str:
    """Median and worst over the keys, a row a data set, as markdown."""
    lines = [
        "| data | keys | TV of weights: median, worst | KL: median, worst (nats) | "
        "seconds: median, worst | intervals with the truth | beside it |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, fits in results.items():
        fits = [fits[key] for key in sorted(fits)]
        if row == "digits":
            continue

        def both(name, form, fits=fits):
            values = [fit[name] for fit in fits if name in fit]
            return f"{median(values):{form}}, {max(values):{form}}" if values else "–"

        inside = sum(fit["intervals_with_the_truth"] for fit in fits)
        intervals = sum(fit["intervals"] for fit in fits)
        beside = "–"
        if "pcd" in fits[0]:
            pcd = [fit["pcd"] for fit in fits]
            beside = f"PCD: TV {both('tv', '.3f', pcd)}; KL {both('kl', '.3g', pcd)}"
        if "autoregressive" in fits[0]:
            flows = [fit["autoregressive"] for fit in fits]
            beside = f"autoregressive spline flow: KL {both('kl', '.3f', flows)}"
        seconds = both("seconds", ".0f") if row == TIMED else "–"
        lines.append(
            f"| {row} | {len(fits)} | {both('tv', '.4f')} | {both('kl', '.4f')} | "
            f"{seconds} | {inside}/{intervals} ({inside / intervals:.0%}) | "
            f"{beside} |"
        )
    if "digits" in results:
        fits = results["digits"].values()
        errors = [fit["worst_share_error"] for fit in fits]
        shares = "; ".join(
            f"{digit}: {median(fit['shares'][str(digit)] for fit in fits):.3f}" for digit in DIGITS
        )
        lines += [
            "",
            f"Digits at 0: .6, 1: .3, 7: .1 ({len(errors)} keys): median shares {shares}; "
            f"largest error of a share: median {median(errors):.3f}, worst {max(errors):.3f}.",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = cells.parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--keys", type=int, default=5)
    arguments = parser.parse_args()
    wanted = [
        {"row": row, "key": str(key)} for row in arguments.only for key in range(arguments.keys)
    ]
    packages = ("flowebm", "jax", "flowjax", "blackjax")
    cells.main(arguments, wanted, measure, table, packages=packages, environment=environment)


if __name__ == "__main__":
    main()

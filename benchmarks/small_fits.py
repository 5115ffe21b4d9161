r"""Fifty small fits in two and three coordinates: does the stated density integrate to one?

    python benchmarks/small_fits.py                    # everything, a few seconds a fit
    python benchmarks/small_fits.py --only outliers    # one kind
    python benchmarks/small_fits.py --table            # the table of what was measured

Rare clusters, outliers, background noise, heavy tails and bent populations, of 300 to 10,000 rows,
fitted by `FlowEBM` with its defaults. The integral of the density that `score_samples` states is
taken by the trapezoidal rule, in coordinates $u$ with $x = m + s \sinh u$, which reach hundreds of
standard deviations; the same rule on every second point says how far it is to be trusted. As the
density contains the fit's own estimate of $\log Z$, the integral's logarithm is that estimate's
error. What the integral has beyond one and the stated errors is mass that no draw found: the fit's
bound on it (`hidden_mass`) must not be less.
"""

import time
from itertools import product
from pathlib import Path

import cells
import numpy as np

RESULTS = Path(__file__).parent / "results" / "small_fits.json"

#: Rows of the tables, and the share of the rare in each.
ROWS = {300: 0.02, 1000: 0.01, 2000: 0.005, 5000: 0.002, 10_000: 0.001}

#: Half the width of the grid of $u$, and its points along each axis, by the number of coordinates.
GRIDS = {2: (7.0, 701), 3: (6.0, 97)}

#: What the rule itself may be off by, where splines have kinks and tails go on beyond the grid.
OF_THE_RULE = 1e-3


def rare_cluster(rng, n, d, share):
    """A normal with a narrow cluster of few, seven standard deviations away."""
    x = rng.normal(size=(n, d))
    rare = rng.random(n) < share
    x[rare] = 0.3 * x[rare] + 7 / d**0.5
    return x


def outliers(rng, n, d, share):
    """A correlated normal, a few rows of which come from one eight times as wide."""
    x = rng.normal(size=(n, d)) @ (np.eye(d) + 0.4)
    return np.where(rng.random((n, 1)) < max(share, 0.005), 8 * x, x)


def background(rng, n, d, share):
    """Two clusters in uniform noise."""
    x = 0.5 * rng.normal(size=(n, d)) + np.where(rng.random((n, 1)) < 0.7, -1.5, 1.5)
    return np.where(rng.random((n, 1)) < 0.05, rng.uniform(-8, 8, (n, d)), x)


def heavy_tails(rng, n, d, share):
    """Student's t of two and a half degrees of freedom, skewed in its first coordinate."""
    x = rng.normal(size=(n, d)) * (2.5 / rng.chisquare(2.5, (n, 1))) ** 0.5
    x[:, 0] = np.where(x[:, 0] > 0, 2 * x[:, 0], x[:, 0])
    return x


def bent(rng, n, d, share):
    """Two bananas, one of few."""
    x = rng.normal(size=(n, d))
    x[:, 1] = 0.3 * x[:, 1] + 0.5 * x[:, 0] ** 2
    rare = rng.random(n) < max(share, 0.01)
    x[rare] = 4 - 0.5 * x[rare]
    return x


KINDS = {
    "rare cluster": rare_cluster,
    "outliers": outliers,
    "background": background,
    "heavy tails": heavy_tails,
    "bent": bent,
}


def log_integral(log_density, center, scale) -> tuple[float, float]:
    """The logarithm of a density's integral, and how far every second point's is from it."""
    reach, points = GRIDS[len(center)]
    u = np.linspace(-reach, reach, points)
    h = u[1] - u[0]
    # From the first coordinate to the last, a slice at a time.
    sums = []
    rest = np.stack(np.meshgrid(*[u] * (len(center) - 1), indexing="ij"), -1)
    rest = rest.reshape(-1, len(center) - 1)
    coarse = (np.abs(np.rint((rest + reach) / h)) % 2 == 0).all(axis=1)
    per_call = max(1, 500_000 // len(rest))
    for some in np.array_split(u, max(1, points // per_call)):
        at = np.concatenate([np.repeat(some, len(rest))[:, None], np.tile(rest, (len(some), 1))], 1)
        value = np.exp(log_density(center + scale * np.sinh(at)) + np.log(np.cosh(at)).sum(axis=1))
        value = value.reshape(len(some), len(rest))
        sums.append(np.stack([value.sum(axis=1), value[:, coarse].sum(axis=1)], axis=1))
    fine, half = np.concatenate(sums).T
    volume = np.prod(scale) * h ** len(center)
    whole = np.log(fine.sum() * volume)
    return float(whole), float(abs(whole - np.log(half[::2].sum() * volume * 2 ** len(center))))


def measure(kind: str, rows: str, coordinates: str, key: str) -> dict:
    """One fit, and the integral of its density."""
    from flowebm import FlowEBM

    n, d = int(rows), int(coordinates)
    rng = np.random.default_rng([int(key), n, d, list(KINDS).index(kind)])
    x = KINDS[kind](rng, n, d, ROWS[n])
    test = KINDS[kind](rng, 20_000, d, ROWS[n])
    started = time.perf_counter()
    model = FlowEBM(random_state=int(key)).fit(x)
    seconds = time.perf_counter() - started
    center = np.median(x, axis=0)
    scale = (np.quantile(x, 0.84, axis=0) - np.quantile(x, 0.16, axis=0)) / 2
    integral, error = log_integral(model.score_samples, center, scale)
    result = model.result_
    log_z = result.log_partition
    return {
        "log_integral": integral,
        "quadrature_error": error,
        "log_z_stderr": float(log_z.stderr) if log_z.n else 0.0,
        "hidden_mass": float(result.hidden_mass or 0.0),
        "bound": result.bound,
        "nll": -float(model.score_samples(test).mean()),
        "fit_seconds": seconds,
        "stack": result.components,
        "warnings": list(result.warnings),
    }


def verdicts(record: dict) -> tuple[bool, bool, bool]:
    """Whether an integral is one within 3%, log Z within four errors, and the bound holds."""
    error = record["quadrature_error"] + OF_THE_RULE
    z = abs(record["log_integral"]) <= 4 * record["log_z_stderr"] + error
    beyond = np.expm1(record["log_integral"] - 4 * record["log_z_stderr"] - error)
    return (
        abs(np.expm1(record["log_integral"])) <= 0.03,
        z,
        beyond <= record["hidden_mass"],
    )


def table(results: dict) -> str:
    """A row a kind, as markdown."""
    lines = [
        "| kind | fits | integral within 3% | log Z within four errors | bound holds | "
        "largest error of the integral | errors of log Z, median | tilted | seconds, median |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    everything = []
    for kind in (name for name in KINDS if name in results):
        records = [r for by in results[kind].values() for b in by.values() for r in b.values()]
        everything += records
        lines.append(_row(kind, records))
    return "\n".join([*lines, _row("all", everything)]) if everything else lines[0]


def _row(name: str, records: list[dict]) -> str:
    held = np.array([verdicts(record) for record in records]).sum(axis=0)
    worst = max(abs(np.expm1(record["log_integral"])) for record in records)
    return (
        f"| {name} | {len(records)} | {held[0]} | {held[1]} | {held[2]} | {worst:.4f} | "
        f"{np.median([record['log_z_stderr'] for record in records]):.4f} | "
        f"{sum(record['bound'] is not None for record in records)} | "
        f"{np.median([record['fit_seconds'] for record in records]):.1f} |"
    )


def main() -> None:
    parser = cells.parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--keys", type=int, default=1)
    arguments = parser.parse_args()
    wanted = [
        {"kind": kind, "rows": str(n), "coordinates": str(d), "key": str(key)}
        for key, kind, d, n in product(range(arguments.keys), arguments.only, GRIDS, ROWS)
    ]
    cells.main(arguments, wanted, measure, table, packages=("flowebm", "jax"))


if __name__ == "__main__":
    main()

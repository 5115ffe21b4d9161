r"""Densities against the truth at equal seconds, beside what users would pick instead.

    python benchmarks/density.py                               # everything, three keys
    python benchmarks/density.py --only mixture-128 rings      # some sets
    python benchmarks/density.py --methods joint "zuko NSF"    # some methods
    python benchmarks/density.py --table                       # the table of what was measured

20,000 points, of which 2,000 choose and stop; 30 seconds a fit in two dimensions and 60 above,
compilation included. All methods are given the same standardised points (heavy tails bent, as
`Standardise` does it), and densities are measured in the data's units. How each is set up stands in
`density_methods.py`, and the sets that are not the library's own in `density_targets.py`.

KL is $\mathbb E_{p^*}[\log p^* - \log p]$ on fresh points. Where a method knows its density up to a
constant only, that constant is estimated by importance sampling from equal parts of the truth and
of its own flow, which together cover the model; it is not the method's own estimate. Weights of
modes come from draws of the model, or from those same importance weights. The Fisher divergence is
$\mathbb E_{p^*} \|\nabla \log p^* - \nabla \log p\|^2$ in standardised units.
"""

import sys
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import cells

RESULTS = Path(__file__).parent / "results" / "density.json"

SETS = (
    *(f"mixture-{dimension}" for dimension in (2, 16, 32, 64, 128)),
    "rings",
    "moons",
    "sine",
    "swirl",
    "checkerboard",
    "funnel",
    "bananas",
    "unequal",
    "helix",
    "copula",
)
NAMES = (
    "joint",
    "balanced",
    "ebflow",
    "flowjax coupling",
    "flowjax autoregressive",
    "zuko NSF",
    "GaussianMixture",
    "KernelDensity",
    "torchebm PCD",
    "ebmkit PCD",
)

#: Modules of the extra `bench`, their packages, and the methods that are left out without them.
PEERS = (
    ("zuko", "zuko", "zuko NSF"),
    ("torchebm", "torchebm", "torchebm PCD"),
    ("ebm", "ebmkit", "ebmkit PCD"),
)

#: Fresh points for KL, and for the Fisher divergence.
N_FRESH, N_FISHER = 50_000, 2_000


def measure(data: str, method: str, key: str) -> dict:
    """One fit and its measures."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from density_methods import METHODS
    from density_targets import TARGETS
    from scipy.special import logsumexp

    from flowebm.data import Standardise, load_dataset

    name, _, dim = data.partition("-")
    if name in TARGETS:
        truth = TARGETS[name]()
        values = np.asarray(truth.sample(jax.random.key(2000 + int(key)), (20_000,)), float)
    else:
        dataset = load_dataset(name, dim=int(dim) if dim else None, seed=2000 + int(key))
        truth, values = dataset.target, dataset.values
    train, validation = values[:18_000], values[18_000:]
    scaling = Standardise.fit(train, arcsinh_tails=True)
    dimension = values.shape[1]
    seconds = 30.0 if dimension == 2 else 60.0
    started = time.perf_counter()
    fitted = METHODS[method](
        np.asarray(scaling.transform_rows(train)),
        np.asarray(scaling.transform_rows(validation)),
        seconds,
        int(key),
    )
    spent = time.perf_counter() - started

    @jax.jit
    def true_density(rows):
        """log p* of standardised rows, in standardised units, its gradient, and the mode."""

        def log_density(z):
            x, log_det = scaling.inverse_and_log_det(z)
            return truth.log_prob(x) + log_det

        many = jax.lax.map(jax.value_and_grad(log_density), rows, batch_size=5000)
        return many

    def fresh(seed, n):
        draws = np.asarray(truth.sample(jax.random.key(seed), (n,)), np.float64)
        return np.asarray(scaling.transform_rows(draws), np.float64)

    def modes(rows):
        return np.asarray(jax.vmap(lambda z: truth.mode(scaling.inverse(z)))(jnp.asarray(rows)))

    points = fresh(10**6 + int(key), N_FRESH)
    at_points = np.asarray(true_density(jnp.asarray(points))[0], np.float64)
    log_z, khat = 0.0, None
    has_modes = truth.mode_weights is not None
    shares = None
    if fitted.is_energy:
        from flowebm.evaluation import pareto_khat

        cover = np.concatenate([fresh(2 * 10**6, N_FRESH // 2), fitted.sample(3, N_FRESH // 2)])
        log_true = np.asarray(true_density(jnp.asarray(cover))[0], np.float64)
        log_mix = np.logaddexp(log_true, fitted.cover(cover)) - np.log(2)
        log_weights = fitted.log_density(cover) - log_mix
        log_z = logsumexp(log_weights) - np.log(len(cover))
        khat = float(pareto_khat(jnp.asarray(log_weights)))
        if has_modes:
            weights = np.exp(log_weights - logsumexp(log_weights))
            shares = np.bincount(modes(cover), weights, len(truth.mode_weights))
    elif has_modes:
        draws = fitted.sample(3, fitted.n_shares)
        shares = np.bincount(modes(draws), None, len(truth.mode_weights))
        shares = shares / shares.sum()
    gaps = at_points - (fitted.log_density(points) - log_z)
    few = points[:N_FISHER]
    difference = np.asarray(true_density(jnp.asarray(few))[1], np.float64) - fitted.score(few)
    return {
        "kl": float(gaps.mean()),
        "kl_stderr": float(gaps.std() / np.sqrt(len(gaps))),
        "total_variation": None
        if shares is None
        else float(0.5 * np.abs(shares - np.asarray(truth.mode_weights)).sum()),
        "fisher": float((difference**2).sum(axis=1).mean()),
        "fit_seconds": spent,
        "measuring_khat": khat,
        **fitted.notes,
    }


def table(results: dict) -> str:
    """A row a set and method: median and worst over the keys, as markdown."""
    lines = [
        "| data | method | keys | KL: median, worst (nats) | weights, TV: median, worst | "
        "Fisher: median | seconds: median | peak memory (GiB) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for data in (name for name in SETS if name in results):
        best = min(median(c["kl"] for c in keys.values()) for keys in results[data].values())
        for method in (name for name in NAMES if name in results[data]):
            keys = list(results[data][method].values())
            kl = [cell["kl"] for cell in keys]
            first = "**" if median(kl) == best else ""
            tv = [c["total_variation"] for c in keys if c["total_variation"] is not None]
            weights = f"{median(tv):.4f}, {max(tv):.4f}" if tv else "–"
            memory = max(c["run"]["peak_memory_bytes"] for c in keys) / 2**30
            lines.append(
                f"| {data} | {method} | {len(keys)} | {first}{median(kl):.4f}{first}, "
                f"{max(kl):.4f} | {weights} | {median(c['fisher'] for c in keys):.3g} | "
                f"{median(c['fit_seconds'] for c in keys):.0f} | {memory:.1f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = cells.parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--keys", type=int, default=3)
    arguments = parser.parse_args()
    methods = arguments.methods
    packages = ["flowebm", "jax", "flowjax", "scikit-learn"]
    for module, package, method in PEERS:
        if find_spec(module) is not None:
            packages.append(package)
        elif method in methods:
            methods = [name for name in methods if name != method]
            print(
                f"{package} is not installed (pip install 'flowebm[bench]'): left out.",
                file=sys.stderr,
            )
    if find_spec("torch") is not None:
        packages.append("torch")
    wanted = [
        {"data": data, "method": method, "key": str(key)}
        for key in range(arguments.keys)
        for data in arguments.only
        for method in methods
    ]
    cells.main(arguments, wanted, measure, table, packages=packages)


if __name__ == "__main__":
    main()

"""EBFlows on planes of known density: divergences of every objective at equal iterations.

    python benchmarks/ebflow_2d.py                            # everything
    python benchmarks/ebflow_2d.py --only sine --models mixture --objectives ml dsm
    python benchmarks/ebflow_2d.py --table                    # the table of what has been measured

Two EBFlows, both with a standard normal as the only base density, in the likelihood and in the
energy: `affine`, the published ten blocks of full linear layer, affine coupling and act-norm; and
`mixture`, four blocks with couplings by logistic mixtures. 50,000 training points, batches of
2,048, 1,000 iterations with a cosine decay; the model that is kept has the best NLL on 5,000
further points. All in standardised coordinates: divergences of densities do not change with them,
Fisher divergences and noise levels are in units of standard deviations.

Score matching asks for a density that is differentiable and vanishes at the edge of its support.
These three are not: sine and checkerboard jump, and the score of the swirl has no second moment.
There, by theory, `ssm` and `fdssm` on the points themselves are unbounded below, and the Fisher
divergence to the truth is infinite for the models that have the right edges, however it comes
out on so many draws. So score matching is measured twice: on the points, and with normal noise
of 0.05 on them (`noised-`), where it is well-posed and learns the truth convolved with that noise,
as `dsm` does. For these three, divergences are given to that exactly smoothed truth as well, and
`floor` is how far it is itself from the truth: no model that learns it exactly can do better.

Each fit is a process of its own; seconds are of the fit with its compilation, beside whatever the
machine does, and comparable within one run alone. Results are kept as they come, and what is there
already is not measured again (unless --again).
"""

import os
import tempfile
from pathlib import Path
from statistics import median

import cells

RESULTS = Path(__file__).parent / "results" / "ebflow_2d.json"

SETS = ("sine", "swirl", "checkerboard")
OBJECTIVES = ("ml", "sml", "ssm", "fdssm", "dsm", "noised-ssm", "noised-fdssm")

#: Builder options of each model, and its learning rate.
MODELS = {
    "mixture": (
        {
            "n_blocks": 4,
            "transformer": "logistic-mixture",
            "mixing": "reversal",
            "input_scale": 8.0,
        },
        1e-2,
    ),
    "affine": ({}, 5e-3),
}

N_TRAIN = 50_000
N_VALIDATION = 5_000
N_MEASURE = 100_000
BATCH_SIZE = 2_048
MAX_STEPS = 1_000

#: Of the noise under score matching, and length of finite differences, in standard deviations.
SIGMA = 0.05
STEP = 0.05

#: The grid of the smoothed truth: half-width and cells along an axis; ten cells are one sigma.
HALF_WIDTH = 4.0
N_CELLS = 1_600


class SmoothedTruth:
    """The truth convolved with a normal of standard deviation `SIGMA`, on a grid."""

    def __init__(self, truth):
        import jax
        import jax.numpy as jnp
        import numpy as np
        from scipy.ndimage import gaussian_filter

        self.cell = 2 * HALF_WIDTH / N_CELLS
        centres = (np.arange(N_CELLS) + 0.5) * self.cell - HALF_WIDTH
        grid = np.stack(np.meshgrid(centres, centres, indexing="ij"), axis=-1).reshape(-1, 2)
        density = np.exp(
            np.asarray(jax.lax.map(truth.log_prob, jnp.asarray(grid, float), batch_size=40_000))
        ).astype(np.float64)
        density = density.reshape(N_CELLS, N_CELLS)
        density /= density.sum() * self.cell**2

        def filtered(order):
            width = SIGMA / self.cell
            return gaussian_filter(density, width, order, mode="constant", truncate=8)

        smoothed = np.maximum(filtered(0), 1e-300)
        self.log_density = np.log(smoothed)
        self.scores = [filtered(order) / self.cell / smoothed for order in ((1, 0), (0, 1))]

    def _interpolated(self, values, points):
        from scipy.ndimage import map_coordinates

        return map_coordinates(values, (points.T + HALF_WIDTH) / self.cell - 0.5, order=1)

    def log_prob(self, points):
        return self._interpolated(self.log_density, points)

    def score(self, points):
        import numpy as np

        return np.stack([self._interpolated(s, points) for s in self.scores], axis=-1)


def objective_of(name: str):
    """The objective, with noise on its points or without."""
    import jax

    from flowebm.objectives import dsm, fdssm, ml, sml, ssm

    objectives = {
        "ml": ml,
        "sml": sml,
        "ssm": ssm,
        "fdssm": lambda: fdssm(STEP),
        "dsm": lambda: dsm(SIGMA),
    }
    objective = objectives[name.removeprefix("noised-")]()
    if not name.startswith("noised-"):
        return objective

    def noised(model, x, key):
        noise_key, key = jax.random.split(key)
        return objective(model, x + SIGMA * jax.random.normal(noise_key, x.shape), key)

    return noised


def measure(dataset: str, model: str, objective: str, key: str) -> dict:
    """One fit, and how far it is from the truth."""
    import time

    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flowjax.distributions import Transformed

    from flowebm.data import Standardise, load_dataset
    from flowebm.evaluation import fisher_divergence, kl_divergence
    from flowebm.models import coupling_ebflow
    from flowebm.training import EBFlowOptions, TrainingDiverged, fit_ebflow

    data = load_dataset(dataset, n=N_TRAIN + N_VALIDATION, seed=1000 + int(key))
    standardise = Standardise.fit(data.values[:N_TRAIN])
    rows = jnp.asarray(standardise.transform_rows(data.values), float)
    truth = Transformed(data.target, standardise)
    builder, learning_rate = MODELS[model]

    started = time.perf_counter()
    try:
        result = fit_ebflow(
            jax.random.key(int(key)),
            coupling_ebflow(jax.random.key(100 + int(key)), **builder),
            rows[:N_TRAIN],
            validation=rows[N_TRAIN:],
            objective=objective_of(objective),
            options=EBFlowOptions(
                learning_rate=learning_rate, batch_size=BATCH_SIZE, average_decay=0.995
            ),
            max_steps=MAX_STEPS,
        )
    except TrainingDiverged as failure:
        return {"failed": str(failure)}
    seconds = time.perf_counter() - started

    fitted, log_z = result.model, result.log_partition.value
    sizes = {"n": N_MEASURE, "batch_size": 5_000}
    kl = kl_divergence(jax.random.key(2), truth, fitted, log_partition=log_z, **sizes)
    fisher = fisher_divergence(jax.random.key(3), truth, fitted, **sizes)
    nlls = [row["nll"] for row in result.history]
    measured = {
        "seconds": seconds,
        "kl": kl.value,
        "kl_stderr": kl.stderr,
        "fisher": fisher.value,
        "fisher_stderr": fisher.stderr,
        "kept_iteration": result.history[int(np.nanargmin(nlls))]["iteration"],
        "nll_kept": min(nlls),
        "nll_last": nlls[-1],
        "nll": nlls,
    }
    if objective != "dsm" and not objective.startswith("noised-"):
        return measured

    smoothed = SmoothedTruth(truth)
    clean = truth.sample(jax.random.key(4), (N_MEASURE,))
    noisy = clean + SIGMA * jax.random.normal(jax.random.key(5), clean.shape)

    @eqx.filter_jit
    def energy_and_gradient(model, x):
        return jax.lax.map(jax.value_and_grad(model.energy), x, batch_size=5_000)

    energy, gradient = (np.asarray(a, np.float64) for a in energy_and_gradient(fitted, noisy))
    clean, noisy = np.asarray(clean, np.float64), np.asarray(noisy, np.float64)
    log_ratio = smoothed.log_prob(noisy) + energy + log_z
    gaps = np.sum((smoothed.score(noisy) + gradient) ** 2, axis=1)
    floor = np.asarray(truth.log_prob(jnp.asarray(clean, float))) - smoothed.log_prob(clean)
    return measured | {
        "kl_smoothed": float(log_ratio.mean()),
        "kl_smoothed_stderr": float(log_ratio.std() / N_MEASURE**0.5),
        "fisher_smoothed": float(gaps.mean()),
        "fisher_smoothed_stderr": float(gaps.std() / N_MEASURE**0.5),
        "floor": float(floor.mean()),
    }


def environment(cell) -> dict[str, str]:
    """The variables of a cell's process."""
    return os.environ | {
        # The matrices are 2×2: more threads only wait for one another, ever longer beside others.
        "OPENBLAS_NUM_THREADS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(Path(tempfile.gettempdir()) / "flowebm-benchmark-cache"),
    }


def place(cell) -> tuple[str, str]:
    """Where a cell's record lies: its names but the key make one."""
    return f"{cell['dataset']} {cell['model']} {cell['objective']}", cell["key"]


def table(results: dict) -> str:
    """Medians over the keys, a row a set, model and objective, as markdown."""
    lines = [
        "| data | model | objective | keys | KL to the truth | Fisher to the truth | "
        "KL, Fisher to the smoothed truth | floor | kept at | last NLL - best | seconds |",
        "|---" * 11 + "|",
    ]
    for dataset in SETS:
        for model in MODELS:
            for objective in OBJECTIVES:
                fits = list(results.get(f"{dataset} {model} {objective}", {}).values())
                if not fits:
                    continue
                failed = sum("failed" in fit for fit in fits)
                fits = [fit for fit in fits if "failed" not in fit]
                if not fits:
                    rest = " | –" * 6
                    lines.append(
                        f"| {dataset} | {model} | {objective} | {failed} | diverged{rest} |"
                    )
                    continue

                def middle(name, form, fits=fits):
                    values = [c[name] for c in fits if name in c]
                    return f"{median(values):{form}}" if values else "–"

                def with_error(name, form, middle=middle):
                    return f"{middle(name, form)} ± {middle(name + '_stderr', form)}"

                smoothed = "–"
                if "kl_smoothed" in fits[0]:
                    smoothed = (
                        f"{with_error('kl_smoothed', '.4f')}, {middle('fisher_smoothed', '.3g')}"
                    )
                rise = median(c["nll_last"] - c["nll_kept"] for c in fits)
                lines.append(
                    f"| {dataset} | {model} | {objective} | {len(fits)} | "
                    f"{with_error('kl', '.4f')} | {with_error('fisher', '.3g')} | "
                    f"{smoothed} | {middle('floor', '.4f')} | {middle('kept_iteration', '.0f')} | "
                    f"{rise:.3f} | {middle('seconds', '.0f')} |"
                )
    return "\n".join(lines)


def main() -> None:
    parser = cells.parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--keys", type=int, default=1)
    arguments = parser.parse_args()
    wanted = [
        {"dataset": dataset, "model": model, "objective": objective, "key": str(key)}
        for key in range(arguments.keys)
        for model in arguments.models
        for objective in arguments.objectives
        for dataset in arguments.only
    ]
    cells.main(
        arguments,
        wanted,
        measure,
        table,
        packages=("flowebm", "jax", "flowjax"),
        place=place,
        environment=environment,
    )


if __name__ == "__main__":
    main()

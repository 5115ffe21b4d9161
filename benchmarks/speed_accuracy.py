r"""Section `accuracy`: seconds to a given KL divergence against dimension.

`fit_joint` with the defaults and a minute, on 18,000 points of the mixture of four modes, 2,000
more to validate. After each block of iterations the divergence is what the validation points say,

$$\widehat{\mathrm{KL}} = \mathrm{NLL}_\theta - \mathrm{NLL}_{p^*},$$

both on the same points, of whichever model the stage fits: the flow, and then the energy with its
$\log Z$ from 4,096 draws; last comes the model that is returned. Seconds count from the call,
compilation included. Two keys; the errors of the divergence are about 0.01 to 0.02.
"""

import time
from statistics import median

SIZES = (2, 8, 32, 64)
CELLS = [f"mixture-{size}" for size in SIZES]
PACKAGES = ("flowebm", "jax", "flowjax")

BUDGET, KEYS = 60.0, 2
LEVELS = (0.2, 0.1, 0.05)


def measure(name: str) -> dict:
    """A list of seconds and divergences after every block, for each key."""
    import jax
    import jax.numpy as jnp
    from flowjax.distributions import Transformed

    from flowebm.data import Standardise, load_dataset
    from flowebm.models import Architecture, build_model
    from flowebm.training import fit_joint
    from flowebm.training.driver import Callbacks

    paths = []
    for key in range(KEYS):
        dataset = load_dataset("mixture", dim=int(name.partition("-")[2]), seed=3000 + key)
        scaling = Standardise.fit(dataset.values[:18_000])
        rows = jnp.asarray(scaling.transform_rows(dataset.values), float)
        train, validation = rows[:18_000], rows[18_000:]
        truth = Transformed(dataset.target, scaling)
        entropy = -float(truth.log_prob(validation).mean())
        model = build_model(
            Architecture(), train.shape[1:], data=train, key=jax.random.key(100 + key)
        )
        path = []
        # Programs of the other key's fit would be found again.
        jax.clear_caches()
        started = time.perf_counter()

        def note(stage, row, total, path=path, started=started, entropy=entropy):
            if "nll" in row:
                path.append([time.perf_counter() - started, row["nll"] - entropy])

        result = fit_joint(
            jax.random.key(key),
            model,
            train,
            validation=validation,
            time_budget=BUDGET,
            max_steps=1_000_000,
            callbacks=Callbacks(on_block=[note]),
        )
        # What is returned is the best that the stages found, not the last that they tried.
        energies = jax.jit(jax.vmap(result.model.energy))(validation)
        nll = float(energies.mean()) + result.log_partition.value
        path.append([time.perf_counter() - started, nll - entropy])
        paths.append(path)
    return {"paths": paths}


def seconds_to(level: float, paths: list) -> float | None:
    """Median over the keys of the seconds to the first evaluation at that level or below."""
    firsts = [next((second for second, kl in path if kl <= level), None) for path in paths]
    found = [first for first in firsts if first is not None]
    return median(found) if len(found) == len(firsts) else None


def table(results: dict) -> str:
    """A row a dimension, as markdown."""
    titles = " | ".join(f"seconds to a KL of {level}" for level in LEVELS)
    lines = [f"| data | {titles} | KL at the end, each key |", "|---" * (len(LEVELS) + 2) + "|"]
    for name in (cell for cell in CELLS if cell in results):
        paths = results[name]["paths"]
        seconds = [seconds_to(level, paths) for level in LEVELS]
        cells = " | ".join("not within a minute" if s is None else f"{s:.0f}" for s in seconds)
        ends = ", ".join(f"{path[-1][1]:.3f}" for path in paths)
        lines.append(f"| {name} | {cells} | {ends} |")
    return "\n".join(lines)

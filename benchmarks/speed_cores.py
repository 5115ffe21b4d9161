"""Section `cores`: an iteration where each core of the processor is a device, beside one device.

Default balanced training, `fit_persistent` with its defaults (20 Langevin steps of 1,024 chains and
no flow), and `dsm` of energy-based flows of MNIST's shape with batches of 100. What is shared out
over more devices is computed in smaller operations that wait for one another less; what is not, as
the gradient's sum, is computed by each.
"""

import os
from statistics import median

CELLS = ["PCD", "balanced 2d", "balanced 16d", "ebflow fc", "ebflow cnn"]
PACKAGES = ("flowebm", "jax", "flowjax")
TURNS = 5
#: Iterations of a compiled block.
BLOCK = 20


def measure(name: str) -> dict:
    """Milliseconds of an iteration on one device and on one for each core."""
    import jax

    cores = os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", cores)
    from speed_loops import block_of, seconds_in_turns

    trainer = _trainer(name)
    runs = {str(n): block_of(trainer, BLOCK, evaluated=False, n_devices=n) for n in (1, cores)}
    seconds = seconds_in_turns(runs, TURNS)
    pairs = zip(seconds["1"], seconds[str(cores)], strict=True)
    return {
        "ms": {n: 1e3 * median(found) / BLOCK for n, found in seconds.items()},
        "ratios": [one / many for one, many in pairs],
    }


def _trainer(name: str):
    from dataclasses import asdict

    import jax.numpy as jnp
    import jax.random as jr
    from speed_loops import balanced_trainer

    from flowebm import objectives
    from flowebm.models import convolutional_ebflow, fully_connected_ebflow
    from flowebm.training.fit_balanced import PERSISTENT
    from flowebm.training.objective import ObjectiveTrainer
    from flowebm.training.optimizers import clipped_adam

    kind, _, which = name.partition(" ")
    if kind == "PCD":
        return balanced_trainer(2, **asdict(PERSISTENT))
    if kind == "balanced":
        return balanced_trainer(int(which.removesuffix("d")))
    images = jr.normal(jr.key(0), (1_000, 1, 28, 28))
    build = {"fc": fully_connected_ebflow, "cnn": convolutional_ebflow}[which]
    return ObjectiveTrainer(
        model=build(images.shape[1:]).initialized(images),
        data=images,
        validation=images,
        validation_log_det=jnp.zeros(len(images)),
        objective=objectives.dsm(),
        optimizer=clipped_adam(1.0, 1e-4),
        batch_size=100,
    )


def table(results: dict) -> str:
    """A row a loop, as markdown."""
    lines = [
        "| iteration | ms, 1 device | ms, a device a core | ratio: median, least, most |",
        "|---|---|---|---|",
    ]
    for name, found in results.items():
        one, many = found["ms"].values()
        ratios = found["ratios"]
        lines.append(
            f"| {name} | {one:.1f} | {many:.1f} "
            f"| {median(ratios):.2f}, {min(ratios):.2f}, {max(ratios):.2f} |"
        )
    return "\n".join(lines)

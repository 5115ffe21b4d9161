"""Section `memory`: how much of it a training takes at its peak, against what it has to hold.

A training of two blocks of 50 iterations, with evaluations as a fit makes them, in a process of
its own; the peak is that of the process. `held` counts the arrays that a training cannot do
without: data, parameters, their average, the optimizer's moments, the best parameters so far,
chains. `imports` is the process before the fit begins.

`fc` is the published fully connected EBFlow with sliced score matching and batches of 100, on
whole-number pixels of 60,000 images of MNIST's shape or 50,000 of CIFAR-10's, whose two layers
are matrices of 3,072 x 3,072. `balanced` is the default training in 16 coordinates on 20,000
points, with 1,024 and with 16,384 chains.
"""

import resource
import sys

CELLS = ["fc mnist", "fc cifar-10", "balanced 1024", "balanced 16384"]
PACKAGES = ("flowebm", "jax", "optax", "flowjax", "blackjax")

STEPS = 100
IMAGES = {"mnist": (60_000, 1, 28, 28), "cifar-10": (50_000, 3, 32, 32)}
POINTS = (20_000, 16)


def measure(name: str) -> dict:
    """Bytes before the fit, bytes that the training has to hold, and the peak of the process."""
    import jax
    import numpy as np

    import flowebm.training

    kind, what = name.split()
    rng = np.random.default_rng(0)
    imports = peak()
    if kind == "fc":
        from flowebm.data import LogitPixels
        from flowebm.models import fully_connected_ebflow

        data = rng.integers(0, 256, IMAGES[what], np.uint8)
        shape = data.shape[1:]
        model = fully_connected_ebflow(shape)
        result = flowebm.training.fit_ebflow(
            jax.random.key(0),
            model,
            data[:-1000],
            validation=data[-1000:],
            options=flowebm.training.EBFlowOptions(objective="ssm", batch_size=100),
            preprocessing=LogitPixels(shape, 256, 1.0),
            noise=True,
            max_steps=STEPS,
        )
        # Parameters, average, two moments and the best.
        held = data.nbytes + 5 * size_of(model)
    else:
        from flowebm.models import EnergyModel, MLPTilt, gaussian_base

        data = rng.normal(size=POINTS).astype(np.float32)
        model = EnergyModel(MLPTilt(POINTS[1:], key=jax.random.key(1)), gaussian_base(data))
        options = flowebm.training.BalancedOptions(n_chains=int(what))
        result = flowebm.training.fit_balanced(
            jax.random.key(0), model, data, options=options, max_steps=STEPS
        )
        held = data.nbytes + result.chains.nbytes
        # The flow has no average.
        held += 5 * size_of(model) + 4 * size_of(result.flow)
    return {"imports": imports, "held": held, "peak": peak(), "nll": result.history[-1]["nll"]}


def size_of(model) -> int:
    """Bytes of a model's arrays."""
    import equinox as eqx
    import jax

    return sum(leaf.nbytes for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)))


def peak() -> int:
    """The most bytes that this process has had."""
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def table(results: dict) -> str:
    """A line a training, in MiB."""
    lines = [
        "| training | imports (MiB) | held (MiB) | peak (MiB) | (peak - imports) / held |",
        "|---|---|---|---|---|",
    ]
    for name in CELLS:
        if name not in results:
            continue
        imports, held, most = (results[name][key] for key in ("imports", "held", "peak"))
        lines.append(
            f"| {name} | {imports / 2**20:.0f} | {held / 2**20:.0f} | {most / 2**20:.0f} | "
            f"{(most - imports) / held:.1f} |"
        )
    return "\n".join(lines)

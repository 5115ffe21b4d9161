"""Run small trainings on one device and on more; write their last states, and what each device had.

python on_devices.py FOLDER NAME...
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import paramax
from flowjax.bijections import Identity
from flowjax.distributions import Normal, StudentT

from flowebm.layers import Conv2d, FullLinear, SmoothLeakyReLU
from flowebm.models import DefensiveMixture, EBFlow, EnergyModel, MLPTilt, gaussian_base, make_flow
from flowebm.models.unconstrained import UnconstrainedDensity
from flowebm.objectives import dsm, exact, fdssm, sml, ssm
from flowebm.training import (
    BalancedOptions,
    BalancedTrainer,
    SamplingOptions,
    StoppingCriteria,
    drive,
)
from flowebm.training.adaptive_sampling import AdaptiveSamplingTrainer
from flowebm.training.devices import Placement, use_devices
from flowebm.training.objective import ObjectiveTrainer

jax.config.update("jax_enable_x64", True)

#: 13 validation points and batches of 12: numbers that 8 devices cannot share out evenly.
DATA = jr.normal(jr.key(0), (60, 4))
VALIDATION, BATCH = jr.normal(jr.key(1), (13, 4)), 12


def balanced(**options):
    key, shape = jr.key(2), (4,)
    wide = paramax.non_trainable(gaussian_base(DATA, inflation=1.5))
    flow = make_flow("affine-coupling", shape, layers=1, width=4, depth=1, key=key)
    return BalancedTrainer(
        model=EnergyModel(MLPTilt(shape, width=8, depth=1, key=key), gaussian_base(DATA)),
        proposal=DefensiveMixture(flow, wide),
        data=DATA,
        validation=VALIDATION,
        chains=jr.normal(key, (16, 4)),
        optimizer=optax.adamw(1e-2),
        flow_optimizer=optax.adam(1e-2),
        options=BalancedOptions(
            **{"flow_interval": 2, "flow_batch": 15, "n_evaluation": 33} | options
        ),
        batch_size=BATCH,
    )


def ebflow(objective=None, layers=None, shape=(4,)):
    if layers is None:
        weights = 0.3 * jr.normal(jr.key(3), (2, 4, 4)) + jnp.eye(4)
        first, last = (FullLinear(w, jnp.zeros(4)) for w in weights)
        layers = [first, SmoothLeakyReLU(shape), last]
    return ObjectiveTrainer(
        model=EBFlow(layers),
        data=DATA.reshape(-1, *shape),
        validation=VALIDATION.reshape(-1, *shape),
        validation_log_det=jnp.zeros(13),
        objective=objective or ssm(),
        optimizer=optax.adam(1e-2),
        batch_size=BATCH,
    )


def convolutional(objective=None):
    kernel = 0.3 * jr.normal(jr.key(3), (1, 1, 3, 3)).at[0, 0, 1, 1].add(3.0)
    convolution = Conv2d(kernel, jnp.zeros(1), (1, 2, 2), method="fourier")
    layers = [convolution, SmoothLeakyReLU((1, 2, 2)), convolution]
    return ebflow(objective, layers, (1, 2, 2))


def sampling():
    shape = (2,)
    return AdaptiveSamplingTrainer(
        target=UnconstrainedDensity(lambda x: -jnp.sum((x - 1) ** 4), lambda x: x, Identity(shape)),
        start=Normal(jnp.zeros(2), 3.0),
        flow=make_flow("affine-coupling", shape, layers=1, width=4, depth=1, key=jr.key(5)),
        wide=StudentT(5.0, jnp.zeros(2), 2.0),
        data=3 * jr.normal(jr.key(6), (64, 2)),
        optimizer=optax.adam(1e-2),
        options=SamplingOptions(n_particles=64, n_flow_steps=2),
        batch_size=BATCH,
    )


#: Trainers; the numbers of devices to run each on, with those of the axis `model`; and the arrays
#: of the last state that show which part of them a device has.
CASES = {
    "balanced": (balanced, {1: 1, 2: 1, 8: 1}),
    "waste-recycled": (
        lambda: balanced(
            global_kernel="isir",
            n_proposals=3,
            gradient="waste-recycled",
            penalty=0.1,
            flow_batch=16,
        ),
        {1: 1, 4: 1},
    ),
    "persistent": (lambda: balanced(global_kernel="none", local_kernel="ula"), {1: 1, 4: 1}),
    "ebflow": (ebflow, {1: 1, 8: 4}),
    "convolutional": (convolutional, {1: 1, 4: 1, 8: 1}),
    "dsm": (lambda: convolutional(dsm([0.5, 1.0], level_penalty=0.1)), {1: 1, 4: 1}),
    "slices": (lambda: ebflow(ssm(2)), {1: 1, 4: 1}),
    "exact": (lambda: ebflow(exact(0.1)), {1: 1, 4: 1}),
    "fdssm": (lambda: ebflow(fdssm()), {1: 1, 4: 1}),
    "sml": (lambda: ebflow(sml()), {1: 1, 4: 1}),
    "sampling": (sampling, {1: 1, 8: 1}),
}


def main(folder: Path, names: list[str]):
    parts = {}
    for name in names:
        make, devices = CASES[name]
        for n, model in devices.items():
            trainer = make()
            with use_devices(n, model=model):
                outcome = drive(jr.key(4), trainer, StoppingCriteria(6, block_length=3))
                placement = Placement.of(trainer)
                state = placement.put(outcome.state.inner)
            leaves = jax.tree_util.tree_leaves_with_path(outcome.state)
            values = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
            np.savez(folder / f"{name}-{n}.npz", **values)
            parts[f"{name}-{n}"] = part(state)
    (folder / "parts.json").write_text(json.dumps(parts))


def part(state) -> dict[str, list[int]]:
    """Shapes of the part of each array that one device has, where it has not all of it."""
    return {
        jax.tree_util.keystr(path): [*leaf.addressable_shards[0].data.shape]
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if leaf.addressable_shards[0].data.shape != leaf.shape
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

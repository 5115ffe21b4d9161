"""What the sections of speed share: turns, compiled blocks of balanced training, its arithmetic."""

import time
from collections.abc import Callable
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from flowebm.models import Architecture, build
from flowebm.training.balanced import BalancedOptions, BalancedTrainer
from flowebm.training.devices import Placement, use_devices
from flowebm.training.driver import _evaluate, _run_block, _start
from flowebm.training.fit_balanced import _trainer

#: Side of the matrices whose product tells the machine's rate.
SIDE = 784


def normal_data(dimension: int, n: int = 20_000):
    """Points whose values do not matter, for the cost alone."""
    return jr.normal(jr.key(7), (n, dimension))


def balanced_trainer(dimension: int, **choices) -> BalancedTrainer:
    """The trainer of `fit_balanced` with its defaults but for these options."""
    data = normal_data(dimension)
    parts = build(Architecture(), (dimension,), data=data, key=jr.key(0))
    options = replace(BalancedOptions(), **choices)
    return _trainer(jr.key(1), parts.model, parts.proposal, data, data[:2000], options)


def block_of(
    trainer: BalancedTrainer, length: int, *, evaluated: bool = True, n_devices: int = 1
) -> Callable[[], None]:
    """Runs a block of so many iterations as the training's driver does, and waits for it."""
    with use_devices(n_devices):
        placement = Placement.of(trainer)
    frozen = placement.put((trainer, jr.key(2)))
    with placement.active():
        kept = [_start(*frozen)]

    def run() -> None:
        with placement.active():
            kept[0] = _run_block(frozen, kept[0], jnp.asarray(length), jnp.asarray(1e6))
            if evaluated:
                kept[0], *_ = _evaluate(frozen, kept[0])
        jax.block_until_ready(kept[0])

    return run


def product() -> Callable[[], None]:
    """Twenty products of two square matrices of side `SIDE`."""
    matrix = jr.normal(jr.key(0), (SIDE, SIDE))
    multiply = jax.jit(lambda a: jax.lax.fori_loop(0, 20, lambda _, b: (a @ b) / SIDE, a))
    return lambda: multiply(matrix).block_until_ready()


#: Floating-point operations of `product`.
PRODUCT_FLOP = 20 * 2 * SIDE**3


def seconds_in_turns(
    runs: dict[str, Callable[[], object]], turns: int, *, calls: int = 1
) -> dict[str, list[float]]:
    """Seconds of a call of each, the mean of so many in a turn, after a call that compiles.

    The first call of a turn is not counted: it finds the other's values in the caches and its
    threads not yet asleep, which a training of one alone does not.
    """
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            run()
            started = time.perf_counter()
            for _ in range(calls):
                run()
            seconds[name].append((time.perf_counter() - started) / calls)
    return seconds


def multiplications(tree) -> int:
    """Multiply-adds of a pass through all of a model's linear layers, for one point."""

    def is_linear(node):
        return isinstance(node, eqx.nn.Linear)

    layers = jax.tree.leaves(tree, is_leaf=is_linear)
    return sum(layer.weight.size for layer in layers if is_linear(layer))


def parts_gflop(trainer: BalancedTrainer) -> dict[str, float]:
    """Billions of operations that the parts of an iteration must do, in linear layers alone.

    A gradient costs a second pass, one in the parameters a third; of the proposals' mixture with a
    wide Gaussian, the flow draws all and evaluates none again.
    """
    options = trainer.options
    energy = 2e-9 * multiplications(trainer.model)
    flow = 2e-9 * multiplications(trainer.proposal)
    chains, batch = options.n_chains, options.batch_size
    parts = {
        "local": 2 * (options.n_local + 1) * chains * energy,
        "energy step": 3 * (chains + batch) * energy,
    }
    if options.global_kernel == "none":
        return parts
    pool = chains * (options.n_proposals if options.global_kernel == "isir" else 1)
    return parts | {
        "pool": (chains + pool) * (energy + flow),
        "flow step": 3 * options.flow_batch * flow / options.flow_interval,
    }

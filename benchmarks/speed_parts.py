"""Section `parts`: where the time of a balanced iteration goes, and what each part has to do.

The parts of an iteration with the defaults of `fit_balanced`, each compiled alone and timed in
turns with the whole block: local steps; the pool (draws, densities, decisions); a step of the
energy; a step of the flow, of which an iteration makes a tenth; an evaluation, of which it makes a
fiftieth. Next to each, the operations of its linear layers, the bytes it must move, and the share
of the rate of matrix products that it reaches.

Bytes are those that no cache could save: the layers' values, written forwards and read backwards
where there is a gradient, and the parameters' own traffic in a step. Where a core's cache holds the
values, they cost less than the copy rate says.
"""

from statistics import median

CELLS = ["2", "16"]
PACKAGES = ("flowebm", "jax", "flowjax")
TURNS = 7
BLOCK = 50


def measure(name: str) -> dict:
    """Milliseconds of the iteration and of its parts, and the machine's rates."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import jax.random as jr
    from speed_loops import (
        PRODUCT_FLOP,
        balanced_trainer,
        block_of,
        parts_gflop,
        product,
        seconds_in_turns,
    )

    from flowebm.samplers.kernel import global_move, local_moves

    trainer = balanced_trainer(int(name))
    options = trainer.options
    key = jr.key(5)
    state = trainer.init(key)
    batch = jnp.arange(options.batch_size)
    one, waits = jnp.array(1.0), jnp.array(False)

    def compiled(part):
        function = eqx.filter_jit(lambda trainer, state: part(trainer, state))
        return lambda: jax.block_until_ready(function(trainer, state))

    def density(trainer, state):
        return trainer.with_params(state.params).unnormalized_log_prob

    # A step of the flow is due at the first iteration.
    parts = {
        "local": lambda t, s: local_moves(
            key, density(t, s), s.chains, 0.02, kernel="mala", n_steps=options.n_local
        ),
        "pool": lambda t, s: global_move(key, density(t, s), t.with_flow(s.flow), s.chains),
        "energy step": lambda t, s: t._energy_step(s, batch, s.chains, None, waits, one),
        "flow step": lambda t, s: t._flow_steps(key, s, s.chains, waits, one),
        "evaluation": lambda t, s: t.evaluate(key, s),
    }
    large = jnp.zeros(2**25)
    copy = jax.jit(lambda a: a + 1.0)
    runs = {name: compiled(part) for name, part in parts.items()}
    runs |= {
        "block": block_of(trainer, BLOCK),
        "product": product(),
        "copy": lambda: copy(large).block_until_ready(),
    }
    seconds = {key: median(found) for key, found in seconds_in_turns(runs, TURNS).items()}
    ms = {name: 1e3 * seconds[name] for name in parts}
    ms["flow step"] /= options.flow_interval
    ms["evaluation"] /= BLOCK
    return {
        "iteration_ms": 1e3 * seconds["block"] / BLOCK,
        "ms": ms,
        "gflop": parts_gflop(trainer),
        "megabytes": _megabytes(trainer),
        "product_gflops": PRODUCT_FLOP / seconds["product"] / 1e9,
        "copy_gbs": 2 * large.nbytes / seconds["copy"] / 1e9,
    }


def _megabytes(trainer) -> dict[str, float]:
    """Values of layers that a part writes and reads again, and parameters in a step."""
    import equinox as eqx
    import jax

    def layers(tree):
        def is_linear(node):
            return isinstance(node, eqx.nn.Linear)

        found = [node for node in jax.tree.leaves(tree, is_leaf=is_linear) if is_linear(node)]
        # A flow's layers are stacked: their weights have an axis more.
        units = sum(layer.weight.size // layer.weight.shape[-1] for layer in found)
        return units, sum(layer.weight.size for layer in found)

    options = trainer.options
    energy_units, energy_weights = layers(trainer.model)
    flow_units, flow_weights = layers(trainer.proposal)
    chains, batch = options.n_chains, options.batch_size
    # Written and read by the next layer; with a gradient, read and written once more.
    floats = {
        "local": 4 * energy_units * chains * (options.n_local + 1),
        "pool": 2 * (energy_units + flow_units) * 2 * chains,
        # Gradient, two moments, parameters and their average: read and written.
        "energy step": 4 * energy_units * (chains + batch) + 10 * energy_weights,
        "flow step": (4 * flow_units * options.flow_batch + 8 * flow_weights)
        / options.flow_interval,
    }
    return {name: 4e-6 * count for name, count in floats.items()}


def table(results: dict) -> str:
    """A row a part, as markdown."""
    lines = [
        "| dimensions | part | ms an iteration | GFLOP | MB | fraction of the rate of products | "
        "ms at the copy rate |",
        "|---" * 7 + "|",
    ]
    for name, found in sorted(results.items(), key=lambda item: int(item[0])):
        rows = found["ms"] | {"**whole iteration**": found["iteration_ms"]}
        for part, ms in rows.items():
            whole = part.startswith("**")
            gflop = sum(found["gflop"].values()) if whole else found["gflop"].get(part)
            moved = sum(found["megabytes"].values()) if whole else found["megabytes"].get(part)
            if gflop is None:
                lines.append(f"| {name} | {part} | {ms:.2f} | | | | |")
                continue
            fraction = gflop / (ms / 1e3) / found["product_gflops"]
            lines.append(
                f"| {name} | {part} | {ms:.2f} | {gflop:.3f} | {moved:.1f} | {fraction:.0%} | "
                f"{moved / found['copy_gbs']:.2f} |"
            )
    rates = [
        f"{name}d: {found['product_gflops']:.0f} GFLOP/s, {found['copy_gbs']:.0f} GB/s"
        for name, found in sorted(results.items(), key=lambda item: int(item[0]))
    ]
    return "\n".join([*lines, "", f"Rates of products and of copies: {'; '.join(rates)}."])

"""Section `balanced`: an iteration of balanced training, beside flowMC and other libraries' PCD.

Beside flowMC: its loop with the same energy, chains, local steps, proposals of each chain and size
of flow, driven strategy by strategy as its `Sampler` does. flowebm also trains the energy, flowMC
does not. `each` is one of two local steps, one proposal and one step of the flow, as it must be
where the energy changes from iteration to iteration; flowebm then trains its flow in every
iteration too. `tens` is flowebm's default, ten iterations to a step of the flow, against loops of
twenty local steps, ten proposals and one step of the flow, which one energy must last.

Beside torchebm and ebmkit: a step of persistent contrastive divergence, on the network, batch and
Langevin steps of each one's README and on those of `fit_persistent`. Networks have the same layers;
flowebm takes one device or one for each core, torch one thread or one for each core, whichever is
faster.

All run in turns; ratios are medians of the turns' ratios.
"""

import os
from statistics import median

PEERS = ("torchebm", "ebmkit")
SETTINGS = ("documented", "larger")
CELLS = [
    *(f"{peer} {setting}" for peer in PEERS for setting in SETTINGS),
    *(f"flowMC {dimension}d {how}" for how in ("each", "tens") for dimension in (2, 16)),
]
PACKAGES = ("flowebm", "jax", "flowjax", "flowMC", "torch", "torchebm", "ebmkit")

TURNS = 5
#: Iterations of a compiled block, as in `fit_balanced`.
BLOCK = 50


def measure(name: str) -> dict:
    """Milliseconds of an iteration here and there, and their ratio."""
    peer, *rest = name.split()
    if peer == "flowMC":
        dimension, how = int(rest[0][:-1]), rest[1]
        ours, theirs, notes = _beside_flowmc(dimension, how)
    else:
        ours, theirs, notes = _beside_pcd(peer, rest[0])
    return _compared(ours, theirs) | notes


def _compared(ours, theirs) -> dict:
    """`ours` and `theirs` are functions by their names and the iterations that a call makes.

    Of several the one with the least median counts.
    """
    from speed_loops import PRODUCT_FLOP, product, seconds_in_turns

    seconds = seconds_in_turns({"product": product(), **ours[0], **theirs[0]}, TURNS)
    our_best, best = (min(f, key=lambda name: median(seconds[name])) for f in (ours[0], theirs[0]))
    our_ms = [1e3 * s / ours[1] for s in seconds[our_best]]
    their_ms = [1e3 * s / theirs[1] for s in seconds[best]]
    ratios = [b / a for a, b in zip(our_ms, their_ms, strict=True)]
    return {
        "ms": median(our_ms),
        "their_ms": median(their_ms),
        "ratio": median(ratios),
        "ratios": ratios,
        "our_best": our_best,
        "their_best": best,
        "product_gflops": PRODUCT_FLOP / median(seconds["product"]) / 1e9,
    }


def _beside_flowmc(dimension: int, how: str):
    import equinox as eqx
    import jax.random as jr
    from flowMC.resource_strategy_bundle.RQSpline_MALA import RQSpline_MALA_Bundle
    from speed_loops import balanced_trainer, block_of, multiplications, parts_gflop

    from flowebm.models import Architecture

    shape = Architecture()
    iterations = {"each": 1, "tens": 10}[how]
    trainer = balanced_trainer(dimension, flow_interval=iterations)
    options = trainer.options
    arrays, static = eqx.partition(trainer.model, eqx.is_array)
    a_turn = {"each": 2, "tens": 1}[how]
    # Of the call that compiles and two in every turn: its arrays hold the states of all of them.
    loops = a_turn * (1 + 2 * TURNS)
    bundle = RQSpline_MALA_Bundle(
        jr.key(3),
        n_chains=options.n_chains,
        n_dims=dimension,
        # The energy is data, so that another one compiles nothing anew.
        logpdf=lambda x, data: eqx.combine(data["model"], static).unnormalized_log_prob(x),
        n_local_steps=options.n_local * iterations,
        n_global_steps=iterations,
        n_training_loops=loops,
        n_production_loops=1,
        n_epochs=1,
        mala_step_size=options.step_size,
        rq_spline_hidden_units=(shape.flow_width,) * shape.flow_depth,
        rq_spline_n_bins=8,
        rq_spline_n_layers=shape.flow_layers,
        batch_size=options.flow_batch,
        n_max_examples=options.flow_batch,
    )
    length = bundle.strategy_order.index("reset_steppers") // loops
    kept = [jr.key(4), bundle.resources, trainer.chains]
    model = {"model": arrays}

    def turn() -> None:
        for name in bundle.strategy_order[:length] * a_turn:
            kept[:] = bundle.strategies[name](*kept, model)
        kept[2].block_until_ready()

    notes = {
        "gflop": sum(parts_gflop(trainer).values()),
        "flow_multiplications": multiplications(trainer.proposal),
        "their_flow_multiplications": multiplications(bundle.resources["model"]),
    }
    ours = {_devices(1): block_of(trainer, BLOCK)}
    return (ours, BLOCK), ({"loop": turn}, a_turn * iterations), notes


def _beside_pcd(peer_name: str, setting_name: str):
    import jax

    cores = os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", cores)
    import jax.random as jr
    import pcd_peers  # Before torch, whose threads it tells how to wait.
    import torch
    from flowjax.distributions import StandardNormal
    from speed_loops import block_of, normal_data, parts_gflop

    from flowebm.models import EnergyModel, MLPTilt
    from flowebm.training.balanced import BalancedOptions
    from flowebm.training.fit_balanced import _trainer

    dimension = 2
    setting = pcd_peers.LARGER if setting_name == "larger" else pcd_peers.DOCUMENTED[peer_name]
    data = normal_data(dimension)
    width, depth = setting.hidden[0], len(setting.hidden)
    tilt = MLPTilt((dimension,), width=width, depth=depth, key=jr.key(0))
    options = BalancedOptions(
        global_kernel="none",
        local_kernel="ula",
        start="data",
        n_local=setting.n_langevin,
        step_size=setting.step_size,
        batch_size=setting.batch_size,
        n_chains=setting.batch_size,
        learning_rate=setting.learning_rate,
    )
    base = StandardNormal((dimension,))
    trainer = _trainer(jr.key(1), EnergyModel(tilt, base), base, data, data[:1], options)
    peer = pcd_peers.PEERS[peer_name](dimension, setting)
    rows = torch.tensor(data.tolist())
    steps = 10

    def on(threads):
        def run():
            torch.set_num_threads(threads)
            peer.run(rows, steps)

        return run

    theirs = {f"{threads} threads": on(threads) for threads in {1, cores}}
    ours = {_devices(n): block_of(trainer, BLOCK, n_devices=n) for n in {1, cores}}
    notes = {"gflop": sum(parts_gflop(trainer).values())}
    return (ours, BLOCK), (theirs, steps), notes


def _devices(n: int) -> str:
    return "1 device" if n == 1 else f"{n} devices"


def table(results: dict) -> str:
    """A row a peer, as markdown."""
    lines = [
        "| beside | flowebm, ms | on | theirs, ms | theirs / flowebm: median, least, most | "
        "GFLOP an iteration | fraction of the rate of products |",
        "|---" * 7 + "|",
    ]
    for name, found in results.items():
        ratios = f"{found['ratio']:.1f}, {min(found['ratios']):.1f}, {max(found['ratios']):.1f}"
        fraction = found["gflop"] / (found["ms"] / 1e3) / found["product_gflops"]
        lines.append(
            f"| {name} | {found['ms']:.2f} | {found.get('our_best', '1 device')} "
            f"| {found['their_ms']:.2f} | {ratios} | "
            f"{found['gflop']:.3f} | {fraction:.0%} |"
        )
    return "\n".join(lines)

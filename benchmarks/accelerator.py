"""Steps on an accelerator, as fractions of its rates of matrix products and of copies.

    python benchmarks/accelerator.py --results gpu.json            # everything
    python benchmarks/accelerator.py --results gpu.json --table    # what has been measured

Runs on JAX's default device, with what flowebm needs and nothing else: a balanced iteration with
the defaults against the number of chains; draws of the proposal against how many are made at
once; a step of the fully connected and of the convolutional EBFlow of MNIST's shape. A cell
measures the rates beside the step, in turns: products of square matrices in single precision and
in bfloat16 (`jax.default_matmul_precision`), and copies. `bfloat16` cells of EBFlow make all
products so, and give the relative difference of the loss after the same steps.
"""

from pathlib import Path
from statistics import median

import cells

RESULTS = Path(__file__).parent / "results" / "accelerator.json"

CHAINS = (1024, 4096, 16_384, 65_536)
DRAWS = (1024, 16_384, 131_072)
BATCHES = (100, 1000)
TURNS = 5

#: Iterations of a block of balanced training, and side of the products: large enough for the rate
#: of a GPU.
BLOCK, SIDE = 20, 4096

CELLS = (
    *(f"balanced {n}" for n in CHAINS),
    *(f"draws {n}" for n in DRAWS),
    *(f"{a} {o} {n}" for a in ("fc", "cnn") for o in ("ssm", "dsm") for n in BATCHES),
    *(f"fc ssm {n} bfloat16" for n in BATCHES),
)


def measure(name: str) -> dict:
    """Milliseconds of a step, its operations, and the device's rates beside it."""
    import jax
    from speed_loops import seconds_in_turns

    kind, *rest = name.split()
    if kind == "balanced":
        run, repeats, gflop = _balanced(int(rest[0]))
        notes = {}
    elif kind == "draws":
        run, repeats, gflop = _draws(int(rest[0]))
        notes = {}
    else:
        run, repeats, gflop, notes = _ebflow(kind, rest[0], int(rest[1]), rest[2:])
    runs = {"step": run, **_rates(SIDE)}
    seconds = {key: median(found) for key, found in seconds_in_turns(runs, TURNS).items()}
    ms = 1e3 * seconds["step"] / repeats
    product = 2e-9 * SIDE**3
    rates = {
        "product_gflops": product / seconds["float32"],
        "bfloat16_gflops": product / seconds["bfloat16"],
        "copy_gbs": 1e-9 * 2 * 4 * SIDE**2 / seconds["copy"],
    }
    return {
        "device": jax.devices()[0].device_kind,
        "ms": ms,
        "gflop": gflop,
        "fraction": gflop / (ms / 1e3) / rates["product_gflops"],
        **rates,
        **notes,
    }


def _rates(side: int) -> dict:
    import jax
    import jax.numpy as jnp
    import jax.random as jr

    matrix = jr.normal(jr.key(0), (side, side))
    low = matrix.astype(jnp.bfloat16)
    multiply = jax.jit(lambda a: a @ a)
    copy = jax.jit(lambda a: a + 1.0)
    return {
        "float32": lambda: multiply(matrix).block_until_ready(),
        "bfloat16": lambda: multiply(low).block_until_ready(),
        "copy": lambda: copy(matrix).block_until_ready(),
    }


def _balanced(n_chains: int):
    from speed_loops import balanced_trainer, block_of, parts_gflop

    trainer = balanced_trainer(16, n_chains=n_chains)
    return block_of(trainer, BLOCK, evaluated=False), BLOCK, sum(parts_gflop(trainer).values())


def _draws(n: int):
    import equinox as eqx
    import jax
    import jax.random as jr
    from speed_loops import balanced_trainer, multiplications

    from flowebm.models.defensive import draw

    proposal = balanced_trainer(16).proposal
    function = eqx.filter_jit(lambda q: draw(jr.key(6), q, n))
    gflop = 2e-9 * n * multiplications(proposal)
    return lambda: jax.block_until_ready(function(proposal)), 1, gflop


def _ebflow(architecture: str, objective: str, batch_size: int, precision: list[str]):
    import jax
    import numpy as np
    from speed_ebflow import SHAPE, step_in_jax, step_operations

    rng = np.random.default_rng(0)
    noise = rng.normal(size=(batch_size, *SHAPE)).astype(np.float32)
    given = rng.normal(size=noise.shape).astype(np.float32), noise, np.sign(noise)

    def built(name: str):
        step, multiplications, _ = step_in_jax(architecture, objective, *given)

        def run():
            # A program is kept for the policy that it is called under.
            with jax.default_matmul_precision(name):
                return step()

        return run, multiplications, [run() for _ in range(3)]

    run, multiplications, losses = built(precision[0] if precision else "default")
    notes = {}
    if precision:
        plain = built("float32")[2]
        notes["loss_difference"] = abs(losses[-1] - plain[-1]) / abs(plain[-1])
    return run, 1, 1e-9 * step_operations(objective, multiplications, batch_size), notes


def table(results: dict) -> str:
    """A row a cell, as markdown."""
    lines = [
        "| device | step | ms | GFLOP | of the rate of float32 products | "
        "float32, bfloat16: GFLOP/s | copies, GB/s | relative difference of the loss |",
        "|---" * 8 + "|",
    ]
    for name in (name for name in CELLS if name in results):
        found = results[name]
        difference = found.get("loss_difference")
        lines.append(
            f"| {found['device']} | {name} | {found['ms']:.2f} | {found['gflop']:.2f} | "
            f"{found['fraction']:.0%} | {found['product_gflops']:.0f}, "
            f"{found['bfloat16_gflops']:.0f} | {found['copy_gbs']:.0f} | "
            f"{'–' if difference is None else f'{difference:.1e}'} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = cells.parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", choices=CELLS, default=list(CELLS))
    arguments = parser.parse_args()
    wanted = [{"name": name} for name in arguments.only]
    cells.main(arguments, wanted, measure, table, packages=("flowebm", "jax", "flowjax"))


if __name__ == "__main__":
    main()

r"""Section `growth`: an iteration's cost against chains, dimension and pool size.

Balanced iterations with the defaults but for what grows; chains and the batch of data grow
together, and the pool is that of i-SIR moves. The exponent is the slope of a line through the
logarithms of cost and size, and the least and most of it through any two neighbouring sizes.
"""

from statistics import median

SIZES = {
    "chains": (256, 1024, 4096),
    "dimension": (2, 8, 32, 64),
    "pool": (1, 4, 16),
}
CELLS = list(SIZES)
PACKAGES = ("flowebm", "jax", "flowjax")
TURNS = 3
#: Iterations of a compiled block.
BLOCK = 20


def measure(name: str) -> dict:
    """Milliseconds of an iteration, by size."""
    from speed_loops import balanced_trainer, block_of, seconds_in_turns

    def trainer(size):
        if name == "chains":
            return balanced_trainer(2, n_chains=size, batch_size=size, flow_batch=size)
        if name == "dimension":
            return balanced_trainer(size)
        return balanced_trainer(2, global_kernel="isir", n_proposals=size)

    runs = {str(size): block_of(trainer(size), BLOCK, evaluated=False) for size in SIZES[name]}
    seconds = seconds_in_turns(runs, TURNS)
    return {"ms": {size: 1e3 * median(found) / BLOCK for size, found in seconds.items()}}


def exponents(ms: dict[str, float]) -> tuple[float, float, float]:
    """Slope of log cost against log size: fitted, and the least and most between neighbours."""
    import numpy as np

    sizes = np.log([float(size) for size in ms])
    costs = np.log(list(ms.values()))
    slopes = np.diff(costs) / np.diff(sizes)
    return float(np.polyfit(sizes, costs, 1)[0]), float(slopes.min()), float(slopes.max())


def table(results: dict) -> str:
    """A row for what grows, as markdown."""
    lines = [
        "| against | ms an iteration, by size | exponent: fitted, least, most |",
        "|---|---|---|",
    ]
    for name, found in results.items():
        costs = ", ".join(f"{size}: {ms:.1f}" for size, ms in found["ms"].items())
        fitted, least, most = exponents(found["ms"])
        lines.append(f"| {name} | {costs} | {fitted:.2f}, {least:.2f}, {most:.2f} |")
    return "\n".join(lines)

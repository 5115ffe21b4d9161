"""Section `pool`: what a proposal costs against how many are drawn at once.

Draws of the default proposal with their log-densities in one pass, and densities at given points,
in microseconds a point. `in batches` draws 16,384 in passes of 1,024 instead.
"""

from statistics import median

CELLS = ["2", "16"]
PACKAGES = ("flowebm", "jax", "flowjax")
SIZES = (128, 512, 1024, 2048, 4096, 16_384)
TURNS = 7


def measure(name: str) -> dict:
    """Microseconds a point, by the number of points."""
    import equinox as eqx
    import jax
    import jax.random as jr
    from speed_loops import balanced_trainer, normal_data, seconds_in_turns

    from flowebm.models.defensive import draw

    proposal = balanced_trainer(int(name)).proposal
    key = jr.key(6)

    def drawing(n, passes=1):
        function = eqx.filter_jit(
            lambda q: jax.lax.map(lambda k: draw(k, q, n // passes), jr.split(key, passes))
        )
        return lambda: jax.block_until_ready(function(proposal))

    def evaluating(n):
        function = eqx.filter_jit(lambda q, x: q.log_prob(x))
        rows = normal_data(int(name), n)
        return lambda: jax.block_until_ready(function(proposal, rows))

    runs = {f"draw {n}": drawing(n) for n in SIZES}
    runs |= {f"density {n}": evaluating(n) for n in SIZES}
    runs["batches"] = drawing(SIZES[-1], SIZES[-1] // 1024)
    seconds = {key: median(found) for key, found in seconds_in_turns(runs, TURNS).items()}
    return {
        "draw": {str(n): 1e6 * seconds[f"draw {n}"] / n for n in SIZES},
        "density": {str(n): 1e6 * seconds[f"density {n}"] / n for n in SIZES},
        "in_batches": 1e6 * seconds["batches"] / SIZES[-1],
    }


def table(results: dict) -> str:
    """A row a dimension and direction, as markdown."""
    lines = [
        "| dimensions | µs a point | " + " | ".join(f"{n:,}" for n in SIZES) + " | in batches |",
        "|---" * (3 + len(SIZES)) + "|",
    ]
    for name, found in sorted(results.items(), key=lambda item: int(item[0])):
        for what, last in (("draw", f"{found['in_batches']:.2f}"), ("density", "")):
            costs = " | ".join(f"{found[what][str(n)]:.2f}" for n in SIZES)
            lines.append(f"| {name} | {what} | {costs} | {last} |")
    return "\n".join(lines)

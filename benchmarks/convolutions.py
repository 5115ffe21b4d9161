"""Ways to compute a 7×7 convolution of MNIST's shapes, in score-matching steps on this machine.

    python benchmarks/convolutions.py            # measure
    python benchmarks/convolutions.py --table    # the table of what has been measured

The model is two convolutions with a residual smooth leaky ReLU between them, on batches of 100
images of 784 entries; what is timed is the value and the gradient of an objective (`ssm` is
forward-over-reverse, and reverse over that). `direct` is XLA's convolution; `matrix` multiplies by
the 784×784 matrix; `rows` multiplies gathered rows by a band matrix (see `Conv2d`); `im2col`
gathers all 49 neighbours; `shifts` adds 49 shifted products; `fft` multiplies spectra. Each shape
and objective is a process of its own, in which the ways take turns; times are medians, and of the
fastest turns, beside whatever the machine does.
"""

import time
from pathlib import Path
from statistics import median

import cells

RESULTS = Path(__file__).parent / "results" / "convolutions.json"

SHAPES = {"1": (1, 28, 28), "4": (4, 14, 14), "16": (16, 7, 7)}
OBJECTIVES = ("ssm", "dsm")
KERNEL_SIZE = 7
BATCH_SIZE = 100
TURNS = 15


def ways() -> dict:
    """Maps from a kernel and one image to the convolved image."""
    import jax
    import jax.numpy as jnp

    from flowebm.layers import Conv2d

    def layer(method):
        def convolve(kernel, x):
            return Conv2d(kernel, jnp.zeros(x.shape[0]), x.shape, method=method).forward(x)

        return convolve

    def windows(kernel, x):
        k, (_, height, width) = kernel.shape[-1], x.shape
        padded = jnp.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
        return [padded[:, a : a + height, b : b + width] for a in range(k) for b in range(k)]

    def im2col(kernel, x):
        gathered = jnp.stack(windows(kernel, x), axis=1)
        return jnp.einsum("ocn,cnhw->ohw", kernel.reshape(*kernel.shape[:2], -1), gathered)

    def shifts(kernel, x):
        taps = kernel.reshape(*kernel.shape[:2], -1)
        parts = windows(kernel, x)
        return sum(jnp.einsum("oc,chw->ohw", taps[..., n], part) for n, part in enumerate(parts))

    def fft(kernel, x):
        k, (_, height, width) = kernel.shape[-1], x.shape
        size = (height + k - 1, width + k - 1)
        spectrum = jnp.einsum(
            "ochw,chw->ohw",
            jnp.fft.rfft2(kernel[:, :, ::-1, ::-1], size),
            jnp.fft.rfft2(x, size),
        )
        full = jnp.fft.irfft2(spectrum, size)
        return jax.lax.slice(
            full, (0, k // 2, k // 2), (x.shape[0], k // 2 + height, k // 2 + width)
        )

    direct = {"direct": layer("direct"), "matrix": layer("matrix"), "rows": layer("rows")}
    return direct | {"im2col": im2col, "shifts": shifts, "fft": fft}


def measure(channels: str, objective: str) -> dict:
    """Milliseconds of a value and gradient, a way at a time, in turns."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import numpy as np

    from flowebm import objectives
    from flowebm.layers import Conv2d, SmoothLeakyReLU
    from flowebm.models import EBFlow
    from flowebm.models.trainable import partition_trainable

    shape = SHAPES[channels]
    batch = jax.random.normal(jax.random.key(0), (BATCH_SIZE, *shape))
    size = (shape[0], shape[0], KERNEL_SIZE, KERNEL_SIZE)
    kernels = 0.1 * jax.random.normal(jax.random.key(1), (2, *size))
    loss = getattr(objectives, objective)()

    def step(convolve):
        class Convolution(Conv2d):
            def forward(self, x):
                return convolve(self.kernel, x) + self.bias[:, None, None]

        first, second = (Convolution(kernel, jnp.zeros(shape[0]), shape) for kernel in kernels)
        model = EBFlow([first, SmoothLeakyReLU(shape, 0.3, True), second])
        params, static = partition_trainable(model)

        def value(params, key):
            return loss(eqx.combine(params, static), batch, key)

        run = jax.jit(jax.value_and_grad(value)).lower(params, jax.random.key(2)).compile()
        return lambda: jax.block_until_ready(run(params, jax.random.key(2)))

    steps = {name: step(convolve) for name, convolve in ways().items()}
    values = {name: float(run()[0]) for name, run in steps.items()}
    np.testing.assert_allclose(list(values.values()), values["direct"], rtol=1e-3)
    times = {name: [] for name in steps}
    for _ in range(TURNS):
        for name, run in steps.items():
            started = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - started))
    return {name: {"ms": median(t), "fastest_ms": min(t)} for name, t in times.items()}


def table(results: dict) -> str:
    """A row a shape and objective, as markdown."""
    names = ("direct", "matrix", "rows", "im2col", "shifts", "fft")
    lines = [
        f"| channels | objective | {' | '.join(f'{name}: ms, fastest' for name in names)} |",
        "|---" * (len(names) + 2) + "|",
    ]
    for channels in SHAPES:
        for objective, found in results.get(channels, {}).items():
            times = (f"{found[name]['ms']:.1f}, {found[name]['fastest_ms']:.1f}" for name in names)
            lines.append(f"| {channels} | {objective} | {' | '.join(times)} |")
    return "\n".join(lines)


def main() -> None:
    arguments = cells.parser(__doc__, RESULTS).parse_args()
    wanted = [{"channels": c, "objective": name} for c in SHAPES for name in OBJECTIVES]
    cells.main(arguments, wanted, measure, table, packages=("flowebm", "jax"))


if __name__ == "__main__":
    main()

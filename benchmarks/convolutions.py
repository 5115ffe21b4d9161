"""Ways to compute a convolution of images, in score-matching steps on this machine.

    python benchmarks/convolutions.py            # measure
    python benchmarks/convolutions.py --table    # the table of what has been measured

The model is two convolutions with a residual smooth leaky ReLU between them, on batches of 100
images; what is timed is the value and the gradient of an objective (`ssm` is forward-over-reverse,
and reverse over that). `direct` is XLA's convolution; `rows` convolves along the height alone, with
rows of the image as channels, and `fourier` does so between Fourier transforms (see
`flowebm.layers.convolution`); `gathered rows` multiplies every k rows by a band matrix; `matrix`
multiplies by the whole matrix; `im2col` gathers all neighbours; `shifts` adds shifted products;
`fft` multiplies spectra of both dimensions. MNIST's shapes have all of these; others have the three
that `auto` chooses from. Each shape and objective is a process of its own, in which the ways take
turns; times are medians, and of the fastest turns, beside whatever the machine does.
"""

import time
from functools import partial
from pathlib import Path
from statistics import median

import cells

RESULTS = Path(__file__).parent / "results" / "convolutions.json"

#: Images with a kernel's side: those that all ways are measured on, and those of three.
ALL_WAYS = ("1×28×28, 7", "4×14×14, 7", "16×7×7, 7")
THREE_WAYS = (
    "1×28×28, 3",
    "4×14×14, 3",
    "16×7×7, 3",
    "3×32×32, 7",
    "12×16×16, 7",
    "48×8×8, 7",
    "64×8×8, 7",
    "128×8×8, 7",
    "3×32×32, 3",
    "12×16×16, 3",
    "48×8×8, 3",
    "3×64×64, 3",
    "16×16×16, 7",
    "1×28×28, 5",
    "4×14×14, 5",
    "16×7×7, 5",
    "12×16×16, 5",
    "48×8×8, 5",
    "3×64×64, 7",
    "12×32×32, 7",
)
OBJECTIVES = ("ssm", "dsm")
BATCH_SIZE = 100
TURNS = 15


def ways() -> dict:
    """Maps from a kernel and one image to the convolved image."""
    import jax
    import jax.numpy as jnp

    from flowebm.layers import Conv2d
    from flowebm.layers.convolution import convolve
    from flowebm.layers.convolution import shifts as shifts_of_taps

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

    def matrix(kernel, x):
        whole = Conv2d(kernel, jnp.zeros(x.shape[0]), x.shape).matrix()
        return (whole @ x.ravel()).reshape(x.shape)

    def gathered_rows(kernel, x):
        k, (channels, height, width) = kernel.shape[-1], x.shape
        bands = jnp.einsum("ocab,bpq->acqop", kernel, shifts_of_taps(width, k))
        padded = jnp.pad(x, ((0, 0), (k // 2, k // 2), (0, 0)))
        rows = jnp.moveaxis(padded, 1, 0).reshape(-1, channels * width)
        gathered = jnp.concatenate([rows[a : a + height] for a in range(k)], axis=1)
        y = gathered @ bands.reshape(gathered.shape[1], -1)
        return jnp.moveaxis(y.reshape(height, channels, width), 0, 1)

    chosen = {name: partial(convolve, method=name) for name in ("direct", "rows", "fourier")}
    others = {"gathered rows": gathered_rows, "matrix": matrix}
    return chosen | others | {"im2col": im2col, "shifts": shifts, "fft": fft}


def measure(images: str, objective: str) -> dict:
    """Milliseconds of a value and gradient, a way at a time, in turns."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import numpy as np

    from flowebm import objectives
    from flowebm.layers import Conv2d, SmoothLeakyReLU
    from flowebm.models import EBFlow
    from flowebm.models.trainable import partition_trainable

    size, side = images.split(", ")
    shape, k = tuple(map(int, size.split("×"))), int(side)
    batch = jax.random.normal(jax.random.key(0), (BATCH_SIZE, *shape))
    kernels = 0.1 * jax.random.normal(jax.random.key(1), (2, shape[0], shape[0], k, k))
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

    measured = ways() if images in ALL_WAYS else dict(list(ways().items())[:3])
    steps = {name: step(convolve) for name, convolve in measured.items()}
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
    """A row of images and an objective, as markdown."""
    names = ("direct", "rows", "fourier", "gathered rows", "matrix", "im2col", "shifts", "fft")
    lines = [
        f"| images, kernel | objective | {' | '.join(f'{name}: ms, fastest' for name in names)} |",
        "|---" * (len(names) + 2) + "|",
    ]
    for images in (*ALL_WAYS, *THREE_WAYS):
        for objective, found in results.get(images, {}).items():
            times = (
                f"{found[name]['ms']:.1f}, {found[name]['fastest_ms']:.1f}" if name in found else ""
                for name in names
            )
            lines.append(f"| {images} | {objective} | {' | '.join(times)} |")
    return "\n".join(lines)


def main() -> None:
    arguments = cells.parser(__doc__, RESULTS).parse_args()
    wanted = [
        {"images": images, "objective": objective}
        for images in (*ALL_WAYS, *THREE_WAYS)
        for objective in OBJECTIVES
    ]
    cells.main(arguments, wanted, measure, table, packages=("flowebm", "jax"))


if __name__ == "__main__":
    main()

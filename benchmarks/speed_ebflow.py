"""Section `ebflow`: a step of EBFlows of MNIST's shape, against the same model in plain PyTorch.

The fully connected model and the convolutional one of the published experiments, as flowebm trains
them by default: behind a whitening, which no gradient passes. `ssm` with one direction and `dsm`,
batches of 100, Adam. The PyTorch model is written as one would: layers of `torch.nn`,
`torch.autograd.grad` with `create_graph`. Both start from the same parameters, and their losses
after some steps on the same batch and the same noise are compared before anything is timed. The
steps in JAX are those of one compiled loop, as in a training, on one device or on one for each
core, whichever is faster; PyTorch's operations share all cores. Turns alternate; ratios are medians
of the turns' ratios.

The rate of the machine is that of a product of two 784 x 784 matrices, in JAX, in the same turns.
The operations that a step must do are those of its linear maps alone, a multiply-add counted as
two: each product of a batch with a layer's matrix, wanted forwards, for the gradient in the point
and for that in the matrix, and for the derivatives of these three; a convolution counts as the
direct one would, and only the taps that hit the image.
"""

import os
from statistics import median

CELLS = ["fc ssm", "fc dsm", "cnn ssm", "cnn dsm"]
PACKAGES = ("flowebm", "jax", "optax", "torch")

SHAPE = (1, 28, 28)
SIZE = 784
BATCH_SIZE = 100
LEARNING_RATE = 1e-4
SIGMA = 1.0
ALPHA = 0.3
TURNS = 9

#: Steps of a turn: one compiled loop, as in a training, and as many calls of PyTorch's.
BLOCK = 4

#: Products with a layer's matrix, in a step and for each layer: forwards, for the gradient in the
#: point and for that in the matrix, with their first (`dsm`) and second (`ssm`) derivatives along
#: the point's way.
PRODUCTS = {"dsm": 3 * 2, "ssm": 3 * 3}

#: Of these the first layer does without the derivatives of the gradient in the point.
NOT_IN_THE_FIRST = {"dsm": 1, "ssm": 2}


def measure(name: str) -> dict:
    """Milliseconds of a step in JAX and in PyTorch, and the rate of products of matrices."""
    import jax

    cores = os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", cores)
    import numpy as np
    import torch
    from speed_loops import PRODUCT_FLOP, product, seconds_in_turns

    architecture, objective = name.split()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH_SIZE, *SHAPE)).astype(np.float32)
    noise = rng.normal(size=x.shape).astype(np.float32)
    signs = np.sign(noise)
    given = architecture, objective, x, noise, signs
    ours = {}
    for n in {1, cores}:
        on = f"{n} device{'s' * (n > 1)}"
        ours[on], multiplications, parameters = step_in_jax(*given, steps=BLOCK, n_devices=n)
    step = _theirs(*given, parameters)

    def theirs() -> float:
        return [step() for _ in range(BLOCK)][-1]

    their_loss = theirs()
    for run in ours.values():
        np.testing.assert_allclose(run(), their_loss, rtol=1e-3)

    times = seconds_in_turns({"theirs": theirs, "product": product(), **ours}, TURNS)
    best = min(ours, key=lambda on: median(times[on]))
    our_seconds, their_seconds = ([t / BLOCK for t in times[name]] for name in (best, "theirs"))
    rates = [PRODUCT_FLOP / seconds for seconds in times["product"]]
    flops = step_operations(objective, multiplications, BATCH_SIZE)
    pairs = list(zip(our_seconds, their_seconds, rates, strict=True))
    return {
        "ms": 1e3 * median(our_seconds),
        "on": best,
        "torch_ms": 1e3 * median(their_seconds),
        "ratio": median(theirs / ours for ours, theirs, _ in pairs),
        "ratios": [theirs / ours for ours, theirs, _ in pairs],
        "gflop": flops / 1e9,
        "product_gflops": median(rates) / 1e9,
        "fraction": median(flops / ours / rate for ours, _, rate in pairs),
        "torch_threads": torch.get_num_threads(),
    }


def step_operations(objective: str, multiplications: list[int], batch_size: int) -> int:
    """Floating-point operations of a step, given those of each layer's map of one point."""
    products = PRODUCTS[objective] * sum(multiplications)
    return 2 * batch_size * (products - NOT_IN_THE_FIRST[objective] * multiplications[0])


def step_in_jax(architecture, objective, x, noise, signs, *, steps=1, n_devices=1):
    """Steps in JAX, the multiplications of its linear maps for one point, and the parameters."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    from flowebm.layers import Conv2d, FullLinear
    from flowebm.models import EBFlow, convolutional_ebflow, fully_connected_ebflow
    from flowebm.models.over_points import DATA, mean_over_points
    from flowebm.models.trainable import partition_trainable
    from flowebm.objectives.sliced_score_matching import one_slice_each

    build = {"fc": fully_connected_ebflow, "cnn": convolutional_ebflow}[architecture]
    _, *layers = build(SHAPE, whiten=True).layers
    model = EBFlow(layers).initialized(jnp.asarray(x))
    params, static = partition_trainable(model)
    # Not the identity, so that a mistake in either program would show in the losses.
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [a + 0.01 * jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)]
    params = jax.tree.unflatten(structure, leaves)
    optimizer = optax.adam(LEARNING_RATE)

    # The objectives of flowebm with their draws given, so that both programs have the same.
    def noised_loss(model, x, noise):
        gradient = jax.grad(model.energy)(x + SIGMA * noise)
        return 0.5 * jnp.sum((noise / SIGMA - gradient) ** 2)

    def mean_loss(model, x, noise, signs):
        if objective == "ssm":
            return one_slice_each((model, x), signs)
        return jnp.mean(jax.vmap(lambda *point: noised_loss(model, *point))(x, noise))

    def step(params, state, batch):
        def loss(params):
            return mean_over_points(mean_loss, eqx.combine(params, static), *batch)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    def block(params, state, batch):
        start = params, state, jnp.zeros(())
        return jax.lax.fori_loop(0, steps, lambda _, kept: step(*kept[:2], batch), start)

    devices = jax.devices()[:n_devices]
    mesh = jax.make_mesh((n_devices,), (DATA,), (AxisType.Auto,), devices=devices)
    whole, shared_out = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (DATA,)))
    batch = jax.device_put((x, noise, signs), shared_out)
    compiled = jax.jit(block, donate_argnums=(0, 1))
    kept = jax.device_put([jax.tree.map(jnp.copy, params), optimizer.init(params)], whole)

    def run() -> float:
        with jax.set_mesh(mesh):
            *kept[:], value = compiled(*kept, batch)
        return float(value)

    multiplications = []
    for layer in model.layers:
        if isinstance(layer, FullLinear):
            multiplications.append(SIZE**2)
        elif isinstance(layer, Conv2d):
            multiplications.append(int(np.count_nonzero(_ones_like(layer).matrix())))
    return run, multiplications, jax.tree.map(np.asarray, eqx.combine(params, static))


def _ones_like(layer):
    import equinox as eqx
    import jax.numpy as jnp

    return eqx.tree_at(lambda conv: conv.kernel, layer, jnp.ones_like(layer.kernel))


def _theirs(architecture, objective, x, noise, signs, model):
    """A step in PyTorch from the same parameters."""
    import torch
    from torch import nn

    from flowebm.layers import ActNorm, Conv2d, FullLinear, SmoothLeakyReLU, Squeeze

    class Activation(nn.Module):
        """y = x + alpha x + (1 - alpha) softplus(x), without the first term unless residual."""

        def __init__(self, residual):
            super().__init__()
            self.residual = float(residual)

        def forward(self, x):
            y = ALPHA * x + (1 - ALPHA) * nn.functional.softplus(x) + self.residual * x
            slope = ALPHA + (1 - ALPHA) * torch.sigmoid(x) + self.residual
            return y, slope.log().flatten(1).sum(1)

    class Scale(nn.Module):
        def __init__(self, loc, log_scale):
            super().__init__()
            self.loc, self.log_scale = nn.Parameter(loc), nn.Parameter(log_scale)

        def forward(self, x):
            shape = (1, -1, *(1,) * (x.ndim - 2))
            return (x - self.loc.view(shape)) * torch.exp(-self.log_scale.view(shape))

    def tensor(array):
        return torch.tensor(array)

    def translated(layer):
        if isinstance(layer, FullLinear):
            linear = nn.Linear(SIZE, SIZE)
            linear.weight.data, linear.bias.data = tensor(layer.weight), tensor(layer.bias)
            return nn.Sequential(nn.Flatten(), linear, nn.Unflatten(1, layer.shape))
        if isinstance(layer, Conv2d):
            channels, k = layer.shape[0], layer.kernel.shape[-1]
            convolution = nn.Conv2d(channels, channels, k, padding="same")
            convolution.weight.data, convolution.bias.data = (
                tensor(layer.kernel),
                tensor(layer.bias),
            )
            return convolution
        if isinstance(layer, ActNorm):
            return Scale(tensor(layer.loc), tensor(layer.log_scale))
        if isinstance(layer, SmoothLeakyReLU):
            return Activation(layer.residual)
        if isinstance(layer, Squeeze):
            return nn.PixelUnshuffle(2)
        raise TypeError(f"No PyTorch layer is written here for a {type(layer).__name__}.")

    network = nn.ModuleList(map(translated, model.layers))
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    x, noise, signs = map(tensor, (x, noise, signs))

    def energy(y):
        log_det = 0.0
        for layer in network:
            y = layer(y)
            if isinstance(layer, Activation):
                y, term = y
                log_det = log_det + term
        return 0.5 * y.flatten(1).square().sum(1) - log_det

    def loss():
        point = (x + SIGMA * noise if objective == "dsm" else x).requires_grad_()
        (gradient,) = torch.autograd.grad(energy(point).sum(), point, create_graph=True)
        if objective == "dsm":
            return 0.5 * (noise / SIGMA - gradient).square().flatten(1).sum(1).mean()
        projected = (gradient * signs).sum()
        (product,) = torch.autograd.grad(projected, point, create_graph=True)
        return (0.5 * gradient.square() - signs * product).flatten(1).sum(1).mean()

    def run() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return float(value.detach())

    return run


def table(results: dict) -> str:
    """A row a model and objective, as markdown."""
    lines = [
        "| step | ms | on | PyTorch, ms | PyTorch / flowebm: median, least, most | GFLOP a step | "
        "rate of products, GFLOP/s | fraction of that rate |",
        "|---" * 8 + "|",
    ]
    for name, found in results.items():
        ratios = f"{found['ratio']:.2f}, {min(found['ratios']):.2f}, {max(found['ratios']):.2f}"
        lines.append(
            f"| {name} | {found['ms']:.1f} | {found['on']} | {found['torch_ms']:.1f} | {ratios} | "
            f"{found['gflop']:.2f} | {found['product_gflops']:.0f} | {found['fraction']:.0%} |"
        )
    return "\n".join(lines)

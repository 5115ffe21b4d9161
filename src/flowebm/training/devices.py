"""Many devices: which part of a run's arrays each of them holds."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray, PyTree

from flowebm.layers.full_linear import FullLinear
from flowebm.models.over_points import DATA
from flowebm.refusal import Refused
from flowebm.training.processes import arrays_of_first, n_processes
from flowebm.training.trainer import AbstractTrainer

#: The mesh's other axis, beside `DATA` of chains and batches: that of the rows of large matrices.
MODEL = "model"

_mesh: ContextVar[Mesh | None] = ContextVar("flowebm_mesh", default=None)


@contextmanager
def use_devices(n: int | None = None, *, model: int = 1) -> Iterator[int]:
    """Train on several devices: fits inside share their chains and batches out among them.

    Parameters are whole on every device. Keys, batches and statistics are those of one device:
    results differ by the order of summation alone. Several processes that `jax.distributed` has
    joined run the same program each, and use the devices of all of them together.

    A processor is one device to JAX, however many cores it has, unless the program begins with
    `jax.config.update("jax_num_cpu_devices", n)`, before flowebm is imported.

    Args:
        n: Number of devices; all that JAX sees by default.
        model: Devices among which the matrix of a `FullLinear` is shared out, so that chains and
            batches are in `n / model` parts.

    Yields:
        The number of devices.

    Raises:
        ValueError: If there are not so many devices, or `model` does not divide their number.
    """
    if n == model == 1 and n_processes() == 1:
        # Without a look at the devices, which may take seconds.
        yield 1
        return
    devices = jax.devices()
    n = len(devices) if n is None else n
    if not 1 <= n <= len(devices):
        on_cores = devices[0].platform == "cpu" and 1 < n <= (os.cpu_count() or 1)
        hint = f', or begin the program with jax.config.update("jax_num_cpu_devices", {n})'
        raise Refused(
            f"{n} devices are asked for, and JAX sees {len(devices)} ({devices[0].platform}): ask "
            f"for 1 up to that number{hint if on_cores else ''}."
        )
    if n_processes() > 1 and n != len(devices):
        raise Refused(
            f"The processes of a job use all of its {len(devices)} devices: leave the number out."
        )
    if model < 1 or n % model:
        raise Refused(f"model must divide the {n} devices; got {model}.")
    mesh = None
    if n > 1:
        shape, kinds = (n // model, model), (AxisType.Auto, AxisType.Auto)
        mesh = jax.make_mesh(shape, (DATA, MODEL), kinds, devices=devices[:n])
    token = _mesh.set(mesh)
    try:
        yield n
    finally:
        _mesh.reset(token)


def over_data(rows: PyTree[Array]) -> PyTree[Array]:
    """Share the rows of arrays out among the devices, inside the driver's compiled functions.

    Their number need not be a multiple of the devices'. On one device nothing changes.

    Args:
        rows: Arrays with one row a point.

    Returns:
        The same values, of the same shapes.
    """
    return _laid_out(rows, PartitionSpec(DATA))


def on_every_device(rows: PyTree[Array]) -> PyTree[Array]:
    """Give all rows of arrays to every device, inside the driver's compiled functions.

    What is then computed of them, of a number a point, each device computes for itself: one
    exchange instead of one for every sum and maximum. On one device nothing changes.

    Args:
        rows: Arrays with one row a point.

    Returns:
        The same values, of the same shapes.
    """
    return _laid_out(rows, PartitionSpec())


def _laid_out(rows: PyTree[Array], spec: PartitionSpec) -> PyTree[Array]:
    if jax.sharding.get_abstract_mesh().axis_names != (DATA, MODEL):
        return rows
    return jax.lax.with_sharding_constraint(rows, spec)


@dataclass(frozen=True)
class Placement:
    """Where the arrays of one run lie.

    They are known by their path: what a trainer calls its chains is shared out along `data`, the
    matrices of its `FullLinear` layers, with their averages and the optimizer's moments, along
    `model`; all else is whole on every device.

    Attributes:
        mesh: The devices, or `None` for JAX's default device.
        chains: Names of arrays with one row a chain, with the option that says how many.
        matrices: Ends of the paths of matrices.
    """

    mesh: Mesh | None
    chains: dict[str, str]
    matrices: tuple[str, ...]

    @classmethod
    def of(cls, trainer: AbstractTrainer) -> Self:
        """That of a trainer's run on the devices in use."""
        layers = jax.tree_util.tree_leaves_with_path(
            trainer, is_leaf=lambda node: isinstance(node, FullLinear)
        )
        # The state has the model's structure under other names.
        matrices = tuple(
            jax.tree_util.keystr(path[1:]) + ".weight"
            for path, layer in layers
            if isinstance(layer, FullLinear)
        )
        return cls(_mesh.get(), trainer.one_a_chain, matrices)

    def active(self) -> AbstractContextManager[Any]:
        """A context in which the driver's functions are traced for these devices."""
        return nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    def _axis(self, path: tuple[Any, ...]) -> str | None:
        name = jax.tree_util.keystr(path)
        if any(name.endswith(f".{chains}") for chains in self.chains):
            return DATA
        return MODEL if name.endswith(self.matrices) and self.matrices else None

    def _spec(self, path: tuple[Any, ...]) -> PartitionSpec:
        axis = self._axis(path)
        return PartitionSpec() if axis is None else PartitionSpec(axis)

    def constrain(self, state: PyTree[Array]) -> PyTree[Array]:
        """The state with its arrays where they belong, inside a compiled function."""
        if self.mesh is None:
            return state
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: jax.lax.with_sharding_constraint(leaf, self._spec(path)), state
        )

    def check(self, trainer: AbstractTrainer, key: PRNGKeyArray) -> None:
        """Refuse what cannot be shared out evenly.

        Args:
            trainer: The trainer, whose state it is about.
            key: A random key.

        Raises:
            ValueError: If there is such an array.
        """
        if self.mesh is None:
            return
        state = eqx.filter_eval_shape(trainer.init, key)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            axis = self._axis(path)
            if axis is None or leaf.shape[0] % self.mesh.shape[axis] == 0:
                continue
            parts = self.mesh.shape[axis]
            if axis == MODEL:
                raise Refused(
                    f"A matrix of {leaf.shape[0]} rows cannot be shared out evenly among "
                    f"model={parts} devices: choose a divisor of {leaf.shape[0]}."
                )
            option = next(o for name, o in self.chains.items() if f".{name}" in str(path[-1]))
            raise Refused(
                f"{leaf.shape[0]} chains cannot be shared out evenly among {parts} devices: make "
                f"{option} a multiple of {parts}, or use another number of devices."
            )

    def put(self, tree: PyTree[Any]) -> PyTree[Any]:
        """Arrays of this process on the devices; of several processes the first one's.

        Args:
            tree: A trainer, a state or a key.

        Returns:
            The same tree, of the same shapes, placed on the mesh; as it is on one device.
        """
        if self.mesh is None:
            return tree
        arrays, rest = eqx.partition(tree, eqx.is_array)
        is_key = jax.tree.map(lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key), arrays)
        bits = jax.tree.map(lambda x, key: jr.key_data(x) if key else x, arrays, is_key)
        if n_processes() > 1:
            bits = arrays_of_first(bits)
        bits = jax.tree_util.tree_map_with_path(self._put_array, bits)
        placed = jax.tree.map(
            lambda x, old, key: jr.wrap_key_data(x, impl=jr.key_impl(old)) if key else x,
            bits,
            arrays,
            is_key,
        )
        return eqx.combine(placed, rest)

    def _put_array(self, path: tuple[Any, ...], x: Any) -> Array:
        assert self.mesh is not None
        sharding = NamedSharding(self.mesh, self._spec(path))
        if n_processes() == 1:
            return jax.device_put(x, sharding)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    def local(self, state: PyTree[Array]) -> PyTree[Array]:
        """The state whole on this process's default device; valid while the state itself is."""
        if self.mesh is None:
            return state
        whole = jax.jit(_same, out_shardings=NamedSharding(self.mesh, PartitionSpec()))
        first = jax.local_devices()[0]

        def here(path, leaf):
            if self._axis(path) is not None:
                leaf = whole(leaf)
            shards = {shard.device: shard.data for shard in leaf.addressable_shards}
            return shards.get(first, next(iter(shards.values())))

        return jax.tree_util.tree_map_with_path(here, state)


def _same(x: Array) -> Array:
    return x

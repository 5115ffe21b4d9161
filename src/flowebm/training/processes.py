"""What the processes of one job agree on: the first decides, the others do the same."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, PyTree

T = TypeVar("T")

#: Bytes of the shortest message.
_SHORTEST = 1024


class OtherProcessFailed(RuntimeError):
    """This process could have gone on, and another could not; that one says why."""


def n_processes() -> int:
    """Processes of the job that this one has joined; 1 where it is alone."""
    # Asking JAX for them would look for devices, which may take seconds.
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that decides and writes files; one that is alone is."""
    return n_processes() == 1 or jax.process_index() == 0


def arrays_of_first(tree: PyTree[Array]) -> PyTree[np.ndarray]:
    """The first process's values of arrays, which have the same shapes in all processes.

    Args:
        tree: Arrays, each whole in this process.

    Returns:
        Arrays of the host, of the same shapes.
    """
    return multihost_utils.broadcast_one_to_all(jax.tree.map(np.asarray, tree))


def value_of_first(value: T) -> T:
    """The first process's value of anything that JSON holds exactly.

    Args:
        value: This process's.

    Returns:
        The first process's; in a process alone the value itself.
    """
    if n_processes() == 1:
        return value
    text = json.dumps(value).encode() if is_first() else b""
    # A power of two, because each size is a program to compile; JSON may end in spaces.
    size = max(_SHORTEST, 1 << (len(text) - 1).bit_length())
    size = int(arrays_of_first(np.array(size)))
    buffer = np.frombuffer(text.ljust(size), np.uint8)
    return json.loads(arrays_of_first(buffer).tobytes())


def of_every_process(number: int) -> list[int]:
    """A number of each process, in their order.

    Args:
        number: This process's.

    Returns:
        One number a process; of a process alone its own.
    """
    if n_processes() == 1:
        return [number]
    return multihost_utils.process_allgather(np.array(number)).ravel().tolist()


@contextmanager
def all_or_none() -> Iterator[None]:
    """Go on when all processes have come through what is inside; else none does.

    Yields:
        Nothing.

    Raises:
        OtherProcessFailed: In the processes that came through, if another did not.
    """
    failure: BaseException | None = None
    try:
        yield
    except BaseException as error:
        failure = error
    failed = of_every_process(int(failure is not None))
    if failure is not None:
        raise failure
    if any(failed):
        raise OtherProcessFailed(
            f"Stopped because process {failed.index(1)} of the job could not go on; it says why."
        )

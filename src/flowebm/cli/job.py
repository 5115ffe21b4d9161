"""A command as one of the processes of a job: how it joins them, and how it leaves."""

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from flowebm.refusal import Refused

#: Seconds in which a command that failed leaves the job, before it is ended: others that wait for
#: it in the midst of a computation would keep it for minutes.
_LEAVE = 10.0

#: Seconds that processes which are done wait for the one that measures the model and draws plots.
_MEASURE = 24 * 3600

_NOT_FOUND = (
    "--distributed finds no job here: run the command under SLURM's srun or MPI's mpirun, or set "
    "JAX_COORDINATOR_ADDRESS (host:port of the first process), JAX_NUM_PROCESSES and "
    "JAX_PROCESS_ID (0 for the first) in every process."
)


@contextmanager
def joined(arguments: Sequence[str]) -> Iterator[None]:
    """Join the other processes of the job, if the command line says that this is one.

    That comes before the command's own modules: some libraries compute when they are imported,
    and JAX joins no job after its first computation.

    Args:
        arguments: What stands behind `flowebm`.

    Raises:
        ValueError: If the environment names no job.
    """
    if arguments[0] != "train" or "--distributed" not in arguments:
        yield
        return
    import jax

    _set_others_output_aside()
    numbers = [_number(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")]
    try:
        jax.distributed.initialize(
            num_processes=numbers[0],
            process_id=numbers[1],
            shutdown_timeout_seconds=_MEASURE,
        )
    except ValueError as error:
        raise Refused(_NOT_FOUND) from error
    try:
        yield
    except BaseException as error:
        number = getattr(error, "number", None)
        status = 1 if number is None else 128 + number
        timer = threading.Timer(_LEAVE, os._exit, (status,))
        timer.daemon = True
        timer.start()
        raise


def _set_others_output_aside() -> None:
    """Leave standard output to Python: the library that joins processes writes there too."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors="replace")
    os.dup2(2, 1)


def _number(name: str) -> int | None:
    value = os.environ.get(name)
    if value is None:
        return None
    if not value.isdecimal():
        raise Refused(f"{name} in the environment must be a number; got {value!r}.")
    return int(value)

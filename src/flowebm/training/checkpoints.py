"""Checkpoints of a run in progress: the driver's state and its history, always of one moment."""

import functools
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from flowebm.atomic_write import cannot_write
from flowebm.refusal import Refused
from flowebm.training.driver import DriverState

History = list[dict[str, Any]]

#: The newest, and the one to fall back to if the newest cannot be read.
_KEPT = 2

#: What threads and abandoned coroutines raise, for nobody, after a failure that is known.
_ECHOES = ("Event loop is closed", "Encountered error while reading array index")

#: The one array of a state whose shape the data decide.
_OF_VALIDATION = "best_nll_points"


class Checkpoints:
    """Saves and restores `(state, history)` of each stage of a run, through Orbax.

    Each stage has a sub-folder with one numbered folder a checkpoint, which appears there
    whole or not at all: a run killed while it saves keeps the checkpoint before. `save` and
    `restore` fit `Callbacks.save` and `Callbacks.restore`.

    Args:
        directory: The folder of all stages; made when the first checkpoint is saved.
        interval: Seconds from one save to the next at least; a finished stage is saved
            always. One save costs a few tenths of a second.
        data: Checksum of the run's data. A checkpoint of other data is restored without its
            record of the best state, which was the best on other validation points.
    """

    def __init__(self, directory: str | Path, *, interval: float = 10.0, data: str | None = None):
        self._directory = Path(directory).absolute()
        self._data = data
        self._interval = interval
        self._managers: dict[str, Any] = {}
        self._next_save: dict[str, float] = {}

    def save(self, stage: str, state: DriverState, history: History, *, now: bool = False) -> None:
        """Save, if the stage is due or finished.

        Args:
            stage: The stage's name.
            state: The driver's state; its iteration numbers the checkpoint.
            history: The stage's rows of metrics so far.
            now: Whether to save though the stage is not due.

        Raises:
            CannotWrite: If the folder cannot be written in; the checkpoints in it stay.
        """
        is_due = time.monotonic() >= self._next_save.get(stage, 0.0)
        if not (is_due or now or bool(state.finished)):
            return
        import orbax.checkpoint as ocp

        step = int(state.iteration)
        with _quiet(), _writing(self._directory):
            manager = self._manager(stage)
            # What is newer than this state could not be read when the run resumed.
            for newer in [s for s in manager.all_steps() if s >= step]:
                manager.delete(newer)
            manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_numbered(_on_host(state))),
                    record=ocp.args.JsonSave(
                        {"leaves": _describe(state), "history": history, "data": self._data}
                    ),
                ),
                force=True,
            )
        self._next_save[stage] = time.monotonic() + self._interval

    def restore(self, stage: str, state_like: DriverState) -> tuple[DriverState, History] | None:
        """The newest checkpoint of a stage that can be read.

        Args:
            stage: The stage's name.
            state_like: A state of the same structure, shapes and dtypes; the restored arrays
                are placed on its devices.

        Returns:
            The state and the history, or `None` if the stage has no checkpoint.

        Raises:
            ValueError: If the checkpoint has another structure, shape or dtype than
                `state_like`, or if all of the stage's checkpoints are damaged.
            OSError: If they cannot be read at present.
        """
        try:
            os.listdir(self._directory / stage)
        except FileNotFoundError:
            return None
        with _quiet():
            try:
                manager = self._manager(stage)
                steps = sorted(manager.all_steps(), reverse=True)
            except Exception as error:
                _check_readable(self._directory / stage)
                raise Refused(
                    f"The checkpoints of stage {stage!r} in {self._directory} cannot be listed "
                    f"({error}): look at its files."
                ) from error
            for step in steps:
                checkpoint = self._read(manager, stage, step, state_like)
                if checkpoint is not None:
                    return checkpoint
        if not steps:
            return None
        raise Refused(
            f"No checkpoint of stage {stage!r} in {self._directory} can be read, because the files "
            "are damaged: bring them back from a copy, or begin another run in another directory."
        )

    def _read(
        self, manager: Any, stage: str, step: int, state_like: DriverState
    ) -> tuple[DriverState, History] | None:
        """One checkpoint, or `None` if its files are damaged.

        Damage shows itself as whatever the parser or the storage layer happens to raise, and so
        does a disk that does not answer for a moment: files that are damaged can be read, and read
        again they are as they were.

        Raises:
            OSError: If its files cannot be read at present.
        """
        for _ in range(2):
            try:
                return self._parsed(manager, stage, step, state_like)
            except (Refused, MemoryError):
                raise
            except Exception:
                _check_readable(self._directory / stage / str(step))
        return None

    def _parsed(
        self, manager: Any, stage: str, step: int, state_like: DriverState
    ) -> tuple[DriverState, History]:
        """One checkpoint; raises anything where its files are damaged."""
        import orbax.checkpoint as ocp

        args = ocp.args.Composite(record=ocp.args.JsonRestore())
        record = manager.restore(step, args=args).record
        saved, history = record["leaves"], record["history"]
        known = {record.get("data"), self._data} - {None}
        has_other_data = len(known) > 1
        n_validation = next(shape for name, shape, _ in saved if name == _OF_VALIDATION)
        fresh = state_like
        if has_other_data:
            points = jnp.zeros(n_validation, state_like.best_nll_points.dtype)
            state_like = eqx.tree_at(lambda s: s.best_nll_points, state_like, points)
        difference = _difference(saved, _describe(state_like))
        if difference:
            raise Refused(
                f"The checkpoint of stage {stage!r} in {self._directory} does not fit this run "
                f"({difference}): the run began with other options, so resume with those or "
                "begin another run in another directory."
            )
        leaves, structure = jax.tree.flatten(state_like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(_numbered(_on_host(state_like))))
        restored = manager.restore(step, args=args).state
        values = [_typed_like(leaf, restored[name]) for name, leaf in _numbered(leaves).items()]
        state = jax.tree.unflatten(structure, values)
        return _on_other_data(state, fresh) if has_other_data else state, history

    def _manager(self, stage: str) -> Any:
        _hush_echoes()
        if stage not in self._managers:
            import orbax.checkpoint as ocp

            # Of several processes one calls this, and must not wait for the others there.
            alone = {jax.process_index()}
            # Synchronous, because the driver donates the state's buffers to the next block.
            options = ocp.CheckpointManagerOptions(
                max_to_keep=_KEPT,
                enable_async_checkpointing=False,
                cleanup_tmp_directories=True,
                create=False,
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    primary_host=jax.process_index(), active_processes=alone
                ),
            )
            (self._directory / stage).mkdir(parents=True, exist_ok=True)
            self._managers[stage] = ocp.CheckpointManager(self._directory / stage, options=options)
        return self._managers[stage]


def _on_other_data(state: DriverState, fresh: DriverState) -> DriverState:
    """A state whose next evaluation is the first on these data, and its solution the best."""

    def record(s: DriverState) -> tuple[jax.Array, ...]:
        return s.best_nll, s.best_nll_points, s.best_iteration, s.first_nll

    # A copy, because the driver gives every buffer away once.
    iteration = jnp.copy(state.iteration)
    begun = (jnp.full_like(fresh.best_nll, jnp.inf), fresh.best_nll_points, iteration)
    return eqx.tree_at(record, state, (*begun, fresh.first_nll))


def _on_host(state: DriverState) -> list[np.ndarray]:
    """The arrays without the devices that they lie on, which may be others at the next start."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def _numbered(leaves: list[Any]) -> dict[str, Any]:
    return {f"{i:04d}": leaf for i, leaf in enumerate(leaves)}


def _describe(state: DriverState) -> list[list[Any]]:
    """Name, shape and dtype of every array."""
    return [
        [jax.tree_util.keystr(path).lstrip("."), list(leaf.shape), str(leaf.dtype)]
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    ]


def _difference(saved: list[list[Any]], expected: list[list[Any]]) -> str:
    """The first difference between two descriptions in words, or the empty string."""
    there = {name: (shape, dtype) for name, shape, dtype in saved}
    here = {name: (shape, dtype) for name, shape, dtype in expected}
    for name in here:
        if name not in there:
            return f"it has no {name}"
        if there[name] != here[name]:
            (old_shape, old_dtype), (shape, dtype) = there[name], here[name]
            old, new = (
                f"shape {tuple(shape)} and type {dtype}"
                for shape, dtype in ((old_shape, old_dtype), (shape, dtype))
            )
            return f"its {name} has {old}, not {new}"
    extra = [name for name in there if name not in here]
    return f"it has {extra[0]}, which this run has not" if extra else ""


def _typed_like(leaf: jax.Array, value: np.ndarray) -> jax.Array:
    """The value, weakly typed if the leaf is: a block would compile again for another type."""
    return leaf.at[...].set(value) if leaf.weak_type else jnp.array(value)


def _check_readable(folder: Path) -> None:
    """Refuse to judge files that cannot be read at all.

    Raises:
        OSError: If one of them cannot be.
    """
    try:
        for where, _, names in os.walk(folder, onerror=_raise):
            for name in names:
                Path(where, name).read_bytes()
    except OSError as error:
        raise OSError(
            f"The checkpoints in {folder} cannot be read at present ({error.strerror}: "
            f"{error.filename}). Nothing was changed: look at the disk and the permissions, and "
            "resume again."
        ) from error


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    """Orbax and its storage layer tell of a full disk by exceptions of every kind."""
    try:
        yield
    except Exception as error:
        raise cannot_write(directory, error) from error


@functools.cache
def _hush_echoes() -> None:
    """Keep off the terminal, for good, what comes late of failures that were told."""
    hook = sys.unraisablehook

    def without_echoes(raised: Any) -> None:
        if not any(echo in str(raised.exc_value) for echo in _ECHOES):
            hook(raised)

    sys.unraisablehook = without_echoes


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Orbax's log lines off the terminal."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)

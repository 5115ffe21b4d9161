"""The one loop with side effects: compiled blocks of iterations, and what happens between them."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree, Scalar

from flowebm.evaluation.weighted_mean import weighted_mean
from flowebm.training.devices import Placement, over_data
from flowebm.training.processes import value_of_first
from flowebm.training.random_order import random_order
from flowebm.training.row_weights import RowWeights, draw_rows
from flowebm.training.trainer import AbstractTrainer

#: How often the divergence guard goes back and lowers the learning rate before it gives up.
MAX_RECOVERIES = 3

#: Blocks that a time budget is taken to have room for while the pace is unknown. With too many the
#: learning rate would still be warming up when it is known, two blocks later.
EXPECTED_BLOCKS = 20

#: Nats above the best up to which a later state may be as good. With few validation points one
#: standard error is much more, and the latest of those within it has overfitted most.
MOST_RISE = 0.02

#: A run has overfitted where its validation NLL was so many standard errors above the best, and its
#: training NLL below what it was then, in so many evaluations one after the other.
OVERFITTED_STDERRS, OVERFITTED_EVALUATIONS = 3.0, 4


class TrainingDiverged(RuntimeError):
    """Training went non-finite or far off, again and again, in spite of lower learning rates."""


class DriverState(eqx.Module):
    r"""Everything that an exact resume needs; arrays only.

    Attributes:
        inner: The trainer's state.
        best: The trainer's solution that is kept: the latest as good as the best.
        best_nll: The lowest validation NLL, with $\log Z$ one standard error up, in nats.
        best_nll_points: The NLL of every validation point there.
        best_iteration: Its iteration.
        first_nll: The validation NLL before the first iteration.
        iteration: Iterations done.
        learning_rate_factor: The divergence guard's factor on the learning rates.
        recoveries: How often the guard went back.
        finished: Whether the run came to its end; a finished run resumes to nothing.
    """

    inner: PyTree[Array]
    best: PyTree[Array]
    best_nll: Scalar
    best_nll_points: Float[Array, " m"]
    best_iteration: Scalar
    first_nll: Scalar
    iteration: Scalar
    learning_rate_factor: Scalar
    recoveries: Scalar
    finished: Scalar


@dataclass(frozen=True)
class Outcome:
    """What a driven run ends with.

    Attributes:
        state: The last state.
        history: One row of metrics a block.
        stop_reason: Why it ended, in words.
        seconds_before: Seconds that it had taken when it was resumed; the history's seconds
            contain them.
    """

    state: DriverState
    history: list[dict[str, Any]]
    stop_reason: str
    seconds_before: float = 0.0


@dataclass
class Limits:
    """When a run ends.

    Attributes:
        max_steps: Iterations at most.
        time_budget: Seconds at most, compilation included, or `None`.
        patience: Evaluations without a better validation NLL before it stops, or `None`.
        block_length: Iterations of one compiled block.
    """

    max_steps: int
    time_budget: float | None = None
    patience: int | None = None
    block_length: int = 50


@dataclass
class Observers:
    """The effects at the edge; each is called once a block on the host.

    Where several processes train together each of them calls its own, which may wait for one
    another; what the first process restores, all go on from.

    Attributes:
        on_block: Receives the stage, the row of metrics and the total of iterations expected.
        save: Receives the stage, the driver's state and the history.
        restore: Receives the stage and a state of the right structure; returns the saved
            state and history, or `None`.
        warn: Receives one sentence.
    """

    on_block: list[Callable[[str, dict[str, Any], int], None]] = field(default_factory=list)
    save: Callable[[str, DriverState, list[dict[str, Any]]], None] | None = None
    restore: (
        Callable[[str, DriverState], tuple[DriverState, list[dict[str, Any]]] | None] | None
    ) = None
    warn: Callable[[str], None] = lambda sentence: None


def minibatches(
    key: PRNGKeyArray,
    n_rows: int,
    batch_size: int,
    n_batches: int,
    weights: RowWeights | None = None,
) -> Array:
    """Rows for consecutive minibatches, without replacement within an epoch.

    Args:
        key: Random key.
        n_rows: Rows of the data.
        batch_size: Rows of a minibatch.
        n_batches: Number of minibatches.
        weights: How much rows count; a row is then taken in proportion to its weight.

    Returns:
        Row numbers of shape (n_batches, batch_size).
    """
    epochs = -(-n_batches * batch_size // n_rows)
    # Of an epoch that lasts longer than these batches only their places.
    places = jnp.arange(min(n_rows, n_batches * batch_size))
    rows = jax.vmap(lambda k: random_order(k, n_rows, places))(jr.split(key, epochs)).ravel()
    rows = rows[: n_batches * batch_size].reshape(n_batches, batch_size)
    # Folding numbers in and splitting give the same keys: this one is beyond the epochs'.
    return draw_rows(weights, jr.fold_in(key, epochs), rows)


@eqx.filter_jit(donate="all-except-first")
def _evaluate(frozen, state: DriverState):
    """Evaluate, and keep the solution if it is the best so far or as good as the best.

    NLLs are compared with log Z one standard error up: one that is low because draws have missed
    most of the mass has a log Z that is little more than a guess, and says so.

    As good means within one standard error of the paired difference on the validation points, and
    within `MOST_RISE`: among states that these points cannot tell apart, the latest has the
    longest average and the lowest learning rate behind it, and the one that looks best is merely
    the luckiest. The difference and its error are added to the metrics.
    """
    trainer, key = frozen
    # The same key at every evaluation: common random numbers, for the same reason.
    metrics, nll_points = trainer.evaluate(jr.fold_in(key, 1), state.inner)
    if nll_points is None:
        # A trainer that cannot know its likelihood keeps its last state.
        record = (state.best_nll, state.best_nll_points, state.best_iteration)
        keeps = jnp.array(True)
    else:
        difference = nll_points - state.best_nll_points
        weights = None if trainer.weights is None else trainer.weights.validation
        stderr = weighted_mean(difference, weights).stderr
        nll = metrics["nll"] + metrics.get("log_partition_stderr", 0.0)
        rise = jnp.where(jnp.isinf(state.best_nll), 0.0, nll - state.best_nll)
        is_best = nll < state.best_nll
        keeps = is_best | (rise < jnp.minimum(stderr, MOST_RISE))
        metrics = metrics | {"nll_rise": rise, "nll_rise_stderr": stderr}
        record = jax.tree.map(
            lambda new, old: jnp.where(is_best, new, old),
            (nll, nll_points, state.iteration),
            (state.best_nll, state.best_nll_points, state.best_iteration),
        )
    best = jax.tree.map(
        lambda new, old: jnp.where(keeps, new, old), trainer.solution(state.inner), state.best
    )
    state = eqx.tree_at(
        lambda s: (s.best_nll, s.best_nll_points, s.best_iteration, s.best), state, (*record, best)
    )
    return Placement.of(trainer).constrain(_strongly_typed(state)), metrics


def _strongly_typed(state: PyTree[Array]) -> PyTree[Array]:
    """The same arrays without weak types, which the first block would change: the second would
    then compile anew."""
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), state)


@eqx.filter_jit
def _start(trainer: AbstractTrainer, key: PRNGKeyArray) -> DriverState:
    inner = trainer.init(jr.fold_in(key, 0))
    _, nll_points = jax.eval_shape(trainer.evaluate, key, inner)
    state = DriverState(
        inner=inner,
        best=jax.tree.map(jnp.copy, trainer.solution(inner)),
        best_nll=jnp.array(jnp.inf),
        best_nll_points=jnp.zeros(() if nll_points is None else nll_points.shape),
        best_iteration=jnp.array(0),
        first_nll=jnp.array(jnp.inf),
        iteration=jnp.array(0),
        learning_rate_factor=jnp.array(1.0),
        recoveries=jnp.array(0),
        finished=jnp.array(False),
    )
    return Placement.of(trainer).constrain(_strongly_typed(state))


@eqx.filter_jit(donate="all-except-first")
def _run_block(frozen, state: DriverState, length: int, total: ArrayLike):
    """`length` iterations as one program; `frozen` is not donated."""
    trainer, key = frozen
    placement = Placement.of(trainer)
    # Randomness is a function of the run's key and the iteration alone: a resumed run needs
    # no other memory.
    block_key = jr.fold_in(jr.fold_in(key, 2), state.iteration)
    batches = minibatches(
        block_key, trainer.data.shape[0], trainer.batch_size, length, trainer.weights
    )

    def body(carry, batch):
        inner, iteration = carry
        factor = trainer.schedule(iteration / total) * state.learning_rate_factor
        inner, metrics = trainer.step(
            jr.fold_in(jr.fold_in(key, 3), iteration), inner, over_data(batch), factor
        )
        return (placement.constrain(inner), iteration + 1), metrics

    (inner, iteration), metrics = jax.lax.scan(body, (state.inner, state.iteration), batches)
    state = eqx.tree_at(lambda s: (s.inner, s.iteration), state, (inner, iteration))
    metrics = jax.tree.map(lambda m: jnp.mean(m, axis=0), metrics)
    return placement.constrain(_strongly_typed(state)), metrics


def _row(stage: str, metrics: dict[str, Scalar], iteration: int, started: float) -> dict[str, Any]:
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    seconds = round(time.monotonic() - started, 3)
    # Processes that disagreed on the time would end at different blocks, and wait for ever.
    return value_of_first({"stage": stage, "iteration": iteration, "seconds": seconds, **values})


def drive(
    key: PRNGKeyArray,
    trainer: AbstractTrainer,
    limits: Limits,
    observers: Observers | None = None,
) -> Outcome:
    """Run a trainer to its end.

    The host touches the loop once a block. A block whose metrics are non-finite, or whose NLL is
    worse than at the start by more than one nat a coordinate, on validation data and on training
    data, has diverged: the run goes back to the block's start with half the learning rate, and
    gives up after `MAX_RECOVERIES` times.

    With a time budget, the iterations that fit are estimated anew after each block from the second
    on, so that schedules reach their end with the budget; without one, a run is a pure function of
    its key and inputs. The seconds that a resumed run had taken before count.

    A run that has overfitted ends, whatever its patience: one whose validation NLL has been
    `OVERFITTED_STDERRS` standard errors above the best in `OVERFITTED_EVALUATIONS` evaluations one
    after the other, with a lower training NLL. The errors are those of the paired difference and of
    both log Z.

    Args:
        key: Random key; all randomness of the run derives from it and the iteration number.
        trainer: The algorithm.
        limits: When to stop.
        observers: Progress, metrics and checkpoints.

    Returns:
        The last state, the history and the reason of the stop.

    Raises:
        TrainingDiverged: If the guard has given up.
        ValueError: If the devices in use cannot share the chains out evenly.
    """
    observers = observers or Observers()
    started = time.monotonic()
    seconds_before = 0.0
    placement = Placement.of(trainer)
    placement.check(trainer, key)
    limits = replace(limits, time_budget=value_of_first(limits.time_budget))
    # Programs are looked up by what is static: stages that differ in their name share one.
    stage, trainer = trainer.stage, replace(trainer, stage="")
    frozen = trainer, key = placement.put((trainer, key))
    with placement.active():
        state, metrics = _evaluate(frozen, _start(trainer, key))
    if "nll" in metrics:
        state = eqx.tree_at(lambda s: s.first_nll, state, jnp.copy(metrics["nll"]))
    history: list[dict[str, Any]] = []
    restored = _restored(observers, stage, state, placement)
    if restored is not None:
        state, history = restored
        seconds_before = history[-1]["seconds"] if history else 0.0
        started -= seconds_before
        total = _expected_total(limits, history)
    else:
        history.append(_row(stage, metrics, 0, started))
        total = _expected_total(limits, history)
        for observe in observers.on_block:
            observe(stage, history[-1], total)
    divergence_margin = float(math.prod(trainer.data.shape[1:]))
    stop_reason = "nothing left to do"
    rows_before = len(history)

    while not bool(state.finished) and int(state.iteration) < limits.max_steps:
        iteration = int(state.iteration)
        length = min(limits.block_length, limits.max_steps - iteration)
        backup = jax.tree.map(jnp.copy, state)
        with placement.active():
            state, metrics = _run_block(frozen, state, length, np.asarray(float(total)))
            state, evaluation = _evaluate(frozen, state)
        row = _row(stage, metrics | evaluation, int(state.iteration), started)
        values = [v for v in row.values() if isinstance(v, float)]
        first_nll = float(state.first_nll)
        nll = row.get("nll", -math.inf)
        # A model that is bad on validation data and good on its own has overfitted, which is
        # for patience to stop, not for a lower learning rate to mend.
        excess = min(nll, row.get("train_nll", nll)) - first_nll
        diverged = not all(map(math.isfinite, values)) or excess > divergence_margin
        if diverged:
            recoveries = int(backup.recoveries) + 1
            if recoveries > MAX_RECOVERIES:
                raise TrainingDiverged(
                    f"Stage {stage!r} diverged at iteration {row['iteration']} "
                    f"(validation NLL {nll:.3g}, {first_nll:.3g} at the start) after "
                    f"{MAX_RECOVERIES} returns to a good state with ever lower learning rates: "
                    "lower the learning rate, or look for outliers in the data."
                )
            factor = backup.learning_rate_factor / 2
            state = eqx.tree_at(
                lambda s: (s.learning_rate_factor, s.recoveries),
                backup,
                (factor, backup.recoveries + 1),
            )
            observers.warn(
                f"Stage {stage!r} diverged before iteration {row['iteration']}; going "
                f"back to iteration {iteration} with the learning rate times {float(factor):g}."
            )
            continue
        history.append(row)
        stop_reason = _stop_reason(limits, state, history)
        # A process's first block contains the compilation, which does not recur.
        if len(history) > rows_before + 1:
            total = _expected_total(limits, history)
        if stop_reason:
            state = eqx.tree_at(lambda s: s.finished, state, state.iteration >= 0)
        for observe in observers.on_block:
            observe(stage, row, total)
        if observers.save:
            observers.save(stage, placement.local(state), history)
    return Outcome(placement.local(state), history, stop_reason, seconds_before)


def _restored(
    observers: Observers, stage: str, state: DriverState, placement: Placement
) -> tuple[DriverState, list[dict[str, Any]]] | None:
    """What the first process restores, on the devices in use."""
    if observers.restore is None:
        return None
    state = placement.local(state)
    restored = observers.restore(stage, state)
    history = value_of_first(None if restored is None else restored[1])
    if history is None:
        return None
    return placement.put(state if restored is None else restored[0]), history


def _expected_total(limits: Limits, history: list[dict[str, Any]]) -> int:
    """The iterations that fit into the time, at the pace of the last block."""
    if limits.time_budget is None:
        return limits.max_steps
    if len(history) < 3:
        return min(limits.max_steps, EXPECTED_BLOCKS * limits.block_length)
    before, last = history[-2:]
    seconds = max(last["seconds"] - before["seconds"], 1e-3)
    left = max(0.0, limits.time_budget - last["seconds"])
    iterations = int(left / seconds * (last["iteration"] - before["iteration"]))
    return min(limits.max_steps, last["iteration"] + iterations)


def _stop_reason(limits: Limits, state: DriverState, history: list[dict[str, Any]]) -> str:
    """Why the run should end after its last block, or the empty string."""
    row = history[-1]
    iteration = row["iteration"]
    if row.get("finished"):
        return "nothing left to gain"
    if iteration >= limits.max_steps:
        return "all iterations done"
    if limits.time_budget is not None and row["seconds"] >= limits.time_budget:
        return "time budget spent"
    # Without a likelihood there is nothing that could fall.
    if "nll" not in row:
        return ""
    if limits.patience is not None:
        without = (iteration - int(state.best_iteration)) / limits.block_length
        if without >= limits.patience:
            return "validation NLL no longer falls"
    if _has_overfitted(history, int(state.best_iteration)):
        return "validation NLL has risen"
    return ""


def _has_overfitted(history: list[dict[str, Any]], best_iteration: int) -> bool:
    """Whether validation data have become clearly worse while training data have become better.

    A spike of the loss, from which a run recovers, makes both worse.
    """
    # The first row tells nothing of minibatches.
    since = [row for row in history[1:] if row["iteration"] >= best_iteration]
    last = since[-OVERFITTED_EVALUATIONS:]
    return len(last) == OVERFITTED_EVALUATIONS and all(
        row.get("nll_rise", 0.0) > OVERFITTED_STDERRS * _stderr_of_rise(row, since[0])
        and row.get("train_nll", math.inf) < since[0].get("train_nll", -math.inf)
        for row in last
    )


def _stderr_of_rise(row: dict[str, Any], best: dict[str, Any]) -> float:
    """Of the validation NLL's rise: the paired difference's, and that of log Z of both.

    Where few draws are effective the latter is the larger by far, and is no rise of anything.
    """
    log_z = (evaluation.get("log_partition_stderr", 0.0) for evaluation in (row, best))
    return math.hypot(row.get("nll_rise_stderr", 0.0), *log_z)

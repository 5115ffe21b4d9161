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
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, PyTree, Scalar

from flowebm.evaluation.estimate import warn
from flowebm.evaluation.weighted_mean import weighted_mean
from flowebm.training.budget import Budget, compile_in_time
from flowebm.training.devices import Placement, over_data
from flowebm.training.processes import value_of_first
from flowebm.training.random_order import rows_in_epochs
from flowebm.training.row_weights import RowWeights, draw_rows
from flowebm.training.trainer import AbstractTrainer

#: How often the divergence guard goes back and lowers the learning rate before it gives up.
MAX_RECOVERIES = 3

#: Blocks that a time budget is taken to have room for while the pace is unknown. With too many the
#: learning rate would still be warming up when it is known, two blocks later.
EXPECTED_BLOCKS = 20

#: Seconds of iterations until the host looks at a run: it is then saved and may be stopped.
BLOCK_SECONDS = 3.0

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
        good: That at the last evaluation, to which the divergence guard goes back.
        good_iteration: Its iteration.
        sums: Sums of the metrics of the iterations since.
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
    good: PyTree[Array]
    good_iteration: Scalar
    sums: dict[str, Scalar]
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
    """

    state: DriverState
    history: list[dict[str, Any]]
    stop_reason: str


@dataclass
class StoppingCriteria:
    """When a run ends.

    Attributes:
        max_steps: Iterations at most.
        time_budget: Seconds at most, compilation included; a `Budget`, or a part of one, that
            this run shares with others; or `None`.
        patience: Evaluations without a better validation NLL before it stops, or `None`.
        block_length: Iterations from one evaluation to the next.
    """

    max_steps: int
    time_budget: float | Budget | None = None
    patience: int | None = None
    block_length: int = 50


@dataclass
class Callbacks:
    """The effects at the edge; each is called once a block on the host, and `save` more often where
    blocks take more than a few seconds.

    Where several processes train together each of them calls its own, which may wait for one
    another; what the first process restores, all go on from.

    Attributes:
        on_block: Receives the stage, the row of metrics and the total of iterations expected.
        save: Receives the stage, the driver's state and the history.
        restore: Receives the stage and a state of the right structure; returns the saved
            state and history, or `None`.
        warn: Receives one sentence; by default it raises it as an `EstimateWarning`.
    """

    on_block: list[Callable[[str, dict[str, Any], int], None]] = field(default_factory=list)
    save: Callable[[str, DriverState, list[dict[str, Any]]], None] | None = None
    restore: (
        Callable[[str, DriverState], tuple[DriverState, list[dict[str, Any]]] | None] | None
    ) = None
    warn: Callable[[str], None] = warn


def minibatch(
    key: PRNGKeyArray,
    n_rows: Int[ArrayLike, ""],
    batch_size: int,
    iteration: Int[ArrayLike, ""],
    weights: RowWeights | None = None,
) -> Int[Array, " batch"]:
    """Rows of one iteration's minibatch, without replacement within an epoch.

    They depend on the key and the iteration alone, not on how often the run is looked at.

    Args:
        key: Random key of the run.
        n_rows: Rows of the data.
        batch_size: Rows of a minibatch.
        iteration: Number of the iteration, from 0.
        weights: How much rows count; a row is then taken in proportion to its weight.

    Returns:
        Row numbers.
    """
    first = jnp.asarray(iteration, jnp.uint32) * batch_size
    rows = rows_in_epochs(jr.fold_in(key, 0), n_rows, first, batch_size)
    return draw_rows(weights, jr.fold_in(jr.fold_in(key, 1), iteration), rows)


@eqx.filter_jit
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
    n_iterations = state.iteration - state.good_iteration
    means = jax.tree.map(lambda total: total / jnp.maximum(n_iterations, 1), state.sums)
    state = eqx.tree_at(
        lambda s: (
            *(s.best_nll, s.best_nll_points, s.best_iteration, s.best),
            *(s.good, s.good_iteration, s.sums),
        ),
        state,
        (
            *record,
            best,
            # Copies, because the driver gives every buffer away once.
            *jax.tree.map(jnp.copy, (state.inner, state.iteration)),
            jax.tree.map(jnp.zeros_like, state.sums),
        ),
    )
    return Placement.of(trainer).constrain(_strongly_typed(state)), metrics, means


def _strongly_typed(state: PyTree[Array]) -> PyTree[Array]:
    """The same arrays without weak types, which the first block would change: the second would
    then compile anew."""
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), state)


@eqx.filter_jit
def _start(trainer: AbstractTrainer, key: PRNGKeyArray) -> DriverState:
    inner = trainer.init(jr.fold_in(key, 0))
    _, nll_points = jax.eval_shape(trainer.evaluate, key, inner)
    batch, factor = jnp.zeros(trainer.batch_size, int), jnp.ones(())
    _, metrics = eqx.filter_eval_shape(_step, trainer, key, _strongly_typed(inner), batch, factor)
    state = DriverState(
        inner=inner,
        good=jax.tree.map(jnp.copy, inner),
        good_iteration=jnp.array(0),
        sums=jax.tree.map(lambda metric: jnp.zeros(metric.shape), metrics),
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


@eqx.filter_jit
def _step(trainer: AbstractTrainer, *args: Any) -> tuple[PyTree[Array], dict[str, Scalar]]:
    """One iteration, as a function that is traced once: for its metrics, and to be compiled."""
    return trainer.step(*args)


@eqx.filter_jit(donate="all-except-first")
def _run_block(frozen, state: DriverState, length: Int[ArrayLike, ""], total: ArrayLike):
    """So many iterations, by one program whatever their number; `frozen` is not donated."""
    trainer, key = frozen
    placement = Placement.of(trainer)
    n_rows = trainer.data.shape[0] if trainer.weights is None else trainer.weights.n

    # Randomness is a function of the run's key and the iteration alone: a resumed run needs
    # no other memory.
    def body(_, carry):
        inner, iteration, sums = carry
        batch = minibatch(
            jr.fold_in(key, 2), n_rows, trainer.batch_size, iteration, trainer.weights
        )
        factor = trainer.schedule(iteration / total) * state.learning_rate_factor
        step_key = jr.fold_in(jr.fold_in(key, 3), iteration)
        inner, metrics = _step(trainer, step_key, inner, over_data(batch), factor)
        sums = jax.tree.map(lambda total, metric: total + metric, sums, metrics)
        return placement.constrain(_strongly_typed(inner)), iteration + 1, sums

    carry = state.inner, state.iteration, state.sums
    carry = jax.lax.fori_loop(0, length, body, carry)
    state = eqx.tree_at(lambda s: (s.inner, s.iteration, s.sums), state, carry)
    return placement.constrain(_strongly_typed(state))


def _row(stage: str, metrics: dict[str, Scalar], iteration: int, budget: Budget) -> dict[str, Any]:
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    seconds = round(budget.used(), 3)
    # Processes that disagreed on the time would end at different blocks, and wait for ever.
    return value_of_first({"stage": stage, "iteration": iteration, "seconds": seconds, **values})


def drive(
    key: PRNGKeyArray,
    trainer: AbstractTrainer,
    stopping: StoppingCriteria,
    callbacks: Callbacks | None = None,
) -> Outcome:
    """Run a trainer to its end.

    A run is evaluated every `block_length` iterations. The host looks at it then, and every
    `BLOCK_SECONDS` or so where that takes longer: it may be saved there, stopped by who saves it,
    and out of time. Where it is looked at makes no difference to the result.

    A block whose metrics are non-finite, or whose NLL is worse than at the start by more than one
    nat a coordinate, on validation data and on training data, has diverged: the run goes back to
    the block's start with half the learning rate, and gives up after `MAX_RECOVERIES` times.

    With a time budget, the iterations that fit are estimated anew after each block, so that
    schedules reach their end with the budget; without one, a run is a pure function of its key and
    inputs. A run whose program could not be compiled in what is left, at the pace that was measured
    on this machine, does not begin: it ends as it started, with the reason "time budget spent".
    Seconds in the history are those of the whole budget; what a resumed run had used before is
    restored into it.

    A run that has overfitted ends, whatever its patience: one whose validation NLL has been
    `OVERFITTED_STDERRS` standard errors above the best in `OVERFITTED_EVALUATIONS` evaluations one
    after the other, with a lower training NLL. The errors are those of the paired difference and of
    both log Z.

    Args:
        key: Random key; all randomness of the run derives from it and the iteration number.
        trainer: The algorithm.
        stopping: When to stop.
        callbacks: Progress, metrics and checkpoints.

    Returns:
        The last state, the history and the reason of the stop.

    Raises:
        TrainingDiverged: If the guard has given up.
        ValueError: If the devices in use cannot share the chains out evenly.
    """
    callbacks = callbacks or Callbacks()
    budget = Budget.of(stopping.time_budget)
    placement = Placement.of(trainer)
    placement.check(trainer, key)
    # Programs are looked up by what is static: stages that differ in their name share one.
    stage, trainer = trainer.stage, replace(trainer, stage="")
    frozen = trainer, key = placement.put((trainer, key))
    with placement.active():
        state, metrics, _ = _evaluate(frozen, _start(trainer, key))
    if "nll" in metrics:
        state = eqx.tree_at(lambda s: s.first_nll, state, jnp.copy(metrics["nll"]))
    history: list[dict[str, Any]] = []
    restored = _restored(callbacks, stage, state, placement)
    if restored is not None:
        state, history = restored
        budget.restore(history[-1]["seconds"] if history else 0.0)
    pace = _Pace(stopping, budget)
    if restored is None:
        history.append(_row(stage, metrics, 0, budget))
        for observe in callbacks.on_block:
            observe(stage, history[-1], pace.total)
    divergence_margin = float(math.prod(trainer.data.shape[1:]))
    stop_reason = "nothing left to do"
    iteration = int(state.iteration)

    while not bool(state.finished) and iteration < stopping.max_steps:
        until = min(
            (iteration // stopping.block_length + 1) * stopping.block_length, stopping.max_steps
        )
        with placement.active():
            length = pace.length(until - iteration)
            given = frozen, state, np.asarray(length), np.asarray(float(pace.total))
            if not pace.is_compiled and not compile_in_time(budget, _run_block, *given):
                stop_reason = "time budget spent"
                break
            state = _run_block(*given)
            iteration = int(state.iteration)
            pace.ran(iteration, length)
            if iteration < until and not budget.is_spent():
                if callbacks.save and pace.took_long:
                    callbacks.save(stage, placement.local(state), history)
                continue
            evaluated, evaluation, means = _evaluate(frozen, state)
        row = _row(stage, means | evaluation, iteration, budget)
        values = [v for v in row.values() if isinstance(v, float)]
        first_nll = float(state.first_nll)
        nll = row.get("nll", -math.inf)
        # A model that is bad on validation data and good on its own has overfitted, which is
        # for patience to stop, not for a lower learning rate to mend.
        excess = min(nll, row.get("train_nll", nll)) - first_nll
        if not all(map(math.isfinite, values)) or excess > divergence_margin:
            if int(state.recoveries) == MAX_RECOVERIES:
                raise TrainingDiverged(
                    f"Stage {stage!r} diverged at iteration {row['iteration']} "
                    f"(validation NLL {nll:.3g}, {first_nll:.3g} at the start) after "
                    f"{MAX_RECOVERIES} returns to a good state with ever lower learning rates: "
                    "lower the learning rate, or look for outliers in the data."
                )
            state = _back(state)
            iteration = int(state.iteration)
            callbacks.warn(
                f"Stage {stage!r} diverged before iteration {row['iteration']}; going back to "
                f"iteration {iteration} with the learning rate times "
                f"{float(state.learning_rate_factor):g}."
            )
            continue
        state = evaluated
        history.append(row)
        stop_reason = _stop_reason(stopping, budget, state, history)
        pace.evaluated(iteration)
        if stop_reason:
            state = eqx.tree_at(
                lambda s: s.finished, state, placement.put(jax.device_put(np.True_))
            )
        for observe in callbacks.on_block:
            observe(stage, row, pace.total)
        if callbacks.save:
            callbacks.save(stage, placement.local(state), history)
    return Outcome(placement.local(state), history, stop_reason)


def _back(state: DriverState) -> DriverState:
    """The state at the last evaluation, with half the learning rate."""
    return eqx.tree_at(
        lambda s: (s.inner, s.iteration, s.sums, s.learning_rate_factor, s.recoveries),
        state,
        (
            # Copies, because every buffer is given away once.
            *jax.tree.map(jnp.copy, (state.good, state.good_iteration)),
            jax.tree.map(jnp.zeros_like, state.sums),
            state.learning_rate_factor / 2,
            state.recoveries + 1,
        ),
    )


class _Pace:
    """What iterations and evaluations take, and so how many of them fit.

    Attributes:
        total: Iterations that the run is expected to have in all.
        is_compiled: Whether the program has run.
        took_long: Whether the last iterations took long enough to be saved.
    """

    def __init__(self, stopping: StoppingCriteria, budget: Budget):
        self._limits, self._budget = stopping, budget
        self._looked = time.monotonic()
        self._iteration: float | None = None
        self._evaluation = 0.0
        self.is_compiled = self.took_long = False
        self.total = stopping.max_steps
        if budget.is_limited:
            self.total = min(stopping.max_steps, EXPECTED_BLOCKS * stopping.block_length)

    def length(self, most: int) -> int:
        """Iterations until the host looks again: one, until it is known how long one takes."""
        self._looked = time.monotonic()
        if self._iteration is None:
            return 1
        seconds = min(BLOCK_SECONDS, self._budget.left() or BLOCK_SECONDS)
        return value_of_first(max(1, min(most, int(seconds / self._iteration))))

    def ran(self, iteration: int, length: int) -> None:
        """Learn from iterations that were made since `length` was asked for."""
        now = time.monotonic()
        if self.is_compiled:
            self._iteration = max((now - self._looked) / length, 1e-6)
        self.took_long = now - self._looked > BLOCK_SECONDS / 3
        self._looked = now
        if self.is_compiled and self.took_long:
            self._expect(iteration)
        self.is_compiled = True

    def evaluated(self, iteration: int) -> None:
        """Learn from an evaluation after those iterations."""
        self._evaluation = time.monotonic() - self._looked
        self._expect(iteration)

    def _expect(self, iteration: int) -> None:
        left = self._budget.left()
        if left is None or self._iteration is None:
            return
        price = self._iteration + self._evaluation / self._limits.block_length
        more = value_of_first(int(left / price))
        self.total = min(self._limits.max_steps, iteration + more)


def _restored(
    callbacks: Callbacks, stage: str, state: DriverState, placement: Placement
) -> tuple[DriverState, list[dict[str, Any]]] | None:
    """What the first process restores, on the devices in use."""
    if callbacks.restore is None:
        return None
    state = placement.local(state)
    restored = callbacks.restore(stage, state)
    history = value_of_first(None if restored is None else restored[1])
    if history is None:
        return None
    return placement.put(state if restored is None else restored[0]), history


def _stop_reason(
    stopping: StoppingCriteria, budget: Budget, state: DriverState, history: list[dict[str, Any]]
) -> str:
    """Why the run should end after its last block, or the empty string."""
    row = history[-1]
    iteration = row["iteration"]
    if row.get("finished"):
        return "nothing left to gain"
    if iteration >= stopping.max_steps:
        return "all iterations done"
    if budget.is_spent():
        return "time budget spent"
    # Without a likelihood there is nothing that could fall.
    if "nll" not in row:
        return ""
    if stopping.patience is not None:
        without = (iteration - int(state.best_iteration)) / stopping.block_length
        if without >= stopping.patience:
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

"""The driver: pure, resumable, compiled once; it keeps the best state and survives divergence."""

import dataclasses
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from flowebm.evaluation import EstimateWarning
from flowebm.training import budget as budgets
from flowebm.training import driver
from flowebm.training.budget import Budget
from flowebm.training.driver import Callbacks, StoppingCriteria, TrainingDiverged, drive, minibatch
from flowebm.training.row_weights import RowWeights
from flowebm.training.trainer import AbstractTrainer

DATA = jr.normal(jr.key(9), (32, 2))


class Descent(AbstractTrainer):
    """Descent to the data's mean with a noise of its own in every iteration.

    At a rate above 2 it overshoots by more than it was off.
    """

    data: jax.Array = eqx.field(default_factory=lambda: DATA)
    start: jax.Array = eqx.field(default_factory=lambda: jnp.array([3.0, -2.0]))
    rate: jax.Array = eqx.field(default_factory=lambda: jnp.array(0.1))
    noise: jax.Array = eqx.field(default_factory=lambda: jnp.array(0.01))
    batch_size: int = eqx.field(static=True, default=4)
    stage: str = eqx.field(static=True, default="descent")
    knows_nll: bool = eqx.field(static=True, default=True)
    broken_above: float = eqx.field(static=True, default=float("inf"))
    weights: RowWeights | None = None
    traces: list = eqx.field(static=True, default_factory=list)

    def init(self, key):
        # A weakly typed counter, as Python numbers make them.
        return self.start, jnp.array(0.0)

    def step(self, key, state, batch, learning_rate_factor):
        self.traces.append(1)
        x, n = state
        rate = self.rate * learning_rate_factor
        rate = jnp.where(rate > self.broken_above, jnp.nan, rate)
        x = x + rate * (self.data[batch].mean(0) - x) + self.noise * jr.normal(key, (2,))
        return (x, n + jnp.ones(())), {"size": jnp.abs(x).max()}

    def evaluate(self, key, state):
        if not self.knows_nll:
            return {}, None
        nll = jnp.sum((self.data - state[0]) ** 2, axis=1)
        return {"nll": nll.mean()}, nll

    def solution(self, state):
        return state[0]

    def schedule(self, progress):
        return jnp.where(progress < 0.5, 1.0, 0.5)


class Path(AbstractTrainer):
    r"""State $t$ counts iterations; its NLL at validation point $i$ is $f_t + t s_i$.

    That of training points goes up or down by a slope in each of them, if one is given. So may the
    error of log Z.
    """

    nll: jax.Array
    spread: jax.Array
    train_slope: jax.Array | None = None
    log_z_stderr: jax.Array | None = None
    data: jax.Array = eqx.field(default_factory=lambda: DATA)
    batch_size: int = eqx.field(static=True, default=4)
    stage: str = eqx.field(static=True, default="path")
    weights: RowWeights | None = None

    def init(self, key):
        return jnp.zeros((), int)

    def step(self, key, state, batch, learning_rate_factor):
        return state + 1, {} if self.train_slope is None else {
            "train_nll": self.train_slope * state
        }

    def evaluate(self, key, state):
        points = self.nll[state] + state * self.spread
        metrics = {"nll": self.nll[state]}
        if self.log_z_stderr is not None:
            metrics["log_partition_stderr"] = self.log_z_stderr[state]
        return metrics, points

    def solution(self, state):
        return state

    def schedule(self, progress):
        return jnp.ones_like(progress)


def copied(tree):
    """The driver donates its state to the next block: who keeps it copies it."""
    return jax.tree.map(jnp.copy, tree)


def without_seconds(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by a second and a half whenever somebody looks at it."""
    now = [0.0]

    def monotonic():
        now[0] += 1.5
        return now[0]

    monkeypatch.setattr(driver.time, "monotonic", monotonic)


def test_a_run_is_a_function_of_its_key():
    runs = [
        drive(jr.key(k), trainer, StoppingCriteria(20, block_length=5))
        for trainer in [Descent()]
        for k in (0, 0, 1)
    ]
    assert eqx.tree_equal(runs[0].state, runs[1].state, typematch=True)
    assert without_seconds(runs[0].history) == without_seconds(runs[1].history)
    assert not eqx.tree_equal(runs[0].state.inner, runs[2].state.inner)


def test_what_the_caller_passed_in_is_left_alone():
    trainer = Descent()
    key = jr.key(0)
    drive(key, trainer, StoppingCriteria(10, block_length=5))
    # A donated buffer would be deleted here.
    np.testing.assert_array_equal(trainer.start, [3.0, -2.0])
    np.testing.assert_array_equal(trainer.data, DATA)
    assert jr.uniform(key) >= 0


def test_a_run_that_was_stopped_anywhere_resumes_to_the_same_end():
    trainer, stopping = Descent(), StoppingCriteria(22, block_length=5)
    saved = []

    def save(stage, state, history):
        saved.append((copied(state), list(history)))

    whole = drive(jr.key(0), trainer, stopping, Callbacks(save=save))
    assert [int(state.iteration) for state, _ in saved] == [5, 10, 15, 20, 22]
    for state, history in list(saved):
        restored = (copied(state), list(history))
        callbacks = Callbacks(restore=lambda stage, like, restored=restored: restored)
        resumed = drive(jr.key(0), trainer, stopping, callbacks)
        assert eqx.tree_equal(resumed.state, whole.state, typematch=True)
        assert without_seconds(resumed.history) == without_seconds(whole.history)
    assert resumed.stop_reason == "nothing left to do"  # the last saved state was the end


def test_observers_see_every_block_once():
    seen = []
    callbacks = Callbacks(on_block=[lambda *arguments: seen.append(arguments)])
    outcome = drive(jr.key(0), Descent(), StoppingCriteria(12, block_length=5), callbacks)
    assert [row for _, row, _ in seen] == outcome.history
    assert [row["iteration"] for row in outcome.history] == [0, 5, 10, 12]
    assert {(stage, total) for stage, _, total in seen} == {("descent", 12)}
    assert outcome.stop_reason == "all iterations done"


def test_nothing_compiles_after_the_first_block():
    """A traced `step` is a compilation; a recovery of the guard must not cost one either."""
    trainer = Descent(rate=jnp.array(8.0))
    told = []
    drive(jr.key(0), trainer, StoppingCriteria(40, block_length=5), Callbacks(warn=told.append))
    assert told
    assert len(trainer.traces) == 1


def test_no_iterations_leave_the_start():
    outcome = drive(jr.key(0), Descent(), StoppingCriteria(0))
    np.testing.assert_array_equal(outcome.state.best, [3.0, -2.0])
    assert [row["iteration"] for row in outcome.history] == [0]


def nll_path(*values, n=100, s=1.0):
    """A path over NLLs, beyond which the last goes on, with paired differences of std s·Δt."""
    spread = s * jnp.where(jnp.arange(n) % 2 == 0, 1.0, -1.0)
    return Path(jnp.array(values + (values[-1],) * (40 - len(values))), spread)


@pytest.mark.parametrize(
    ("at_two", "at_three", "kept"),
    [
        (1.009, 3.0, 2),  # stderr of the difference to the best is 0.1/√100 = 0.01 there
        (1.011, 3.0, 1),
        (1.011, 1.0190, 3),  # and 0.02 one iteration later
        (1.009, 1.0210, 2),
        (0.500, 0.5110, 2),  # the best is another, the difference to it 0.01 again
    ],
)
def test_the_latest_within_one_standard_error_of_the_best_is_kept(at_two, at_three, kept):
    path = nll_path(2.0, 1.0, at_two, at_three, 3.9, s=0.1)
    outcome = drive(jr.key(0), path, StoppingCriteria(6, block_length=1))
    assert outcome.state.best == kept
    assert outcome.state.best_iteration == (2 if at_two < 1 else 1)
    assert float(outcome.state.best_nll) == min(1.0, at_two)


@pytest.mark.parametrize(("at_two", "kept"), [(1.019, 2), (1.021, 1)])
def test_what_few_points_cannot_tell_apart_is_not_as_good_for_that(at_two, kept):
    outcome = drive(jr.key(0), nll_path(2.0, 1.0, at_two, 3.9), StoppingCriteria(6, block_length=1))
    assert outcome.state.best == kept


@pytest.mark.parametrize(("stderr_at_two", "kept"), [(0.4, 2), (0.6, 1)])
def test_a_log_z_that_is_a_guess_does_not_make_a_state_the_best(stderr_at_two, kept):
    """It would be better by half a nat, give or take its log Z's error."""
    path = nll_path(2.0, 1.0, 0.5, 3.9)
    errors = jnp.where(jnp.arange(40) == 2, stderr_at_two, 0.0)
    path = dataclasses.replace(path, log_z_stderr=errors)
    outcome = drive(jr.key(0), path, StoppingCriteria(6, block_length=1))
    assert outcome.state.best == outcome.state.best_iteration == kept
    assert float(outcome.state.best_nll) == pytest.approx(0.5 + stderr_at_two if kept == 2 else 1.0)
    assert outcome.history[2]["nll"] == 0.5


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_is_counted_from_the_best(patience):
    trainer = nll_path(2.0, 1.0, 0.5, 0.9)
    outcome = drive(jr.key(0), trainer, StoppingCriteria(30, patience=patience, block_length=1))
    assert outcome.history[-1]["iteration"] == 2 + patience
    assert outcome.stop_reason == "validation NLL no longer falls"
    assert outcome.state.finished


@pytest.mark.parametrize(
    ("rises", "train_slope", "last"),
    [
        ((0.31, 0.62, 0.91, 1.21), -1.0, 6),  # 0.1 an iteration from the best is the stderr
        ((0.31, 0.62, 0.89, 1.21, 1.51, 1.81, 2.11), -1.0, 9),  # counted anew after the third
        ((0.29, 0.59, 0.89, 1.19, 1.49), -1.0, 30),
        ((0.31, 0.62, 0.91, 1.21), 1.0, 30),  # training data are worse too
    ],
)
def test_a_run_that_has_overfitted_ends(rises, train_slope, last):
    trainer = nll_path(2.0, 1.5, 1.0, *(1.0 + rise for rise in rises))
    trainer = dataclasses.replace(trainer, train_slope=jnp.array(train_slope))
    outcome = drive(jr.key(0), trainer, StoppingCriteria(30, block_length=1))
    assert outcome.history[-1]["iteration"] == last
    reason = "all iterations done" if last == 30 else "validation NLL has risen"
    assert outcome.stop_reason == reason
    assert outcome.state.best_iteration == 2
    rows = outcome.history[3 : 3 + len(rises)]
    assert [row["nll_rise"] for row in rows] == pytest.approx(rises, rel=1e-5)
    errors = [0.1 * (i + 1) for i in range(len(rows))]
    assert [row["nll_rise_stderr"] for row in rows] == pytest.approx(errors, rel=0.02)


@pytest.mark.parametrize(
    ("stderr_at_best", "stderr_after", "last"),
    # The paired difference has an error of 0.1 an iteration from the best; each rise is 0.1 more
    # than three times that.
    [(0.0, 0.0, 6), (0.0, 0.2, 30), (0.9, 0.0, 30), (0.05, 0.05, 6)],
)
def test_a_rise_within_the_error_of_log_z_is_no_overfitting(stderr_at_best, stderr_after, last):
    iterations = jnp.arange(40)
    errors = jnp.where(iterations == 2, stderr_at_best, jnp.where(iterations > 2, stderr_after, 0))
    # With log Z one standard error up, which is what is compared.
    rises = jnp.array([0.4, 0.7, 1.0, 1.3]) + stderr_at_best - stderr_after
    path = nll_path(3.0, 2.5, 1.0, *(1.0 + rises))
    path = dataclasses.replace(path, train_slope=jnp.array(-1.0), log_z_stderr=errors)
    outcome = drive(jr.key(0), path, StoppingCriteria(30, block_length=1))
    assert outcome.state.best_iteration == 2
    assert [row["nll_rise"] for row in outcome.history[3:7]] == pytest.approx([0.4, 0.7, 1.0, 1.3])
    assert outcome.history[-1]["iteration"] == last


def test_a_trainer_that_cannot_know_its_likelihood_runs_on_and_keeps_its_last_state():
    trainer = Descent(knows_nll=False)
    outcome = drive(jr.key(0), trainer, StoppingCriteria(20, patience=1, block_length=5))
    assert outcome.history[-1]["iteration"] == 20
    np.testing.assert_array_equal(outcome.state.best, outcome.state.inner[0])


@pytest.mark.parametrize("broken_above", [float("inf"), 2.0])
def test_a_diverging_run_goes_back_with_half_the_rate(broken_above):
    """At rate 12 it grows (or is NaN); 1.5 = 12/2³ is the first that is stable.

    Iterations that diverged leave no trace: the run is that of the lower rate, bit for bit.
    """
    told = []
    trainer = Descent(rate=jnp.array(12.0), broken_above=broken_above)
    stopping = StoppingCriteria(20, block_length=5)
    outcome = drive(jr.key(0), trainer, stopping, Callbacks(warn=told.append))
    low = drive(jr.key(0), Descent(rate=jnp.array(1.5), broken_above=broken_above), stopping)
    assert eqx.tree_equal(outcome.state.inner, low.state.inner)
    assert without_seconds(outcome.history) == without_seconds(low.history)
    assert int(outcome.state.recoveries) == 3
    assert len(told) == 3
    for warning, factor in zip(told, ("0.5", "0.25", "0.125"), strict=True):
        assert "going back to iteration 0 " in warning
        assert warning.endswith(f"the learning rate times {factor}.")


def test_the_guard_gives_up_after_three_times():
    with pytest.raises(TrainingDiverged, match=r"'descent' diverged at iteration 5 .* after 3 "):
        drive(jr.key(0), Descent(rate=jnp.array(40.0)), StoppingCriteria(20, block_length=5))


def test_what_a_run_has_to_say_is_a_warning_that_points_at_who_called_it():
    trainer = Descent(rate=jnp.array(8.0))
    with pytest.warns(EstimateWarning, match="diverged before iteration 5") as caught:
        drive(jr.key(0), trainer, StoppingCriteria(10, block_length=5))
    assert {warning.filename for warning in caught} == {__file__}


def test_a_later_divergence_goes_back_to_its_own_block():
    """The NLL leaves the start's by more than one nat a coordinate at iteration 4 only."""
    told = []
    trainer = nll_path(1.0, 1.0, 2.9, 2.9, 3.1)
    with pytest.raises(TrainingDiverged):
        drive(jr.key(0), trainer, StoppingCriteria(6, block_length=1), Callbacks(warn=told.append))
    assert len(told) == 3
    assert all("diverged before iteration 4; going back to iteration 3" in w for w in told)


def test_a_time_budget_ends_the_run_and_sets_the_expected_total(clock):
    """Every look at the clock costs a second, so that the total is known soon."""
    totals = []
    callbacks = Callbacks(on_block=[lambda stage, row, total: totals.append(total)])
    stopping = StoppingCriteria(10**6, time_budget=200.0, block_length=5)
    outcome = drive(jr.key(0), Descent(), stopping, callbacks)
    seconds = [row["seconds"] for row in outcome.history]
    assert outcome.stop_reason == "time budget spent"
    assert 195 <= seconds[-1] < 220
    last = outcome.history[-1]["iteration"]
    # The clock goes by looks at it, not by iterations: the estimate is rough.
    assert all(last / 3 <= total <= 3 * last for total in totals[2:])
    # Until then few enough that the learning rate has warmed up.
    assert totals[0] == 20 * 5


@pytest.mark.parametrize("shared", [False, True])
def test_a_resumed_run_has_what_is_left_of_its_time(clock, shared):
    """Stopped in the middle, it ends as late as one that was not; so does what comes after it."""
    stopping = StoppingCriteria(10**6, time_budget=200.0, block_length=5)
    whole = drive(jr.key(0), Descent(), stopping)
    middle, saved = len(whole.history) // 2, []

    def save(stage, state, history):
        if len(history) == middle and not saved:
            saved.append((copied(state), list(history)))

    drive(jr.key(0), Descent(), stopping, Callbacks(save=save))
    budget = Budget(200.0)
    if shared:
        stopping = dataclasses.replace(stopping, time_budget=budget.part(0.9))
    callbacks = Callbacks(restore=lambda stage, state: (saved[0][0], list(saved[0][1])))
    resumed = drive(jr.key(0), Descent(), stopping, callbacks)
    assert resumed.stop_reason == "time budget spent"
    used = saved[0][1][-1]["seconds"]
    assert used > 50
    # To compile takes time as well: some looks at the clock, of a second each.
    assert len(resumed.history) <= len(whole.history) + 2
    assert resumed.history[-1]["seconds"] < 220
    if shared:
        assert budget.used() >= resumed.history[-1]["seconds"]
        assert budget.left() < 200 - used


def test_blocks_end_after_a_few_seconds_whatever_an_iteration_costs(clock):
    """Between two evaluations there are stops at which a run can be saved and goes on from."""
    saved = []

    def save(stage, state, history):
        saved.append((copied(state), list(history)))

    stopping = StoppingCriteria(60, block_length=30)
    whole = drive(jr.key(0), Descent(), stopping, Callbacks(save=save))
    assert len(saved) >= 6
    assert [row["iteration"] for row in whole.history] == [0, 30, 60]
    within = [pair for pair in saved if int(pair[0].iteration) % 30]
    for pair in (within[0], within[-1]):
        callbacks = Callbacks(restore=lambda stage, like, pair=pair: (copied(pair[0]), [*pair[1]]))
        resumed = drive(jr.key(0), Descent(), stopping, callbacks)
        assert eqx.tree_equal(resumed.state, whole.state, typematch=True)
        assert without_seconds(resumed.history) == without_seconds(whole.history)


def test_a_run_that_diverges_after_a_resume_goes_back_to_where_the_undisturbed_one_does(clock):
    saved = []

    def save(stage, state, history):
        saved.append((copied(state), list(history)))

    trainer, stopping = Descent(rate=jnp.array(12.0)), StoppingCriteria(20, block_length=10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EstimateWarning)
        whole = drive(jr.key(0), trainer, stopping, Callbacks(save=save))
        pair = next(p for p in saved if int(p[0].iteration) % 10 and not int(p[0].recoveries))
        callbacks = Callbacks(restore=lambda stage, like: (copied(pair[0]), [*pair[1]]))
        resumed = drive(jr.key(0), trainer, stopping, callbacks)
    assert int(whole.state.recoveries) == 3
    assert eqx.tree_equal(resumed.state, whole.state, typematch=True)


def test_how_often_a_run_is_evaluated_does_not_change_what_it_does():
    ends = [
        drive(jr.key(0), Descent(), StoppingCriteria(24, block_length=n)).state
        for n in (1, 5, 7, 24)
    ]
    for end in ends[1:]:
        assert eqx.tree_equal(end.inner, ends[0].inner)


def test_a_run_that_cannot_be_compiled_in_what_is_left_does_not_begin(monkeypatch):
    monkeypatch.setattr(budgets, "SECONDS_AN_OPERATION", 100.0)
    monkeypatch.setattr(budgets, "_so_far", budgets._Compilations())
    trainer = Descent(noise=jnp.array(0.02, jnp.float32))
    stopping = StoppingCriteria(10, time_budget=1000.0)
    outcome = drive(jr.key(0), trainer, stopping)
    assert outcome.stop_reason == "time budget spent"
    assert [row["iteration"] for row in outcome.history] == [0]
    np.testing.assert_array_equal(outcome.state.best, [3.0, -2.0])
    # By what compiling took here, it could be.
    monkeypatch.setattr(budgets, "_so_far", budgets._Compilations(1.0, 1000))
    assert (
        drive(jr.key(0), trainer, StoppingCriteria(10, time_budget=1000.0)).stop_reason
        != outcome.stop_reason
    )
    # And once it is compiled it always can be.
    monkeypatch.setattr(budgets, "_so_far", budgets._Compilations(1e9, 1))
    assert (
        drive(jr.key(0), trainer, StoppingCriteria(10, time_budget=1000.0)).stop_reason
        != outcome.stop_reason
    )


def test_parts_of_a_budget_share_its_clock(clock):
    budget = Budget(1000.0)
    assert budget.left() == pytest.approx(1000, abs=10)
    part = budget.part(0.3, reserve=0.2)
    assert part.left() == pytest.approx(300, abs=10)
    assert budget.left(0.1) == 100
    part.restore(800.0)
    assert budget.used() == pytest.approx(800, abs=20)
    assert part.is_spent()
    assert not budget.is_spent()
    assert budget.is_spent(reserve=0.2)
    assert Budget(None).part(0.1).left() is None
    assert Budget.of(budget) is budget


@pytest.mark.parametrize(("n", "batch"), [(10, 4), (3, 7), (1000, 1), (5, 5), (2, 9)])
def test_minibatches_take_every_row_once_an_epoch(n, batch):
    """Whatever the length of an epoch, and wherever in it a minibatch begins."""
    n_iterations = -(-4 * n // batch)
    batches = jax.vmap(lambda i: minibatch(jr.key(0), n, batch, i))(jnp.arange(n_iterations))
    assert batches.shape == (n_iterations, batch)
    epochs = np.asarray(batches).ravel()[: 4 * n].reshape(4, n)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(n))
    assert n < 5 or not np.array_equal(epochs[0], epochs[1])


def test_rows_beyond_two_billion_are_rows():
    halves = [np.asarray(minibatch(jr.key(0), 50, 25, 10**8 + i)).tolist() for i in range(2)]
    assert sorted(halves[0] + halves[1]) == [*range(50)]

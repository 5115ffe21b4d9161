"""`fit_balanced` end to end on the line, measured on the model by quadrature."""

import importlib
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
import pytest
from flowjax.distributions import Normal

from flowebm.models.bases import gaussian_base
from flowebm.models.defensive import DefensiveMixture
from flowebm.models.energy import LogDensity
from flowebm.models.tilted import EnergyModel
from flowebm.models.tilts import MLPTilt
from flowebm.training.balanced import BalancedOptions
from flowebm.training.driver import Callbacks, Outcome
from flowebm.training.fit_balanced import fit_balanced, fit_persistent

fit_balanced_module = importlib.import_module("flowebm.training.fit_balanced")

SMALL = BalancedOptions(
    batch_size=128, n_chains=64, flow_batch=64, n_evaluation=512, learning_rate=1e-2
)


@pytest.fixture(scope="module")
def data():
    """Two modes on the line, 70 to 30, standardised."""
    rng = np.random.default_rng(0)
    x = np.where(rng.random(1500) < 0.7, 1.0, -2.0) + 0.4 * rng.normal(size=1500)
    return jnp.asarray((x - x.mean()) / x.std(), jnp.float32)[:, None]


@pytest.fixture(scope="module")
def model(data):
    tilt = MLPTilt((1,), width=16, depth=2, key=jr.key(0))
    return EnergyModel(tilt, paramax.non_trainable(gaussian_base(data)))


def wide_proposal():
    return DefensiveMixture(
        Normal(jnp.zeros(1), 1.5), paramax.non_trainable(Normal(jnp.zeros(1), 3.0)), 0.1
    )


@pytest.fixture(scope="module")
def fit(data, model):
    return fit_balanced(
        jr.key(1), model, data, proposal=wide_proposal(), options=SMALL, max_steps=120
    )


@eqx.filter_jit
def energies(model, points):
    return jax.vmap(model.energy)(points)


def quadrature_nll(model, points):
    grid, step = np.linspace(-8, 8, 4001, retstep=True)
    on_grid = np.asarray(energies(model, jnp.asarray(grid, jnp.float32)[:, None]), np.float64)
    log_z = np.logaddexp.reduce(-on_grid) + np.log(step)
    return float(energies(model, points).mean()) + log_z, log_z


def test_the_model_improves_on_its_base(fit, model, data):
    """By more than half of what there is to gain: 0.45 nats to the density of the data."""
    before, log_z = quadrature_nll(model, data)
    assert abs(log_z) < 1e-4  # an untrained tilt is zero
    assert quadrature_nll(fit.model, data)[0] < before - 0.25


def test_log_z_and_nll_are_those_of_the_returned_model(fit, data):
    """z-tests at 4.5 standard errors of the estimates; false-alarm rate 1e-5."""
    _, log_z = quadrature_nll(fit.model, data)
    assert abs(fit.log_partition.value - log_z) < 4.5 * fit.log_partition.stderr + 1e-4
    last = fit.history[-1]
    assert abs(last["log_partition"] - log_z) < 4.5 * last["log_partition_stderr"] + 0.02


def test_the_history_tells_what_was_promised(fit):
    stages = [row["stage"] for row in fit.history]
    assert stages == sorted(stages, reverse=True)  # the flow's rows, then the energy's
    assert set(stages) == {"flow", "balanced"}
    promised = {"stage", "iteration", "seconds", "nll", "nll_stderr", "ess", "waiting"}
    promised |= {"log_partition", "log_partition_stderr", "train_nll", "train_nll_stderr"}
    promised |= {"global_acceptance", "local_acceptance", "step_size", "energy_gap"}
    rows = [row for row in fit.history if row["stage"] == "balanced"]
    assert [row["iteration"] for row in rows] == [0, 50, 100, 120]
    for row in rows[1:]:
        assert promised <= row.keys()
        assert all(np.isfinite(v) for v in row.values() if isinstance(v, float))
    assert fit.stop_reason == "all iterations done"
    assert fit.chains.shape == (64, 1)
    assert fit.warnings == ()


def test_a_fit_is_a_function_of_its_key(fit, data, model):
    again = fit_balanced(
        jr.key(1), model, data, proposal=wide_proposal(), options=SMALL, max_steps=120
    )
    assert eqx.tree_equal(again.model, fit.model)
    assert eqx.tree_equal(again.flow, fit.flow)
    assert again.log_partition == fit.log_partition


@pytest.mark.parametrize("train_base", [False, True])
def test_a_base_flow_is_the_first_proposal_and_moves_only_if_it_is_trained(data, train_base):
    """Proposals from the model itself have equal weights: the effective share is one."""
    normal = Normal(jnp.full(1, 0.3), 2.0)
    model = EnergyModel(MLPTilt((1,), width=4, depth=1, key=jr.key(0)), normal)
    results = [
        fit_balanced(
            jr.key(1),
            model,
            data,
            base=normal,
            proposal=Normal(jnp.zeros(1), 1.0),
            train_base=train_base,
            options=SMALL,
            max_steps=n,
            block_length=1,
        )
        # Enough to be better than the start by more than log Z's error.
        for n in (0, 40)
    ]
    start, end = (paramax.unwrap(result.model.base) for result in results)
    # A normal fitted by maximum likelihood is the data's: zero and one.
    np.testing.assert_allclose([start.loc[0], start.scale[0]], [0, 1], atol=0.1)
    assert eqx.tree_equal(start, end) != train_base
    assert {row["stage"] for row in results[1].history} == {"base", "balanced"}
    first = next(row for row in results[1].history if "ess" in row)
    assert first["ess"] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    "choices",
    [
        {
            "start": "base",
            "global_kernel": "isir",
            "gradient": "waste-recycled",
            "local_kernel": "hmc",
        },
        {
            "start": "data",
            "global_kernel": "imh",
            "gradient": "waste-recycled",
            "local_kernel": "ula",
        },
        {"start": "data", "global_kernel": "none", "local_kernel": "mala"},
    ],
    ids=lambda choices: "-".join(choices.values()),
)
def test_every_choice_runs(data, model, choices):
    options = BalancedOptions(
        batch_size=32, n_chains=16, flow_batch=16, n_evaluation=64, n_proposals=2, **choices
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = fit_balanced(
            jr.key(0), model, data, proposal=wide_proposal(), options=options, max_steps=40
        )
    assert all(np.isfinite(v) for v in result.history[-1].values() if isinstance(v, float))
    assert np.isfinite(result.log_partition.value)
    assert not eqx.tree_equal(result.model.tilt, model.tilt)


def test_what_does_not_fit_together_is_refused(data, model):
    with pytest.raises(ValueError, match=r"data's points have shape \(2,\), the model's \(1,\)"):
        fit_balanced(jr.key(0), model, jnp.zeros((10, 2)))
    with pytest.raises(ValueError, match=r"validation points have shape \(2,\), the model's"):
        fit_balanced(jr.key(0), model, data, validation=jnp.zeros((10, 2)))
    with pytest.raises(ValueError, match=r"data's points have shape \(2,\), the model's \(1,\)"):
        fit_persistent(jr.key(0), model, jnp.zeros((10, 2)))
    with pytest.raises(ValueError, match="set global_kernel to 'none'"):
        fit_persistent(jr.key(0), model, data, options=SMALL)
    plain = LogDensity(lambda x: -0.5 * x @ x, (1,))
    with pytest.raises(TypeError, match="LogDensity has no base to fit"):
        fit_balanced(jr.key(0), plain, data, base=Normal(jnp.zeros(1), 1.0))


def test_a_poor_flow_is_told_of_once(data, model):
    heard = []
    options = BalancedOptions(
        batch_size=32, n_chains=16, flow_batch=16, n_evaluation=64, min_ess=1.1, max_wait=50
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = fit_balanced(
            jr.key(0),
            model,
            data,
            proposal=wide_proposal(),
            options=options,
            max_steps=6,
            block_length=2,
            callbacks=Callbacks(warn=heard.append),
        )
    told = [sentence for sentence in heard if "the energy waited in 100%" in sentence]
    assert len(told) == 1
    assert set(heard) == set(result.warnings)
    assert eqx.tree_equal(result.model.tilt, model.tilt)


def test_a_resumed_fit_counts_the_seconds_of_its_stages_before(data, model, monkeypatch):
    limits = []

    def fit_flow(key, flow, *args, time_budget, **options):
        # As `drive` does for a stage that was saved.
        time_budget.restore(7000.0)
        return flow, Outcome(None, [], "")

    def drive(key, trainer, given, callbacks):
        limits.append(given)
        raise InterruptedError

    monkeypatch.setattr(fit_balanced_module, "fit_flow", fit_flow)
    monkeypatch.setattr(fit_balanced_module, "drive", drive)
    with pytest.raises(InterruptedError):
        fit_balanced(jr.key(1), model, data, proposal=wide_proposal(), time_budget=10_000.0)
    assert limits[0].time_budget.left() == pytest.approx(3000, abs=60)

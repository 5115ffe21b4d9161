"""`fit_joint` end to end: it finds the plane of the modes, and the model is right there."""

import sys
import warnings
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
import pytest
from flowebm.training.exploration import Explored
from flowebm.training.importance_weighted import ImportanceWeightedFit, Pool, Pools
from jax.scipy.stats import norm

from flowebm.evaluation import EstimateWarning, log_mean_exp, log_partition
from flowebm.models import EnergyModel, MLPTilt, gaussian_base, make_flow
from flowebm.training.balanced import BalancedOptions
from flowebm.training.driver import Outcome, TrainingDiverged
from flowebm.training.fit_balanced import BalancedFit
from flowebm.training.fit_joint import default_base, fit_joint

SMALL = BalancedOptions(
    batch_size=256, n_chains=128, flow_batch=128, n_evaluation=512, learning_rate=1e-2
)
OBLIQUE = jnp.linalg.qr(jr.normal(jr.key(3), (4, 4)))[0]
SHARES, CENTRES, SD = jnp.array([0.7, 0.3]), jnp.array([1.0, -2.0]), 0.4


def small_flow(key, shape):
    return make_flow("spline-coupling", shape, layers=2, width=16, depth=1, knots=5, key=key)


def true_log_density(x):
    """Two modes along one oblique direction of four, standard normal along the others."""
    z = OBLIQUE.T @ x
    modes = jax.nn.logsumexp(jnp.log(SHARES) + norm.logpdf(z[0], CENTRES, SD))
    return modes + norm.logpdf(z[1:]).sum()


@pytest.fixture(scope="module")
def data():
    mode_key, noise_key = jr.split(jr.key(0))
    z = jr.normal(noise_key, (3000, 4))
    centres = jr.choice(mode_key, CENTRES, (3000,), p=SHARES)
    return z.at[:, 0].set(centres + SD * z[:, 0]) @ OBLIQUE.T


@pytest.fixture(scope="module")
def model(data):
    tilt = MLPTilt((4,), width=16, depth=2, key=jr.key(0))
    return EnergyModel(tilt, paramax.non_trainable(gaussian_base(data)))


def fit_of(model, data, **choices):
    choices = {"options": SMALL, "max_steps": 150, "make_flow": small_flow} | choices
    return fit_joint(jr.key(1), model, data, **choices)


@pytest.fixture(scope="module")
def counted_fit(model, data, compiled_blocks):
    with compiled_blocks() as programs:
        result = fit_of(model, data, base="flow")
    return result, programs


@pytest.fixture(scope="module")
def fit(counted_fit):
    return counted_fit[0]


def test_the_direction_of_the_modes_is_found(fit):
    assert fit.relevant == 1
    functional = fit.relevance.change.inverse_matrix[0] @ OBLIQUE
    assert abs(float(functional[0])) > 0.99 * float(jnp.linalg.norm(functional))


def test_the_model_is_near_the_truth(fit, model, data):
    """KL by importance sampling from the truth itself; the Gaussian's is 0.45 nats."""

    def kl(model):
        gap = jax.vmap(lambda x: model.unnormalized_log_prob(x) - true_log_density(x))(data)
        return float(log_mean_exp(gap).value - gap.mean())

    assert kl(model) > 0.35
    assert kl(fit.model) < 0.08


def test_every_stage_is_in_the_history(fit):
    stages = list(dict.fromkeys(row["stage"] for row in fit.history))
    assert stages == ["exploration", "flow", "exploration-2", "balanced"]
    assert fit.base == "flow"
    # All in the units of the data, of training points too: parts of flows are no parts there.
    for row in (row for row in fit.history if row["stage"] != "balanced"):
        assert row.get("train_nll", row["nll"]) == pytest.approx(row["nll"], abs=0.3)
    # The model starts as the flow.
    flow, start = (
        [row for row in fit.history if row["stage"] == stage] for stage in ("flow", "balanced")
    )
    assert start[0]["nll"] == pytest.approx(min(row["nll"] for row in flow), abs=0.05)


def test_every_stage_compiles_one_program(counted_fit):
    """Of several blocks each: flows as `fit_flow` fits them, and balanced training; the second
    exploration runs the first one's."""
    fit, programs = counted_fit
    stages = [row["stage"] for row in fit.history]
    assert all(stages.count(stage) > 3 for stage in stages)
    assert len(programs) == len(set(stages)) - 1


def test_log_z_is_that_of_the_returned_model(fit, data):
    """Against importance sampling from the truth, a z-test at 5 standard errors."""
    draws = data[:2000]
    weights = jax.vmap(lambda x: fit.model.unnormalized_log_prob(x) - true_log_density(x))(draws)
    log_z = log_mean_exp(weights)
    error = fit.log_partition.value - float(log_z.value)
    assert abs(error) < 5 * np.hypot(fit.log_partition.stderr, float(log_z.stderr))


@pytest.mark.slow
def test_a_fit_is_a_function_of_its_key(fit, model, data):
    again = fit_of(model, data, base="flow")
    # Flows hold functions of their making, which are never equal.
    arrays = [eqx.filter(result.model, eqx.is_array) for result in (again, fit)]
    assert all(map(np.array_equal, *map(jax.tree.leaves, arrays)))
    assert again.log_partition == fit.log_partition


@pytest.mark.slow
@pytest.mark.parametrize("relevant", [None, 4])
def test_few_steps_with_other_choices(model, data, relevant):
    """All four directions asked for: no change of coordinates, one flow refined."""
    result = fit_of(model, data, relevant=relevant, base="gaussian", max_steps=1)
    assert result.base == "gaussian"
    assert result.relevant == (None if relevant else 1)
    stages = {row["stage"] for row in result.history}
    assert ("refinement" in stages) == (relevant is not None)


@pytest.mark.slow
def test_weights_are_honoured(model, data):
    """Weight on one mode alone: what is left is Gaussian, and no direction is relevant."""
    first = (data @ OBLIQUE[:, 0]) > -0.5
    weights = jnp.where(first, 1.0, 1e-9)
    validation, validation_weights = data[:600], weights[:600]
    result = fit_of(
        model,
        data[600:],
        weights=weights[600:],
        validation=validation,
        validation_weights=validation_weights,
        max_steps=1,
    )
    assert float(jnp.max(result.relevance.relevance)) < 0.2


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"base": "flat"}, ValueError, "choose auto, gaussian or flow"),
        ({"relevant": 5}, ValueError, "from 1 to the 4 coordinates"),
        ({"data": jnp.zeros((10, 3))}, ValueError, "they must be the same"),
        ({"model": gaussian_base(None, (4,))}, TypeError, "fits an EnergyModel"),
    ],
)
def test_what_does_not_fit_is_refused(model, data, choices, error, message):
    with pytest.raises(error, match=message):
        fit_of(**({"model": model, "data": data} | choices))


def test_the_proposal_is_wide_along_what_matters(fit, data):
    """In the coordinates of the relevant directions: variance 1.5 along the first, 1 elsewhere."""
    wide = paramax.unwrap(fit.flow).wide
    factor = jax.jacfwd(wide.bijection.transform)(jnp.zeros(4))
    turned = fit.relevance.change.inverse_matrix @ factor
    np.testing.assert_allclose(turned @ turned.T, jnp.diag(jnp.array([1.5, 1, 1, 1])), atol=1e-4)


@pytest.mark.slow
def test_an_energy_of_the_directions_that_matter_betters_the_flow(model, data):
    """By default, in many coordinates too; balanced training goes on from it."""
    result = fit_of(model, data, relevant=1, max_steps=400)
    assert result.base == "gaussian"
    rows = {row["stage"]: row for row in result.history}
    assert rows["importance-weighted"]["nll"] < rows["flow"]["nll"]
    first = next(row for row in result.history if row["stage"] == "balanced")
    assert first["nll"] == pytest.approx(rows["importance-weighted"]["nll"], abs=0.02)


@pytest.mark.parametrize(("n_coordinates", "base"), [(2, "gaussian"), (4, "gaussian"), (5, "flow")])
def test_the_base_is_chosen_by_coordinates(n_coordinates, base):
    assert default_base(n_coordinates) == base


@pytest.fixture(scope="module")
def short_fit(data):
    """Two coordinates in a few seconds: whatever the machine, the budget is a short one, of which
    too little is left in the end."""
    points = (data @ OBLIQUE)[:, :2]
    tilt = MLPTilt((2,), width=16, depth=2, key=jr.key(0))
    model = EnergyModel(tilt, paramax.non_trainable(gaussian_base(points)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["flowebm.training.fit_joint"], "LEAST_TO_BALANCE", 60.0)
        return fit_of(model, points, max_steps=100, time_budget=59.0)


def test_a_short_budget_ends_with_the_importance_weighted_stage(short_fit):
    stages = list(dict.fromkeys(row["stage"] for row in short_fit.history))
    assert stages == ["flow", "importance-weighted"]
    assert short_fit.base == "gaussian"
    assert short_fit.chains.shape == (SMALL.n_chains, 2)
    assert short_fit.stop_reason == "all iterations done"


def test_its_log_z_and_chains_are_those_of_the_model(short_fit):
    """By quadrature: z-tests at 5 standard errors."""
    side = jnp.linspace(-8, 8, 401)
    grid = jnp.stack(jnp.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    log_model = jax.vmap(short_fit.model.unnormalized_log_prob)(grid)
    log_z = jax.nn.logsumexp(log_model) + 2 * jnp.log(side[1] - side[0])
    estimate = short_fit.log_partition
    assert abs(estimate.value - float(log_z)) < 5 * estimate.stderr
    share = float(jax.nn.softmax(log_model)[grid[:, 0] > -0.5].sum())
    drawn = float(jnp.mean(short_fit.chains[:, 0] > -0.5))
    assert abs(drawn - share) < 5 * np.sqrt(share * (1 - share) / SMALL.n_chains)


def ended(result):
    """Balanced training that ended with what a result has."""
    return BalancedFit(**{name: getattr(result, name) for name in BalancedFit._fields})


@pytest.mark.parametrize("seconds", [None, 59.0])
@pytest.mark.parametrize("failure", ["diverges", "covers nothing"])
def test_an_energy_that_ran_away_is_left_behind(short_fit, data, monkeypatch, failure, seconds):
    """Balanced training then starts from the flow."""
    # The package has a function of the module's name.
    module = sys.modules["flowebm.training.fit_joint"]
    points = (data @ OBLIQUE)[:, :2]
    base = paramax.non_trainable(gaussian_base(points))
    start = EnergyModel(MLPTilt((2,), width=16, depth=2, key=jr.key(0)), base)

    def ran_away(*args, **choices):
        if failure == "diverges":
            raise TrainingDiverged("far off")
        outcome = Outcome(None, [{"stage": "importance-weighted", "ess": 0.9}], "done")
        return ImportanceWeightedFit(short_fit.model, None, 0.001, outcome)

    def balanced(keys, model, proposal, *args, **choices):
        started.append(model)
        return ended(short_fit)

    started = []
    monkeypatch.setattr(module, "fit_importance_weighted", ran_away)
    monkeypatch.setattr(module, "balance", balanced)
    monkeypatch.setattr(module, "explore", lambda *args, **_: Explored(base, None, None, []))
    result = fit_of(start, points, base_fraction=0.0, time_budget=seconds)
    assert "do not cover" in result.warnings[0]
    # A model that starts anew is its base, whose tilt is zero.
    x = jnp.array([0.3, -0.7])
    assert float(started[0].energy(x)) == pytest.approx(-float(base.log_prob(x)), abs=1e-5)
    assert result.base == "flow"


@pytest.mark.parametrize("worse", ["the start", "balanced training"])
def test_the_better_of_two_stages_is_kept(short_fit, data, monkeypatch, worse):
    """By its validation NLL; log Z and chains are then those of the model that is kept."""
    module = sys.modules["flowebm.training.fit_joint"]
    points = (data @ OBLIQUE)[:, :2]
    base = paramax.non_trainable(gaussian_base(points))
    start = EnergyModel(MLPTilt((2,), width=16, depth=2, key=jr.key(0)), base)
    held_out = Pool(*eqx.filter_jit(short_fit.flow.sample_and_log_prob)(jr.key(5), (512,)))
    models = {"the start": start, "balanced training": short_fit.model}
    if worse == "balanced training":
        models = dict(zip(models, reversed(models.values()), strict=True))

    def weighted(*args, **choices):
        state = SimpleNamespace(best_nll=-jnp.inf)
        outcome = Outcome(state, [{"stage": "importance-weighted"}], "done")
        return ImportanceWeightedFit(models["the start"], Pools(*[held_out] * 3), 0.9, outcome)

    def balanced(keys, *args, **choices):
        return ended(short_fit)._replace(model=models["balanced training"])

    monkeypatch.setattr(module, "fit_importance_weighted", weighted)
    monkeypatch.setattr(module, "balance", balanced)
    monkeypatch.setattr(
        module, "explore", lambda *args, **_: Explored(short_fit.flow.flow, None, None, [])
    )
    result = fit_of(start, points)
    assert result.model is short_fit.model
    assert abs(result.log_partition.value - short_fit.log_partition.value) < 5 * (
        2**0.5 * short_fit.log_partition.stderr
    )
    assert (result.chains is short_fit.chains) == (worse == "the start")


def test_without_time_to_balance_the_energy_is_that_of_the_flow(data, monkeypatch):
    """A warning says so; the budget is kept, log Z and chains are those of the model."""
    module = sys.modules["flowebm.training.fit_joint"]
    flow = gaussian_base(data)
    start = EnergyModel(MLPTilt((4,), width=16, depth=2, key=jr.key(0)), gaussian_base(None, (4,)))
    monkeypatch.setattr(module, "explore", lambda *args, **_: Explored(flow, None, None, []))
    result = fit_of(start, data, base="flow", base_fraction=0.0, time_budget=19.0)
    assert result.base == "flow"
    assert result.stop_reason == "time budget spent"
    assert "Set a larger budget" in result.warnings[0]
    x = data[0]
    assert float(result.model.energy(x)) == pytest.approx(-float(flow.log_prob(x)), abs=1e-5)
    # The model is normalised. A z-test at 5 standard errors of log Z, and of the chains' means.
    assert abs(result.log_partition.value) < 5 * result.log_partition.stderr
    errors = (result.chains.mean(axis=0) - data.mean(axis=0)) / data.std(axis=0)
    assert float(jnp.max(jnp.abs(errors))) < 5 / np.sqrt(SMALL.n_chains)


@pytest.mark.parametrize("energy", ["better", "worse", "a guess"])
def test_a_flow_is_kept_unless_the_energy_betters_it(short_fit, data, monkeypatch, energy):
    """An energy is a guess where its log Z is: a flow's likelihood is known."""
    module = sys.modules["flowebm.training.fit_joint"]
    points = (data @ OBLIQUE)[:, :2]
    flow = gaussian_base(points)
    tilt = MLPTilt((2,), width=16, depth=2, key=jr.key(0))
    fit = ended(short_fit)
    if energy == "worse":
        wide = gaussian_base(3.0 * points)
        fit = fit._replace(model=EnergyModel(tilt, wide), flow=wide)

    def estimate(key, model, proposal):
        log_z = log_partition(key, model, proposal)
        if energy == "a guess" and model is fit.model:
            warnings.warn("nobody knows", EstimateWarning, stacklevel=2)
            return log_z._replace(stderr=3.0)
        return log_z

    monkeypatch.setattr(module, "explore", lambda *args, **_: Explored(flow, None, None, []))
    monkeypatch.setattr(module, "balance", lambda *args, **choices: fit)
    monkeypatch.setattr(module, "log_partition", estimate)
    model = EnergyModel(tilt, gaussian_base(None, (2,)))
    result = fit_of(model, points, base="flow", base_fraction=0.0)
    if energy == "better":
        assert result.model is fit.model
        assert result.chains is fit.chains
        return
    x = points[0]
    assert float(result.model.energy(x)) == pytest.approx(-float(flow.log_prob(x)), abs=1e-5)
    assert abs(result.log_partition.value) < 5 * result.log_partition.stderr < 0.05
    errors = (result.chains.mean(axis=0) - points.mean(axis=0)) / points.std(axis=0)
    assert float(jnp.max(jnp.abs(errors))) < 5 / np.sqrt(SMALL.n_chains)
    assert result.warnings == ()


@pytest.mark.parametrize("base", ["flow", "gaussian"])
def test_what_was_found_is_kept_where_balanced_training_diverges(data, monkeypatch, base):
    """With a warning; a Gaussian that nothing was fitted to is no model to return."""
    module = sys.modules["flowebm.training.fit_joint"]
    flow = gaussian_base(data)

    def diverged(*args, **choices):
        raise TrainingDiverged("The loss is not finite.")

    monkeypatch.setattr(module, "fit_importance_weighted", diverged)
    monkeypatch.setattr(module, "balance", diverged)
    monkeypatch.setattr(module, "explore", lambda *args, **_: Explored(flow, None, None, []))
    start = EnergyModel(MLPTilt((4,), width=16, depth=2, key=jr.key(0)), gaussian_base(None, (4,)))
    if base == "gaussian":
        with pytest.raises(TrainingDiverged, match="not finite"):
            fit_of(start, data, base=base)
        return
    result = fit_of(start, data, base=base, base_fraction=0.0)
    assert result.warnings == (
        "Balanced training is given up (The loss is not finite): the energy is that of the stage "
        "before it.",
    )
    x = data[0]
    assert float(result.model.energy(x)) == pytest.approx(-float(flow.log_prob(x)), abs=1e-5)
    assert abs(result.log_partition.value) < 5 * result.log_partition.stderr
    assert result.stop_reason == "training diverged"
    assert result.chains.shape == (SMALL.n_chains, 4)


@pytest.mark.parametrize(
    ("given", "outliers", "expected"),
    [(None, False, 0.009), (None, True, 0.05), (0.3, True, 0.3), (0.0, True, None)],
)
def test_a_flow_as_base_is_insured_against_outliers(data, monkeypatch, given, outliers, expected):
    """By a wide Gaussian's share: the largest that costs a hundredth of a nat, or the best."""
    module = sys.modules["flowebm.training.fit_joint"]
    points = 0.05 * data[:300]
    flow = gaussian_base(points)
    if outliers:
        points = jnp.concatenate([points, data[:30]])
    monkeypatch.setattr(module, "explore", lambda *args, **_: Explored(flow, None, None, []))
    start = EnergyModel(MLPTilt((4,), width=16, depth=2, key=jr.key(0)), gaussian_base(None, (4,)))
    choices = {"base": "flow", "time_budget": 19.0, "validation": points}
    result = fit_of(start, data, base_fraction=given, **choices)
    assert result.base_fraction == expected
    x = jnp.array([0.3, -0.7, 5.0, 1.0])
    parts = jnp.stack([flow.log_prob(x), gaussian_base(data, inflation=1.5).log_prob(x)])
    share = expected or 0.0
    expected = jax.nn.logsumexp(parts, b=jnp.array([1 - share, share]))
    assert float(result.model.energy(x)) == pytest.approx(-float(expected), abs=1e-4)


@pytest.fixture
def beside(monkeypatch):
    """The result for few rows of two far clusters, where all that a flow found is that far off and
    nothing tilts it."""
    module = sys.modules["flowebm.training.fit_joint"]

    def run(distance=0.0, n=200, size=2, **choices):
        centres = jnp.where(jnp.arange(n) % 2, 3.0, -3.0)[:, None]
        points = centres + jr.normal(jr.key(8), (n, size))
        flow = gaussian_base(points + distance)
        monkeypatch.setattr(module, "explore", lambda *args, **_: Explored(flow, None, None, []))
        monkeypatch.setattr(module._Shared, "fit_to_draws", lambda *args, **_: None)
        tilt = MLPTilt((size,), width=16, depth=2, key=jr.key(0))
        start = EnergyModel(tilt, paramax.non_trainable(gaussian_base(points)))
        fixed = {"base": "flow", "base_fraction": 0.0, "time_budget": 19.0}
        return fit_of(start, points, **(fixed | choices)), flow, points

    return run


def test_few_rows_have_a_mixture_of_gaussians_beside_the_flow(beside):
    """Which a Gaussian of both clusters leaves to the mixture, as validation points tell."""
    result, flow, points = beside()
    assert result.base == "flow"
    assert result.mixture_components >= 2
    assert result.mixture_fraction > 0.8
    mixture = paramax.unwrap(result.model).base.wide
    parts = jnp.stack([flow.log_prob(points), mixture.log_prob(points)])
    shares = jnp.array([[1 - result.mixture_fraction], [result.mixture_fraction]])
    expected = jax.nn.logsumexp(parts, axis=0, b=shares)
    log_prob = jax.vmap(result.model.unnormalized_log_prob)(points)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-4)
    # The model is normalised, and the proposal begins as it.
    assert abs(result.log_partition.value) < 5 * result.log_partition.stderr
    assert result.log_partition.ess > 0.9


def test_validation_points_tell_its_share(beside):
    """A flow that is nowhere near leaves them all to the mixture."""
    shares = [beside(distance=distance)[0].mixture_fraction for distance in (0.0, 30.0)]
    # The posterior mean of n points that all are the mixture's is (n + 1) / (n + 2), n = 20.
    assert shares[0] < shares[1] == pytest.approx(21 / 22, abs=0.01)


@pytest.mark.parametrize(
    "choices",
    [{"n": 2000}, {"base": "gaussian"}, {"size": 65, "n": 300}, {"time_budget": 1e-9}],
    ids=["many rows", "no flow as base", "many coordinates", "no time"],
)
def test_where_there_is_no_mixture(beside, choices):
    result, _, _ = beside(**choices)
    assert result.mixture_components is None
    assert result.mixture_fraction is None


def test_weights_reach_the_mixture(beside):
    """Weight on one cluster alone: one Gaussian is enough, and it is there."""
    weights = jnp.where(jnp.arange(200) % 2, 1.0, 0.0)
    chosen = 3.0 + jr.normal(jr.key(9), (20, 2))
    result, _, _ = beside(
        weights=weights, validation=chosen, validation_weights=jnp.ones(20), distance=30.0
    )
    assert result.mixture_components == 1
    base = paramax.unwrap(result.model).base
    assert float(base.log_prob(jnp.full(2, 3.0)) - base.log_prob(jnp.full(2, -3.0))) > 10


def test_a_share_is_below_one(data, model):
    with pytest.raises(ValueError, match="base_fraction must be from 0 to below 1"):
        fit_of(model, data, base_fraction=1.0)


@pytest.mark.parametrize(
    ("n", "base", "given", "patience"),
    [
        (400, "flow", None, 4),
        (400, "flow", 7, 7),
        (400, "gaussian", None, None),
        (3000, "flow", None, None),
    ],
)
def test_a_tilt_of_a_flow_of_few_rows_ends_early(
    short_fit, data, monkeypatch, n, base, given, patience
):
    """Few are up to 200 a coordinate, of which there are two."""
    module = sys.modules["flowebm.training.fit_joint"]
    points = (data @ OBLIQUE)[:, :2]
    flow = paramax.non_trainable(gaussian_base(points))
    limits = []

    def balanced(*args, **choices):
        limits.append(choices["limits"])
        return ended(short_fit)

    monkeypatch.setattr(module, "fit_importance_weighted", lambda *args, **_: None)
    monkeypatch.setattr(module, "balance", balanced)
    monkeypatch.setattr(module, "explore", lambda *args, **_: Explored(flow, None, None, []))
    start = EnergyModel(MLPTilt((2,), width=16, depth=2, key=jr.key(0)), flow)
    fit_of(start, points[:n], base=base, base_fraction=0.0, patience=given)
    assert limits[0].patience == patience


@pytest.fixture
def few_rows_on_a_flow(short_fit, monkeypatch):
    """The result for two far clusters that a Gaussian stands for, with what balanced training was
    given, if it was called."""
    module = sys.modules["flowebm.training.fit_joint"]
    clusters = jnp.where(jnp.arange(300) % 2, 3.0, -3.0)[:, None] + jr.normal(jr.key(8), (300, 2))
    started = []

    def balanced(keys, model, *args, **choices):
        started.append(model)
        return ended(short_fit)

    def run(points=clusters, **choices):
        flow = gaussian_base(points)
        monkeypatch.setattr(module, "explore", lambda *args, **_: Explored(flow, None, None, []))
        monkeypatch.setattr(module, "mixture_beside", lambda *args, **_: None)
        monkeypatch.setattr(module, "balance", balanced)
        start = EnergyModel(MLPTilt((2,), width=16, depth=2, key=jr.key(0)), gaussian_base(points))
        result = fit_of(start, points, base="flow", base_fraction=0.0, **choices)
        return result, flow, points, started

    return run


def test_a_tilt_of_few_rows_is_balanced_if_it_gains_something(few_rows_on_a_flow):
    """By 0.8 nats here. Balanced training starts from the energy that was tried."""
    result, flow, points, started = few_rows_on_a_flow()
    trial = [row for row in result.history if row["stage"] == "trial"]
    assert min(row["nll"] for row in trial) < trial[0]["nll"] - 0.5
    (start,) = started

    def log_ratio(x):
        return jax.vmap(start.unnormalized_log_prob)(x) - flow.log_prob(x)

    log_z = log_mean_exp(log_ratio(flow.sample(jr.key(11), (4000,))))
    assert float(log_ratio(points).mean() - log_z.value) > 0.5


def test_a_tilt_of_few_rows_that_gains_nothing_is_left_out(few_rows_on_a_flow):
    """Of rows that are the Gaussian's: the model is that, its log Z known, and nothing balances."""
    result, flow, points, started = few_rows_on_a_flow(jr.normal(jr.key(10), (300, 2)))
    assert started == []
    assert result.stop_reason == "a tilt of the flow gains nothing on validation points"
    assert {row["stage"] for row in result.history} == {"trial"}
    log_prob = jax.vmap(result.model.unnormalized_log_prob)(points)
    np.testing.assert_allclose(log_prob, flow.log_prob(points), rtol=1e-5, atol=1e-5)
    assert result.base == "flow"
    assert abs(result.log_partition.value) < 5 * result.log_partition.stderr < 0.05
    assert result.log_partition.ess > 0.9 * result.log_partition.n
    # A z-test at 5 standard errors.
    errors = (result.chains.mean(axis=0) - points.mean(axis=0)) / points.std(axis=0)
    assert float(jnp.max(jnp.abs(errors))) < 5 / np.sqrt(SMALL.n_chains)
    assert result.warnings == ()


@pytest.mark.parametrize("case", ["many rows", "trained base"])
def test_nothing_is_tried_elsewhere(few_rows_on_a_flow, case):
    choices = {"train_base": True}
    if case == "many rows":
        choices = {"points": jr.normal(jr.key(10), (450, 2))}
    result, *_, started = few_rows_on_a_flow(**choices)
    assert len(started) == 1
    assert all(row["stage"] != "trial" for row in result.history)

"""`fit_joint` end to end: candidates, their stack, and the bounded tilt of it."""

import sys
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
import pytest

from flowebm.models import EnergyModel, MLPTilt, gaussian_base
from flowebm.models.gaussian_mixture import gaussian_mixture_of
from flowebm.models.marginals import fit_marginals
from flowebm.training.driver import Callbacks, TrainingDiverged
from flowebm.training.fit_joint import fit_joint
from flowebm.training.joint_options import JointOptions
from flowebm.training.row_weights import RowWeights
from flowebm.training.rows import Rows
from flowebm.training.stages.network import fit_network

SMALL = JointOptions(
    epochs=2,
    least_steps=100,
    most_steps=100,
    most_networks=1,
    settled_gaussians=0,
    network_least_columns=2,
    network_width=32,
    tilt_steps=100,
    n_draws=4096,
    n_chains=512,
)
FEW = JointOptions(most_networks=0, tilt_steps=0, n_draws=1024)
TRUTH = gaussian_mixture_of(
    [0.5, 0.3, 0.2],
    [[-1.0, 0.0], [1.0, 1.0], [1.0, -1.0]],
    [[[0.2, 0.1], [0.1, 0.2]], [[0.1, 0.0], [0.0, 0.3]], [[0.1, -0.05], [-0.05, 0.1]]],
)
#: Cells of less than half of the smallest standard deviation, of which sums are exact.
SIDE = jnp.linspace(-8, 8, 241)
GRID = jnp.stack(jnp.meshgrid(SIDE, SIDE, indexing="ij"), axis=-1).reshape(-1, 2)
AREA = float(SIDE[1] - SIDE[0]) ** 2


@pytest.fixture(scope="module")
def data():
    return TRUTH.sample(jr.key(0), (2000,))


def start_of(points):
    tilt = MLPTilt(points.shape[1:], width=16, depth=2, key=jr.key(0))
    return EnergyModel(tilt, paramax.non_trainable(gaussian_base(points)))


def fit_of(points, options=SMALL, **choices):
    return fit_joint(jr.key(1), start_of(points), points, options=options, **choices)


@pytest.fixture(scope="module")
def fit(data):
    return fit_of(data)


@eqx.filter_jit
def unnormalised(model, points):
    return jax.lax.map(model.unnormalized_log_prob, points, batch_size=4096)


@eqx.filter_jit
def log_prob_of_flow(flow, points):
    return flow.log_prob(points)


def log_prob(result, points):
    return unnormalised(result.model, points) - result.log_partition.value


@pytest.fixture(scope="module")
def fresh():
    """10,000 points of the truth and their log-densities there."""
    points = TRUTH.sample(jr.key(9), (10_000,))
    return points, eqx.filter_jit(TRUTH.log_prob)(points)


def kl(result, fresh):
    """From 10,000 fresh points; their error is below 0.02 nats."""
    points, log_p = fresh
    return float(jnp.mean(log_p - log_prob(result, points)))


def test_the_model_is_near_the_truth(fit, fresh, data):
    """The Gaussian is more than 0.3 nats away; a mixture of three costs 17 / 3600."""
    points, log_p = fresh
    gaussian = jnp.mean(log_p - eqx.filter_jit(gaussian_base(data).log_prob)(points))
    assert float(gaussian) > 0.3
    assert kl(fit, fresh) < 0.05


def test_the_density_integrates_to_one(fit):
    """Five standard errors of log Z, and the quadrature's own 1e-3."""
    mass = float(jnp.exp(log_prob(fit, GRID)).sum()) * AREA
    assert abs(np.log(mass)) < 5 * fit.log_partition.stderr + 1e-3


def test_what_was_tried_is_told(fit):
    names = list(fit.candidates)
    assert names[0] == "Gaussian"
    assert any(name.startswith("mixture of ") for name in names)
    assert any(name.startswith("mixture of transforms of ") for name in names)
    assert "network-1" in names
    assert all(np.isfinite(value) for value in fit.candidates.values())
    stages = list(dict.fromkeys(row["stage"] for row in fit.history))
    # The last one's row is there if its tilt was kept.
    assert stages[: len(names)] == names
    assert all(np.isfinite(row["nll"]) for row in fit.history)
    assert fit.stop_reason == "all stages done"
    assert fit.warnings == ()
    assert 0 <= fit.hidden_mass <= 1


@pytest.fixture(scope="module")
def ring_fit():
    """A ring that no Gaussian copula comes near, so that the tilt has all the work."""
    angle, radius = jr.uniform(jr.key(4), (3000,)) * 2 * jnp.pi, jr.normal(jr.key(5), (3000,))
    points = (1.4 + 0.15 * radius)[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    options = JointOptions(most_gaussians=1, most_networks=0, tilt_steps=400, n_draws=16384)
    return points, fit_of(points, options)


def test_chains_are_draws_of_the_model(ring_fit):
    """Means by quadrature: z-tests at 5 standard errors."""
    _, result = ring_fit
    chains = np.asarray(result.chains)
    assert 100 < len(chains) <= JointOptions().n_chains
    density = np.exp(log_prob(result, GRID)) * AREA
    mean, second = density @ GRID, density @ GRID**2
    errors = (chains.mean(axis=0) - mean) / np.sqrt((second - mean**2) / len(chains))
    assert np.abs(errors).max() < 5


def test_a_fit_is_a_function_of_its_key(fit, data):
    again = fit_of(data)
    assert eqx.tree_equal(again.model, fit.model)
    assert again.log_partition == fit.log_partition
    assert again.candidates == fit.candidates


class Killed(Exception):
    pass


def killed_fit(data, stage):
    """What a fit had saved when it was killed within a stage."""
    saved = {}

    def save(name, state, history):
        saved[name] = jax.tree.map(lambda x: x.copy() if eqx.is_array(x) else x, state), [*history]
        if name == stage:
            raise Killed

    with pytest.raises(Killed):
        fit_of(data, callbacks=Callbacks(save=save))
    return saved


@pytest.mark.parametrize("stage", ["network-1", "energy"])
def test_a_fit_that_was_killed_goes_on_bit_for_bit(fit, data, stage):
    saved = killed_fit(data, stage)
    assert not bool(saved[stage][0].finished)
    callbacks = Callbacks(restore=lambda name, state: saved.get(name))
    resumed = fit_of(data, callbacks=callbacks)
    assert eqx.tree_equal(resumed.model, fit.model)
    assert resumed.log_partition == fit.log_partition
    strip = [{k: v for k, v in row.items() if k != "seconds"} for row in fit.history]
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in resumed.history] == strip


def test_few_gaussians_that_more_do_not_improve_are_the_density():
    """Nor is anything said to be settled where more were not allowed."""
    points = jnp.asarray(TRUTH.sample(jr.key(1), (1500,)))
    result = fit_of(points, replace(SMALL, settled_gaussians=4))
    kinds = {name.rpartition(" of ")[0] for name in result.candidates}
    assert kinds == {"", "mixture", "mixture of transforms"}
    assert result.bound is None
    result = fit_of(points, replace(SMALL, settled_gaussians=4, most_gaussians=1))
    assert "network-1" in result.candidates


def test_a_tilt_is_kept_where_it_gains(ring_fit):
    points, result = ring_fit
    stages = list(dict.fromkeys(row["stage"] for row in result.history))
    assert stages[-1] == "energy"
    assert 0 < result.bound <= JointOptions().energy_bound
    ends = " of 1", "Gaussian", "heavy tails"
    assert all(name.endswith(ends) for name in result.candidates)
    nll = -float(log_prob(result, points).mean())
    assert nll < min(result.candidates.values()) - 0.2


def test_a_tilt_is_bounded_and_its_integral_known(ring_fit):
    _, result = ring_fit
    log_ratio = unnormalised(result.model, GRID) - log_prob_of_flow(result.flow, GRID)
    assert float(jnp.abs(log_ratio).max()) <= result.bound + 1e-3
    mass = float(jnp.exp(log_prob(result, GRID)).sum()) * AREA
    assert abs(np.log(mass)) < 5 * result.log_partition.stderr + 1e-3
    expected = min(1.0, np.exp(2 * result.bound) * np.log(20) / 16384)
    assert result.hidden_mass == pytest.approx(expected)


@pytest.fixture(scope="module")
def clusters():
    """Two clusters of as many points, and weights that make one nine times the other."""
    points = jr.normal(jr.key(2), (2000, 2)) * 0.5
    is_left = jnp.arange(2000) % 2 == 0
    points = points.at[:, 0].add(jnp.where(is_left, -2.0, 2.0))
    return points, jnp.where(is_left, 9.0, 1.0)


def weighted_fit(points, weights, **choices):
    return fit_of(
        points[200:],
        weights=weights[200:],
        validation=points[:200],
        validation_weights=weights[:200],
        **choices,
    )


def test_a_weighted_fit_has_the_weighted_distribution(clusters):
    """A share's error is 0.09 × (1/1000 + 1/1000)^½ = 0.004; seven of them."""
    result = weighted_fit(*clusters)
    density = jnp.exp(log_prob(result, GRID)) * AREA
    assert float(density[GRID[:, 0] < 0].sum()) == pytest.approx(0.9, abs=0.03)


def test_rows_of_weight_zero_are_as_if_absent(data, fresh):
    """Half of the rows are far off and count nothing. By the likelihood of fresh points: fits of
    different random starts differ by a few hundredths of a nat."""
    far = jnp.concatenate([data, 30.0 + 5 * data])
    order = jr.permutation(jr.key(3), len(far))
    weights = jnp.where(jnp.arange(len(far)) < len(data), 1.0, 0.0)
    start = start_of(data)
    result = fit_joint(
        jr.key(1),
        start,
        far[order],
        validation=TRUTH.sample(jr.key(8), (200,)),
        weights=weights[order],
        validation_weights=jnp.ones(200),
        options=SMALL,
    )
    assert kl(result, fresh) < 0.06
    assert result.candidates["network-1"] < 3.0


def test_without_time_the_model_is_its_base(data):
    result = fit_of(data, time_budget=1e-9)
    assert list(result.candidates) == ["Gaussian"]
    assert result.stop_reason == "time budget spent"
    assert result.bound is None
    expected = start_of(data).base
    np.testing.assert_allclose(
        log_prob(result, data[:50]), paramax.unwrap(expected).log_prob(data[:50]), rtol=1e-5
    )


def test_no_stage_is_given_more_than_its_share_of_the_time(data, monkeypatch):
    module = sys.modules["flowebm.training.fit_joint"]
    given, fit_network, fit_tilt = {}, module.fit_network, module.fit_tilt

    def recording(function):
        def wrapped(*args, **choices):
            given[choices["stage"]] = choices["time_budget"].left()
            return function(*args, **choices)

        return wrapped

    monkeypatch.setattr(module, "fit_network", recording(fit_network))
    monkeypatch.setattr(module, "fit_tilt", recording(fit_tilt))
    fit_of(data, time_budget=10_000.0)
    # A part ends so many seconds after it was made.
    assert 2000 < given["network-1"] <= 3000
    assert 5000 < given["energy"] <= 6000


def test_warnings_are_collected_and_a_network_that_diverges_is_left_out(data, fresh, monkeypatch):
    module = sys.modules["flowebm.training.fit_joint"]
    heard = []

    def diverged(*args, callbacks, **choices):
        callbacks.warn("The loss is not finite.")
        raise TrainingDiverged("again and again")

    monkeypatch.setattr(module, "fit_network", diverged)
    monkeypatch.setattr(module, "fit_tilt", diverged)
    result = fit_of(data, callbacks=Callbacks(warn=heard.append))
    assert set(result.warnings) == {"The loss is not finite."} == set(heard)
    assert "network-1" not in result.candidates
    assert result.bound is None
    assert kl(result, fresh) < 0.05
    with pytest.raises(TrainingDiverged, match="circular columns"):
        fit_of(data, circular=(True, False))


def test_the_plane_of_the_modes_is_found():
    """Four modes in two oblique directions of sixteen."""
    turn = jnp.linalg.qr(jr.normal(jr.key(3), (16, 16)))[0]
    corners = [[-2.0, -2.0], [2.0, -2.0], [-2.0, 2.0], [2.0, 2.0]]
    plane = gaussian_mixture_of([0.4, 0.3, 0.2, 0.1], corners, [0.2 * np.eye(2)] * 4)
    z = jr.normal(jr.key(4), (4000, 16)).at[:, :2].set(plane.sample(jr.key(5), (4000,)))
    result = fit_of(z @ turn.T, FEW)
    assert result.active == 2
    functionals = result.relevance.change.inverse_matrix[:2] @ turn
    outside = jnp.linalg.norm(functionals[:, 2:]) / jnp.linalg.norm(functionals)
    assert float(outside) < 0.2
    assert any(name.startswith("subspace mixture") for name in result.candidates)
    fresh = jr.normal(jr.key(6), (5000, 16)).at[:, :2].set(plane.sample(jr.key(7), (5000,)))
    truth = plane.log_prob(fresh[:, :2]) + jax.scipy.stats.norm.logpdf(fresh[:, 2:]).sum(axis=1)
    # A Gaussian of sixteen directions costs 152 / 7200 alone.
    assert float(jnp.mean(truth - log_prob(result, fresh @ turn.T))) < 0.1


@pytest.mark.parametrize("n", [20, 60])
def test_few_rows_have_no_network(data, n):
    result = fit_of(data[:n], FEW)
    assert not any(name.startswith("network") for name in result.candidates)
    assert result.components
    assert jnp.isfinite(log_prob(result, data)).all()


def test_a_circular_column_has_its_period(data):
    """The density is the same a turn further on, and integrates to one over a turn."""
    angle = jnp.mod(2.5 + 0.7 * jr.normal(jr.key(8), (1000,)) + jnp.pi, 2 * jnp.pi) - jnp.pi
    points = jnp.stack([angle, data[:1000, 1] + jnp.cos(angle)], axis=1)
    result = fit_of(points, circular=(True, False))
    assert list(result.candidates) == ["network-1"]
    turned = points + jnp.array([2 * jnp.pi, 0.0])
    np.testing.assert_allclose(log_prob(result, turned), log_prob(result, points), atol=1e-2)
    axes = [np.pi * (2 * (np.arange(300) + 0.5) / 300 - 1), np.linspace(-12, 12, 600)]
    grid = jnp.asarray(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2))
    mass = float(jnp.exp(log_prob(result, grid)).sum()) * (2 * np.pi / 300) * (24 / 599)
    assert abs(np.log(mass)) < 5 * result.log_partition.stderr + 5e-3


def test_other_models_are_refused(data):
    with pytest.raises(TypeError, match="fits an EnergyModel"):
        fit_joint(jr.key(0), gaussian_base(data), data)


def test_points_of_another_shape_are_refused(data):
    with pytest.raises(ValueError, match="they must be the same"):
        fit_joint(jr.key(0), start_of(data), jnp.zeros((10, 3)))


@pytest.mark.parametrize("weights", [None, np.linspace(0.5, 1.5, 512)])
def test_a_network_is_trained_on_all_the_noise_that_there_is(weights):
    # Half of it is on the other side; without that, a hundredth of the draws would be.
    train = np.abs(np.random.default_rng(0).normal(1.0, 0.3, (512, 2)))
    weights = None if weights is None else RowWeights.of(weights, np.ones(512))
    rows = Rows(train, np.where(np.arange(512)[:, None] < 256, train, -train), weights, (-train,))
    options = replace(SMALL, network_batch_size=128, least_steps=400, most_steps=400)
    marginals = fit_marginals(np.concatenate([train, -train]))
    fitted = fit_network(jr.key(0), rows, np.arange(2), marginals, options=options)
    drawn = fitted.density.sample(jr.key(1), (2000,))
    # Four standard errors of the draws are 0.045, and the rest is what 400 iterations leave.
    assert float((drawn[:, 0] < 0).mean()) == pytest.approx(0.5, abs=0.1)


def test_points_that_are_redrawn_are_those_of_the_training(data):
    with pytest.raises(ValueError, match="as many as the training points"):
        fit_of(data[:400], validation=data[400:], redrawn=[data[:399]])

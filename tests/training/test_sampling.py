"""`flowebm.sample`: weights of modes, log Z, bounds, structures, and refusals."""

import itertools
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowjax.bijections import Exp
from flowjax.distributions import Normal
from jax.scipy.stats import norm

from flowebm import EstimateWarning, SamplingOptions, StartPoints, numpyro_density, sample
from flowebm.data.targets import GaussianMixture4
from flowebm.models import make_flow
from flowebm.training.budget import Budget
from flowebm.training.sampling_checkpoint import SamplingCheckpoint

SMALL = SamplingOptions(n_particles=512, flow_batch=256, enough_ess=0.5)


def small_flow(dimension):
    return make_flow(
        "spline-coupling", (dimension,), layers=3, width=16, depth=1, key=jax.random.key(9)
    )


def run(log_density, initial, dimension, seed=0, **choices):
    choices = {"n_chains": 16, "n_draws": 500, "max_steps": 200, "options": SMALL} | choices
    return sample(
        jax.random.key(seed),
        log_density,
        initial,
        flow=small_flow(dimension),
        verbose=False,
        **choices,
    )


def stderr_of_mean(indicator):
    """From the means of chains that start independent, without a model of their memory."""
    means = np.asarray(indicator).mean(axis=1)
    return means.std(ddof=1) / len(means) ** 0.5


MIXTURE = GaussianMixture4(2)


def log_density_of_mixture(x):
    return MIXTURE.log_prob(x) + 1.5


@pytest.fixture(scope="module")
def mixture():
    # All that the sampler is told is one point in the mode that has a tenth of the mass.
    return run(log_density_of_mixture, jnp.array([-4.0, -4.0]), 2)


def test_modes_far_from_the_start_get_their_weights(mixture):
    """Within 6 standard errors and 0.003, for the bias of particles shared by the chains'
    starts: with 15 degrees of freedom a false-alarm rate under 1e-4."""
    modes = np.asarray(jax.vmap(jax.vmap(MIXTURE.mode))(mixture.draws))
    for mode, weight in enumerate(np.asarray(MIXTURE.mode_weights)):
        share = modes == mode
        assert abs(share.mean() - weight) < 6 * stderr_of_mean(share) + 0.003
    assert mixture.warnings == ()


def test_log_z_is_within_its_error(mixture):
    """Five standard errors: a false-alarm rate under 1e-6."""
    log_z = mixture.log_partition
    assert log_z.khat < 0.7
    assert log_z.stderr < 0.02
    assert abs(log_z.value - 1.5) < 5 * log_z.stderr


def test_the_result_agrees_with_itself(mixture):
    assert mixture.draws.shape == (16, 500, 2)
    expected = jax.vmap(jax.vmap(log_density_of_mixture))(mixture.draws)
    np.testing.assert_allclose(mixture.log_density, expected, atol=1e-3)
    data = mixture.to_arviz()
    assert data.posterior["x"].shape == (16, 500, 2)
    assert data.sample_stats["lp"].shape == (16, 500)
    assert data.attrs["log_partition"] == mixture.log_partition.value
    assert mixture.diagnostics.rhat.shape == (2,)
    # The frozen flow is a normalised density in the user's space, near the target.
    gap = mixture.flow.log_prob(mixture.draws[0]) - MIXTURE.log_prob(mixture.draws[0])
    assert abs(float(gap.mean())) < 0.7


def test_bounded_parameters_of_a_structure_keep_their_law():
    """Gamma, Beta, a negative exponential and a normal: moments within 6 standard errors of 16
    chains, a false-alarm rate under 1e-4 in all; log Z within 5 of its own, under 1e-6."""

    def log_density(p):
        rate, share = p["positive"]["rate"], p["share"]
        gamma = 2 * jnp.log(rate) - 3 * rate + 3 * jnp.log(3.0) - jnp.log(2.0)
        beta = jnp.log(share) + 2 * jnp.log1p(-share) + jnp.log(12.0)
        return gamma + beta + p["debt"] - 0.5 * p["x"] ** 2

    def bound(rate, share, debt, x):
        return {"positive": {"rate": rate}, "share": share, "debt": debt, "x": x}

    result = run(
        log_density,
        bound(1.0, 0.5, -1.0, 0.0),
        4,
        seed=1,
        bounds=(
            bound(0.0, 0.0, -jnp.inf, -jnp.inf),
            bound(jnp.inf, 1.0, 0.0, jnp.inf),
        ),
    )
    draws = result.draws
    rate = draws["positive"]["rate"]
    assert rate.shape == (16, 500)
    assert float(rate.min()) > 0
    assert float(draws["debt"].max()) < 0
    assert 0 < float(draws["share"].min()) < float(draws["share"].max()) < 1
    for values, mean in (
        (rate, 1.0),
        (rate**2, 12 / 9),
        (draws["share"], 0.4),
        (draws["share"] ** 2, 0.2),
        (draws["debt"], -1.0),
        (draws["x"], 0.0),
        (draws["x"] ** 2, 1.0),
    ):
        assert abs(float(values.mean()) - mean) < 6 * stderr_of_mean(values) + 1e-3
    log_z = result.log_partition
    assert abs(log_z.value - 0.5 * np.log(2 * np.pi)) < 5 * log_z.stderr
    assert set(result.to_arviz().posterior.data_vars) == {"positive_rate", "share", "debt", "x"}


def test_a_numpyro_model_is_sampled_with_its_evidence():
    """Normal prior and data: posterior and evidence in closed form. The mean within 6 standard
    errors of 16 chains (false alarms under 1e-4), log Z within 5 of its own (under 1e-6)."""
    import numpyro
    import numpyro.distributions as dist
    from scipy.stats import multivariate_normal

    data = jnp.array([1.2, 0.4, 2.1])

    def model(y):
        mean = numpyro.sample("mean", dist.Normal(0.0, 2.0))
        scale = numpyro.sample("scale", dist.Uniform(0.0, 1.0))
        numpyro.deterministic("double", 2 * mean)
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        return scale

    density = numpyro_density(jax.random.key(0), model, data)
    result = run(density.log_density, density.initial, 2, seed=2)
    sites = density.constrain(result.draws)
    precision = 1 / 4 + data.size
    error = sites["mean"].mean() - data.sum() / precision
    assert abs(float(error)) < 6 * stderr_of_mean(sites["mean"]) + 1e-3
    assert abs(float(sites["scale"].mean()) - 0.5) < 6 * stderr_of_mean(sites["scale"]) + 1e-3
    np.testing.assert_allclose(sites["double"], 2 * sites["mean"], rtol=1e-6)
    evidence = multivariate_normal.logpdf(data, np.zeros(3), np.eye(3) + 4)
    log_z = result.log_partition
    assert abs(log_z.value - evidence) < 5 * log_z.stderr


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"global_kernel": "isir", "n_proposals": 3, "local_kernel": "hmc", "n_local": 2},
    ],
)
def test_every_evaluation_is_counted(choices, monkeypatch):
    """Against a density that counts; six draws are made as two blocks of four."""
    monkeypatch.setattr("flowebm.training.sampling.N_IMPORTANCE", 1_000)
    count = 0

    def counted(value):
        nonlocal count
        count += 1
        return value

    def log_density(x):
        return -0.5 * jnp.sum(x**2) + jnp.sum(look(x)) * 0

    @jax.custom_jvp
    def look(x):
        return jax.pure_callback(
            counted, jax.ShapeDtypeStruct((), x.dtype), x[0], vmap_method="sequential"
        )

    look.defjvp(lambda primals, tangents: (look(*primals), jnp.zeros(())))
    small = {"n_particles": 16, "flow_batch": 8, "n_local": 3, "patience": 5} | choices
    counts = {"n_chains": 4, "n_draws": 6, "max_steps": 3}
    with pytest.warns(EstimateWarning):
        result = run(log_density, 2, 2, options=SamplingOptions(**small), **counts)
    assert result.n_evaluations == count


def test_chains_that_have_not_mixed_are_told_of():
    """Four draws a chain, after one halving of the live points, far from the target."""
    with pytest.warns(EstimateWarning) as caught:
        result = run(log_density_of_mixture, 2, 2, n_draws=4, max_steps=1)
    assert len(caught) == len(result.warnings) >= 2
    assert "Exploration ended after 1 halvings" in result.warnings[0]
    assert any("R̂" in sentence or "ESS" in sentence for sentence in result.warnings)


def two_scales(x):
    """Half of the mass wide, half of it narrow where the wide one has nothing."""
    wide = jnp.sum(norm.logpdf(x))
    narrow = jnp.sum(norm.logpdf(x, 4.0, 0.05))
    return jnp.logaddexp(wide, narrow) - jnp.log(2.0)


def test_a_mode_that_exploration_missed_is_found_by_a_lookalike_and_said():
    """In five coordinates: log Z within 5 standard errors, weights within 0.03."""
    with pytest.warns(EstimateWarning, match="missed by exploration and found by climbs"):
        result = run(two_scales, 5, 5)
    log_z = result.log_partition
    assert abs(log_z.value) < 5 * log_z.stderr < 0.05
    narrow = (result.draws[..., 0] > 2.5).mean()
    assert abs(float(narrow) - 0.5) < 0.03
    assert [mode.is_missed for mode in result.modes].count(True) == 1
    assert abs(result.modes[1].weight - 0.5) < 6 * result.modes[1].stderr


def test_a_spike_in_a_slab_between_bounds_has_its_mass():
    """As above, in six coordinates, where a path of temperatures sees the slab alone."""

    def log_density(x):
        square = jnp.sum(x**2)
        return jnp.logaddexp(-0.5 * square, -0.5 * square / 0.01 + 6 * jnp.log(10) + jnp.log(9))

    result = run(log_density, 6, 6, bounds=(-5, 5))
    log_z = result.log_partition
    assert abs(log_z.value - 3 * np.log(2 * np.pi) - np.log(10)) < 5 * log_z.stderr < 0.1
    assert abs(float((jnp.sum(result.draws**2, axis=-1) < 0.4).mean()) - 0.9) < 0.03


def test_a_rare_mode_is_weighed_by_draws_of_its_own():
    """One in five hundred: its weight within a fifth, of more than 200 effective draws."""

    def log_density(x):
        rare = jnp.sum(norm.logpdf(x, 8.0)) + jnp.log(0.002)
        return jnp.logaddexp(jnp.sum(norm.logpdf(x)) + jnp.log(0.998), rare)

    result = run(log_density, 2, 2)
    rare = result.modes[-1]
    assert abs(rare.weight - 0.002) < 0.0004
    assert rare.effective > 200
    np.testing.assert_allclose(rare.centre, [8, 8], atol=0.3)


def test_a_density_that_is_level_up_to_its_walls_is_covered():
    result = run(lambda x: 0 * x.sum(), 3, 3, bounds=([0, -2, 5], [1, 2, 6]))
    assert result.log_partition.khat < 0.5
    assert abs(result.log_partition.value - np.log(4)) < 5 * result.log_partition.stderr < 0.02
    assert float((result.draws[..., 0] < 0.1).mean()) == pytest.approx(0.1, abs=0.02)


def test_a_circular_parameter_is_sampled_over_its_seam():
    """A von Mises density with its mode on the seam: log Z within 5 errors, the mode's two sides
    within 0.03 of a half."""
    bounds = (jnp.zeros(2), jnp.array([2 * jnp.pi, 1.0]))
    result = run(
        lambda x: 6 * jnp.cos(x[0]), 2, 2, bounds=bounds, periodic=jnp.array([True, False])
    )
    log_z = result.log_partition
    assert abs(log_z.value - np.log(2 * np.pi * np.i0(6.0))) < 5 * log_z.stderr
    assert len(result.modes) == 1
    assert float((result.draws[..., 0] < 3).mean()) == pytest.approx(0.5, abs=0.03)


def test_what_is_not_a_number_has_no_mass_and_is_counted():
    with pytest.warns(EstimateWarning, match="log_density was not a number at [0-9]+ of"):
        result = run(lambda x: -0.5 * x @ x + 0 * jnp.sqrt(x[0]), jnp.ones(2), 2)
    log_z = result.log_partition
    assert abs(log_z.value - np.log(np.pi)) < 5 * log_z.stderr
    assert float(result.draws[..., 0].min()) >= 0


def test_a_gradient_that_is_not_a_number_is_named():
    def log_density(p):
        return -0.5 * (p["a"] ** 2 + p["b"] ** 2) - jnp.sqrt((p["b"] - p["b"]) ** 2)

    with pytest.warns(EstimateWarning, match="gradient of log_density is not a number in b:"):
        result = run(log_density, {"a": 0.0, "b": 0.0}, 2)
    log_z = result.log_partition
    assert abs(log_z.value - np.log(2 * np.pi)) < 5 * log_z.stderr
    assert float(result.local_acceptance.mean()) > 0.1


def test_a_numpy_function_is_called_back():
    calls = 0

    def log_density(x):
        nonlocal calls
        calls += 1
        return float(-0.5 * np.sum(np.asarray(x) ** 2))

    result = run(log_density, 2, 2, n_draws=50, options=SamplingOptions(n_particles=64))
    log_z = result.log_partition
    assert abs(log_z.value - np.log(2 * np.pi)) < 5 * log_z.stderr
    # Once more when JAX tries to trace it, and once to see what it returns.
    assert calls == result.n_evaluations + 2


@pytest.mark.parametrize("kind", ["array", "pytree", "density"])
def test_a_start_far_away_is_what_is_given(kind):
    """A normal at (300, 300): no start around the origin needed."""
    points = 300 + 5 * np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    starts = {
        "array": points,
        "pytree": StartPoints({"x": points}),
        "density": Normal(jnp.full(2, 298.0), 5.0),
    }

    def log_density(x):
        x = x["x"] if kind == "pytree" else x
        return -0.5 * jnp.sum((x - 301) ** 2)

    result = run(log_density, starts[kind], 2, n_draws=100)
    draws = result.draws["x"] if kind == "pytree" else result.draws
    log_z = result.log_partition
    assert abs(log_z.value - np.log(2 * np.pi)) < 5 * log_z.stderr
    assert float(draws.mean()) == pytest.approx(301, abs=0.3)


def test_a_checkpoint_is_gone_on_from_bit_for_bit(tmp_path):
    choices = {"n_draws": 40, "checkpoint": tmp_path / "run"}
    whole = run(normal, 2, 2, **choices)
    with pytest.raises(FileExistsError, match="resume=True"):
        run(normal, 2, 2, **choices)
    again = run(normal, 2, 2, resume=True, **choices)
    np.testing.assert_array_equal(whole.draws, again.draws)
    (tmp_path / "run" / "draws.npz").unlink()
    again = run(normal, 2, 2, resume=True, **choices)
    np.testing.assert_array_equal(whole.draws, again.draws)
    assert again.log_partition == whole.log_partition
    # The seconds of the earlier runs count for the budget of a later one.
    used = max(float(np.load(path)["seconds"]) for path in tmp_path.rglob("*.npz"))
    budget = Budget(1e6)
    SamplingCheckpoint(choices["checkpoint"], True, budget)
    assert used > 0
    assert budget.used() >= used


def test_an_interrupted_run_returns_what_there_is():
    # Several threads call, and each is to have a number of its own.
    calls = itertools.count()

    def log_density(x):
        if next(calls) == 3000:
            signal.raise_signal(signal.SIGINT)
        return float(-0.5 * np.sum(np.asarray(x) ** 2))

    with pytest.warns(EstimateWarning, match="Interrupted"):
        result = run(log_density, 2, 2, n_draws=400, options=SamplingOptions(n_particles=64))
    assert 4 <= result.draws.shape[1] < 400
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def normal(x):
    return -0.5 * jnp.sum(x**2)


@pytest.mark.parametrize(
    ("error", "log_density", "initial", "choices", "message"),
    [
        (TypeError, 3.0, 2, {}, "must be a function of one point; got float"),
        (ValueError, lambda x: -0.5 * x**2, 2, {}, "shape \\(2,\\)"),
        (TypeError, lambda x: (x.sum(), x), 2, {}, "it returns a tuple"),
        (TypeError, lambda x: jnp.sum(x > 0), 2, {}, "must return a real number"),
        (ValueError, lambda x: jnp.sum(x * jnp.ones(3)), 2, {}, "shape \\(2,\\): TypeError"),
        (TypeError, lambda x: np.log(x), 2, {}, "NumPy arrays it returns an array of shape"),
        (ValueError, lambda x: float(x) + np.ones(x), 2, {}, "cannot be traced by JAX at a point"),
        (ValueError, normal, 2, {"periodic": True}, "give bounds beside periodic"),
        (ValueError, normal, 2, {"bounds": (0, np.inf), "periodic": True}, "two finite bounds"),
        (ValueError, normal, np.full((3, 2), 2.0), {"bounds": (0, 1)}, "strictly inside"),
        (ValueError, lambda x: jnp.log(x).sum(), [-1.0, 2.0], {}, "nan at the initial point"),
        (ValueError, lambda x: normal(x) - jnp.inf, 2, {}, "not finite at any of"),
        (ValueError, normal, 0, {}, "1 or more; got 0"),
        (TypeError, normal, True, {}, "pytree of arrays"),
        (TypeError, normal, "two", {}, "got str"),
        (ValueError, normal, [jnp.nan, 0.0], {}, "not finite"),
        (ValueError, normal, [1.0, 2.0], {"bounds": (0, 1)}, "not strictly inside the bounds"),
        (ValueError, normal, 2, {"bounds": (1, 0)}, "lower bound 1 of coordinate 0"),
        (ValueError, normal, 2, {"bounds": ([0, 0, 0], 1)}, "do not fit 2 coordinates"),
        (ValueError, normal, 2, {"bounds": 0}, "pair"),
        (ValueError, normal, 2, {"bounds": (0, 1), "bijection": Exp((2,))}, "not both"),
        (ValueError, normal, 2, {"bijection": Exp((3,))}, "its shape is \\(3,\\)"),
        (ValueError, normal, 2, {"n_draws": 3}, "n_draws must be 4"),
        (ValueError, normal, 2, {"n_chains": 0}, "n_chains must be 1"),
        (ValueError, normal, 3, {}, "The flow must be"),
    ],
)
def test_what_cannot_be_sampled_is_refused(error, log_density, initial, choices, message):
    if isinstance(initial, list):
        initial = jnp.array(initial)
    with pytest.raises(error, match=message):
        run(log_density, initial, 2, **choices)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"local_kernel": "gibbs"}, "'mala', 'hmc', 'nuts' or 'rwm'"),
        ({"local_kernel": "ula"}, "'mala', 'hmc', 'nuts' or 'rwm'"),
        ({"global_kernel": "none"}, "'imh' or 'isir'"),
        ({"n_local": 0}, "n_local must be 1"),
        ({"n_particles": 4}, "n_particles must be 8"),
        ({"initial_scale": 0.0}, "initial_scale must be above 0"),
        ({"target_ess": 1.0}, "target_ess must be between 0 and 1"),
    ],
)
def test_choices_that_are_none_are_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        SamplingOptions(**choice)


def test_many_coordinates_without_time_give_finite_draws_and_say_so():
    """Two narrow modes in 41 coordinates, where exploration has not begun when it must end."""

    def log_density(x):
        return jnp.logaddexp(-50 * jnp.sum((x - 1) ** 2), -50 * jnp.sum((x + 1) ** 2))

    with pytest.warns(EstimateWarning, match="warm-up ended at temperature 0 of 1"):
        result = run(log_density, 41, 41, time_budget=1e-3, n_chains=4, n_draws=40)
    assert np.isfinite(result.draws).all()
    # One block of draws is made in any case; what would take a flow's programs is not begun.
    assert result.draws.shape == (4, 4, 41)
    assert not [row for row in result.history if row["iteration"]]


def banana(x):
    return norm.logpdf(x[1], 0, 10) + norm.logpdf(x[0] + 0.1 * x[1] ** 2 - 10, 0, 0.3)


def funnel(x):
    scale = jnp.exp(x[2] / 2)
    return norm.logpdf(x[2], 0, 3) + norm.logpdf(jnp.delete(x, 2), 0, scale).sum()


@pytest.mark.filterwarnings("ignore:log_density was not a number")
@pytest.mark.parametrize(
    ("log_density", "dimension", "stderr"), [(banana, 2, 0.003), (funnel, 6, 0.008)]
)
def test_bent_and_funnel_shaped_densities_are_normal_in_coordinates_of_a_map(
    log_density, dimension, stderr
):
    """Without them the mixture's error is twice as large for the banana and ten times for the
    funnel, whose chains do not mix. Five standard errors: a false-alarm rate under 1e-6."""
    result = sample(jax.random.key(0), log_density, dimension, verbose=False)
    log_z = result.log_partition
    assert log_z.khat < 0.7
    assert log_z.stderr < stderr
    assert abs(log_z.value) < 5 * log_z.stderr
    assert float(result.diagnostics.rhat.max()) < 1.01
    # In the user's coordinates, as the draws are.
    gap = result.flow.log_prob(result.draws[0]) - result.log_density[0]
    assert abs(float(np.mean(gap))) < 0.2


def test_a_spike_in_the_middle_of_a_wide_mode_is_proposed_for():
    """A third of the mass on a millionth of the volume of the next wider third: no point of any
    exploration is in it, and a climb ends on it. Its curvature is seen by small steps alone.
    Six standard errors of 32 chains: a false-alarm rate under 1e-5."""

    def log_density(x):
        scales = jnp.array([1e-2, 1.0, 1e2])
        return jax.nn.logsumexp(jax.vmap(lambda s: norm.logpdf(x, 0, s).sum())(scales)) - jnp.log(3)

    with pytest.warns(EstimateWarning, match="Estimates of log Z disagree"):
        result = sample(jax.random.key(0), log_density, 3, verbose=False)
    inside = np.sum(np.asarray(result.draws) ** 2, axis=-1) < 1e-2
    # Of the wide normals 0.0004 lies within.
    assert abs(inside.mean() - 1 / 3) < 6 * stderr_of_mean(inside) + 0.001
    value, stderr = result.opinions["importance sampling"]
    assert stderr < 0.01
    assert abs(value) < 5 * stderr

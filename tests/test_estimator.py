"""`FlowEBM`: a normalised density in the units of the data, behind scikit-learn's interface."""

import importlib
import time

import jax
import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from flowebm.data.tables import read_table
from flowebm.estimator import FlowEBM
from flowebm.models.architecture import Architecture
from flowebm.training.balanced import BalancedOptions
from flowebm.training.joint_options import JointOptions

#: Powers of two, so that a change of units changes no digit of the standardised data.
UNITS = np.array([4.0, 2.0])

NETWORK = Architecture(width=16, depth=1)
SMALL = Architecture(
    width=16, depth=1, flow="affine-coupling", flow_layers=1, flow_width=8, flow_depth=1
)
FEW = BalancedOptions(n_chains=128, batch_size=128, flow_batch=128, n_evaluation=256)
STAGES = JointOptions(
    epochs=2, least_steps=50, most_networks=1, network_width=16, tilt_steps=50, n_draws=4096
)


def estimator(**parameters):
    defaults = {"max_steps": 100, "architecture": SMALL, "options": FEW, "random_state": 7}
    # Not the default method, because its first stage would cost every test seconds.
    return FlowEBM(**({"method": "balanced"} | defaults | parameters))


@pytest.fixture(scope="module")
def data():
    """Two unequal clusters, in columns of different units and offsets."""
    generator = np.random.default_rng(0)
    second = generator.random(600) < 0.3
    x = generator.normal(size=(600, 2)) + 4.0 * second[:, None]
    return pd.DataFrame(x * [100.0, 0.1] + [500.0, -1.0], columns=["length", "mass"])


@pytest.fixture(scope="module")
def fitted(data):
    return estimator().fit(data)


@pytest.fixture(scope="module")
def fitted_in_other_units(data):
    return estimator().fit(data.to_numpy() * UNITS)


@pytest.fixture(scope="module")
def grid(data):
    """Points on a grid over eight standard deviations about the mean, and a cell's area."""
    mean, sd = data.to_numpy().mean(axis=0), data.to_numpy().std(axis=0)
    axes = [np.linspace(m - 8 * s, m + 8 * s, 201) for m, s in zip(mean, sd, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    return points, (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])


@pytest.fixture(scope="module")
def density(fitted, grid):
    points, area = grid
    return np.exp(fitted.score_samples(points)) * area


def test_the_density_integrates_to_one_within_its_stated_error(fitted, density):
    # Five standard errors of log Z and the quadrature's 1e-3: false alarms under 1e-6.
    assert fitted.log_partition_stderr_ < 0.02
    assert density.sum() == pytest.approx(1, abs=5 * fitted.log_partition_stderr_ + 1e-3)


def test_the_flow_is_a_density_in_the_units_of_the_data(fitted, grid):
    points, area = grid
    log_prob = np.asarray(fitted.flow_.log_prob(points.astype(np.float32)), np.float64)
    assert np.exp(log_prob).sum() * area == pytest.approx(1, abs=2e-3)


def test_samples_have_the_density_that_scores_state(fitted, grid, density):
    # Binomial errors of 4,000 samples, five of them: false alarms under 1e-6 for each half.
    points, _ = grid
    samples = fitted.sample(4000, random_state=1)
    probability = density / density.sum()
    for column in (0, 1):
        for quantile in (0.2, 0.5, 0.8):
            cut = np.quantile(samples[:, column], quantile)
            expected = probability[points[:, column] < cut].sum()
            # A grid's cut is known to a cell, of one part in 25 of a standard deviation.
            assert expected == pytest.approx(quantile, abs=5 * 0.5 / 4000**0.5)


def test_a_change_of_units_shifts_the_log_density_by_the_log_of_the_scale(
    fitted, fitted_in_other_units, data
):
    x = data.to_numpy()
    shifted = fitted_in_other_units.score_samples(x * UNITS) + np.log(UNITS).sum()
    np.testing.assert_allclose(shifted, fitted.score_samples(x), atol=2e-5)


def test_the_same_random_state_gives_the_same_fit_bit_for_bit(fitted, fitted_in_other_units):
    assert fitted.log_partition_ == fitted_in_other_units.log_partition_
    first = fitted.sample(100, random_state=3)
    again = fitted_in_other_units.sample(100, random_state=3)
    np.testing.assert_array_equal(first * UNITS, again)


def test_model_and_log_partition_make_up_the_score(fitted, data):
    x = data.to_numpy()[5]
    log_density = -float(fitted.model_.energy(x.astype(np.float32))) - fitted.log_partition_
    assert log_density == pytest.approx(fitted.score_samples(x[None])[0], abs=1e-4)


def test_as_a_distribution_it_has_the_scores(fitted, data):
    log_prob = fitted.to_distribution().log_prob(data.to_numpy()[:50].astype(np.float32))
    np.testing.assert_allclose(log_prob, fitted.score_samples(data[:50]), atol=2e-4)


@pytest.mark.slow
def test_as_a_distribution_it_has_the_samples(fitted):
    distribution = fitted.to_distribution()
    samples = np.asarray(distribution.sample(jax.random.key(0), (2000,)))
    reference = fitted.sample(2000, random_state=1)
    # Kolmogorov-Smirnov on each column: false alarms under 1e-4 for both.
    for column in (0, 1):
        assert ks_2samp(samples[:, column], reference[:, column]).pvalue > 5e-5


def test_score_is_the_mean_of_the_scores(fitted, data):
    assert fitted.score(data) == pytest.approx(fitted.score_samples(data).mean(), rel=1e-12)


def test_a_saved_and_loaded_model_gives_the_same_scores_and_samples(fitted, data, tmp_path):
    fitted.save(tmp_path)
    loaded = FlowEBM.load(tmp_path)
    np.testing.assert_array_equal(loaded.score_samples(data), fitted.score_samples(data))
    np.testing.assert_array_equal(
        loaded.sample(20, random_state=1), fitted.sample(20, random_state=1)
    )
    assert list(loaded.feature_names_in_) == ["length", "mass"]
    assert loaded.log_partition_stderr_ == fitted.log_partition_stderr_


def test_rows_arrays_and_frames_are_scored_alike(fitted, data):
    expected = fitted.score_samples(data)
    np.testing.assert_array_equal(fitted.score_samples(data.to_numpy()), expected)
    np.testing.assert_array_equal(fitted.score_samples(data.to_numpy().tolist()), expected)
    assert fitted.score_samples(data.iloc[:1]).shape == (1,)


@pytest.mark.parametrize("n", [1, 300, 2048, 2049, 4097, 5000])
def test_rows_beside_it_and_their_number_do_not_change_a_score(fitted, data, n):
    rows, told = np.resize(data.to_numpy(), (n, 2)), []
    expected = np.resize(fitted.score_samples(data), n)
    scores = fitted.score_samples(rows, on_progress=lambda done, total: told.append((done, total)))
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert told[-1] == (n, n)
    assert told == sorted(told)


def test_names_and_widths_of_the_data_are_kept(fitted, fitted_in_other_units):
    assert list(fitted.feature_names_in_) == ["length", "mass"]
    assert fitted.n_features_in_ == 2
    assert not hasattr(fitted_in_other_units, "feature_names_in_")


@pytest.mark.parametrize("n", [1, 7])
def test_samples_are_rows(fitted, n):
    samples = fitted.sample(n)
    assert samples.shape == (n, 2)
    np.testing.assert_array_equal(samples, fitted.sample(n))


def test_history_covers_both_stages(fitted):
    assert {row["stage"] for row in fitted.history_} == {"flow", "balanced"}
    assert fitted.history_[-1]["iteration"] == 100


def test_a_clone_is_unfitted_and_has_the_same_parameters(fitted):
    copy = clone(fitted)
    parameters, others = copy.get_params(), fitted.get_params()
    assert {name: parameters[name] for name in others} == others
    with pytest.raises(NotFittedError):
        copy.score_samples([[0.0, 0.0]])


@pytest.fixture(scope="module")
def joint(data):
    """The default method."""
    return FlowEBM(architecture=NETWORK, options=STAGES, random_state=7).fit(data)


def test_the_default_method_is_normalised_and_comes_back_from_disk(joint, data, grid, tmp_path):
    assert joint.method == "joint"
    points, area = grid
    scores = joint.score_samples(points)
    # Five standard errors of log Z, and the grid's own error.
    assert abs(np.log(np.exp(scores).sum() * area)) < 5 * joint.log_partition_stderr_ + 0.01
    joint.save(tmp_path)
    loaded = FlowEBM.load(tmp_path)
    # As many rows at once, because another number may be rounded otherwise.
    few = points[:200]
    np.testing.assert_array_equal(loaded.score_samples(few), joint.score_samples(few))
    np.testing.assert_array_equal(loaded.sample(5, random_state=1), joint.sample(5, random_state=1))
    assert loaded.method == "joint"
    # What was found is no choice: it can be fitted again.
    few = JointOptions(most_networks=0, tilt_steps=0, n_draws=1024)
    assert clone(loaded).set_params(options=few).fit(data[:100]).result_.components


def test_samples_of_the_default_method_have_its_density(joint, grid):
    """Binomial errors of 4,000 samples, five of them, as for the other method."""
    points, area = grid
    probability = np.exp(joint.score_samples(points)) * area
    samples = joint.sample(4000, random_state=1)
    for column in (0, 1):
        for quantile in (0.2, 0.5, 0.8):
            cut = np.quantile(samples[:, column], quantile)
            expected = probability[points[:, column] < cut].sum() / probability.sum()
            assert expected == pytest.approx(quantile, abs=5 * 0.5 / 4000**0.5)


@pytest.mark.parametrize("use", ["sample", "score_samples", "save"])
def test_an_unfitted_estimator_says_so(use, tmp_path):
    with pytest.raises(NotFittedError):
        getattr(FlowEBM(), use)(tmp_path if use == "save" else 1)


def changed(value):
    x = np.random.default_rng(0).normal(size=(60, 2)).astype(object)
    x[10, 1] = value
    return x


@pytest.mark.parametrize(
    ("X", "sentence"),
    [
        (changed(np.nan), "Row 11 of column 'x2'"),
        (changed(np.inf), "Row 11 of column 'x2'"),
        (changed("red"), "Row 11 of column 'x2' .* 'red', not a number"),
        (np.random.default_rng(0).normal(size=(7, 2)), "Too few rows .*=7, needs at least 8"),
        (np.ones((60, 2)), "has the value 1 in every row"),
        (np.zeros(60), "table of rows and columns"),
        ([[1.0, 2.0], [3.0]], "differ in length"),
        ("no-such-file.csv", "There is no file"),
    ],
)
def test_data_that_cannot_be_fitted_are_refused(X, sentence):
    with pytest.raises(ValueError, match=sentence):
        FlowEBM().fit(X)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"method": "guess"}, "method must be "),
        ({"point_shape": (1, 3, 3)}, "they must agree"),
        ({"validation_fraction": 1.5}, "validation_fraction"),
        ({"validation_fraction": 0}, "between 0 and 1"),
        ({"validation_fraction": 0.0001}, "empty validation part"),
        ({"architecture": Architecture(tilt="conv")}, "convolutional tilt"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(data, parameters, sentence):
    with pytest.raises(ValueError, match=sentence):
        FlowEBM(**parameters).fit(data)


def test_rows_of_another_width_are_refused(fitted):
    with pytest.raises(ValueError, match="X has 3 features, but FlowEBM is expecting 2 features"):
        fitted.score_samples(np.zeros((5, 3)))


def test_a_number_of_samples_below_one_is_refused(fitted):
    with pytest.raises(ValueError, match="1 or more; got 0"):
        fitted.sample(0)


def test_what_is_read_and_built_counts_in_the_time_budget(monkeypatch):
    """Of images it takes as long as the training of a short fit."""
    used = []

    def slow(X):
        time.sleep(0.05)
        return read_table(X)

    def caught(*args, time_budget, **kwargs):
        used.append(time_budget.used())
        raise KeyboardInterrupt

    module = importlib.import_module("flowebm.estimator")
    monkeypatch.setattr(module, "read_table", slow)
    monkeypatch.setattr(module, "fit_joint", caught)
    with pytest.raises(KeyboardInterrupt):
        FlowEBM(time_budget=100.0).fit(np.random.default_rng(0).normal(size=(60, 2)))
    assert used[0] >= 0.05


def test_a_column_twice_is_fitted_and_drawn_twice():
    rng = np.random.default_rng(0)
    celsius = rng.normal(15, 8, (400, 1))
    rows = np.concatenate([celsius, 32 + 1.8 * celsius, rng.normal(size=(400, 1))], axis=1)
    model = FlowEBM(random_state=0).fit(rows)
    drawn = model.sample(200)
    # The stack keeps a hundredth of a Gaussian whose covariance is shrunk.
    assert (np.abs(drawn[:, 1] - 32 - 1.8 * drawn[:, 0]) < 0.01).mean() > 0.9
    assert np.isfinite(model.score_samples(rows)).all()

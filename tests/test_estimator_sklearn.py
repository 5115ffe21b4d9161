"""`FlowEBM` among scikit-learn's tools: weights, frames, pipelines, searches, pickles."""

import pickle

import jax
import numpy as np
import pandas as pd
import polars
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from flowebm.estimator import FlowEBM
from flowebm.evaluation import EstimateWarning
from flowebm.models.architecture import Architecture
from flowebm.models.ebflow_architecture import EBFlowArchitecture
from flowebm.training.balanced import BalancedOptions
from flowebm.training.fit_ebflow import EBFlowOptions

LEFT, RIGHT = 300, 100


def estimator(**parameters):
    defaults = {
        "max_steps": 200,
        "architecture": EBFlowArchitecture(n_blocks=3),
        "options": EBFlowOptions(batch_size=64, learning_rate=5e-3, average_decay=0.95),
        "random_state": 3,
    }
    return FlowEBM("ebflow", **(defaults | parameters))


@pytest.fixture(scope="module")
def data():
    """Two modes of 300 and 100 rows, far apart in the first column."""
    x = np.random.default_rng(0).normal(size=(LEFT + RIGHT, 2))
    x[LEFT:, 0] += 8
    return pd.DataFrame(x, columns=["length", "mass"])


@pytest.fixture(scope="module")
def fitted(data):
    return estimator().fit(data)


@pytest.fixture(scope="module")
def reweighted(data):
    """The left mode counts for a third: both modes then have the same mass."""
    return estimator().fit(data, sample_weight=np.repeat([1.0, 3.0], [LEFT, RIGHT]))


def left_mass(model):
    """The model's mass left of the middle, by quadrature."""
    first, second = np.linspace(-6, 14, 201), np.linspace(-6, 6, 61)
    grid = np.stack(np.meshgrid(first, second, indexing="ij"), axis=-1)
    density = np.exp(model.score_samples(grid.reshape(-1, 2)).reshape(201, 61))
    share = density.sum(axis=1) * (first[1] - first[0]) * (second[1] - second[0])
    assert share.sum() == pytest.approx(1, abs=0.02)
    return share[first < 4].sum()


def test_weights_move_mass_between_modes(fitted, reweighted):
    # The split leaves the modes' shares of the training rows uncertain by 0.007 at most; the
    # rest is for what 200 steps miss. The two truths are 0.25 apart.
    assert left_mass(fitted) == pytest.approx(0.75, abs=0.06)
    assert left_mass(reweighted) == pytest.approx(0.5, abs=0.06)


def test_weights_in_score_are_those_of_the_mean(fitted, data):
    weights = np.arange(len(data)) % 3
    expected = np.average(fitted.score_samples(data), weights=weights)
    assert fitted.score(data, sample_weight=weights) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="the table 400 rows"):
        fitted.score(data, sample_weight=weights[:5])


def test_as_a_distribution_it_has_the_scores(fitted, data):
    log_prob = fitted.to_distribution().log_prob(data.to_numpy().astype(np.float32))
    np.testing.assert_allclose(log_prob, fitted.score_samples(data), atol=1e-4)


def test_rows_of_weight_zero_are_as_if_absent(fitted, data):
    # In the place of every third row something else.
    x, weights = np.full((len(data) * 3 // 2, 2), 1e3), np.zeros(len(data) * 3 // 2)
    kept = np.arange(len(x)) % 3 > 0
    x[kept], weights[kept] = data.to_numpy(), 2.0
    again = estimator().fit(pd.DataFrame(x, columns=data.columns), sample_weight=weights)
    np.testing.assert_array_equal(again.score_samples(data), fitted.score_samples(data))


def test_weights_that_leave_one_row_are_refused(data):
    weights = np.full(len(data), 1e-9)
    weights[0] = 1.0
    with pytest.raises(ValueError, match=r"worth 1\.00 rows of even weight"):
        estimator().fit(data, sample_weight=weights)


@pytest.fixture(scope="module")
def fitted_again(fitted, data):
    """The fitted estimator after a fit to few rows without names, and what that warned of."""
    # Rows that hardly count are no rows.
    weights = np.where(np.arange(len(data)) < 30, 1.0, 1e-9)
    model = pickle.loads(pickle.dumps(fitted)).set_params(max_steps=1)
    with pytest.warns(EstimateWarning) as warned:
        model.fit(pd.DataFrame(data.to_numpy()), sample_weight=weights)
    return model, [str(warning.message) for warning in warned]


def test_few_rows_are_fitted_with_a_warning(fitted_again):
    model, warned = fitted_again
    assert warned[0].startswith("30 rows are few: 3 of them choose the best model")
    assert model.result_.warnings == tuple(warned)


def test_what_a_fit_had_to_say_is_told_again_to_who_loads_it(fitted_again, tmp_path):
    model, warned = fitted_again
    model.save(tmp_path)
    with pytest.warns(EstimateWarning) as again:
        loaded = FlowEBM.load(tmp_path)
    assert [str(warning.message) for warning in again] == warned
    assert {warning.filename for warning in again} == {__file__}
    # Its log Z is exact.
    assert (loaded.saved_.ess, loaded.saved_.khat, loaded.saved_.n_draws) == (None, None, None)


def test_frames_of_polars_are_frames(fitted, data):
    frame = polars.from_pandas(data)
    again = estimator().fit(frame)
    assert list(again.feature_names_in_) == ["length", "mass"]
    np.testing.assert_array_equal(again.score_samples(frame), fitted.score_samples(data))


def test_columns_in_another_order_are_refused(fitted, data, tmp_path):
    data[["mass", "length"]].to_csv(tmp_path / "swapped.csv", index=False)
    for swapped in (data[["mass", "length"]], tmp_path / "swapped.csv"):
        with pytest.raises(ValueError, match="same order"):
            fitted.score_samples(swapped)
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.score_samples(data.rename(columns={"mass": "weight"}))
    with pytest.raises(ValueError, match="same order"):
        fitted.impute(data[["mass", "length"]])


def test_a_table_without_names_is_scored_with_scikit_learns_warning(fitted, data, tmp_path):
    data.to_csv(tmp_path / "bare.csv", index=False, header=False)
    expected = fitted.score_samples(data)
    for bare in (data.to_numpy(), tmp_path / "bare.csv"):
        with pytest.warns(UserWarning, match="does not have valid feature names"):
            np.testing.assert_allclose(fitted.score_samples(bare), expected)


def test_a_fit_to_another_table_forgets_the_names_of_the_first(fitted_again):
    model, _ = fitted_again
    assert not hasattr(model, "feature_names_in_")
    assert model.n_features_in_ == 2


def times_four(x):
    return x * 4.0


def test_a_pipeline_scores_in_the_units_of_its_last_step(fitted, data):
    pipeline = make_pipeline(FunctionTransformer(times_four), estimator()).fit(data)
    shifted = pipeline.score_samples(data) + 2 * np.log(4.0)
    np.testing.assert_allclose(shifted, fitted.score_samples(data), atol=2e-5)
    weights = np.repeat([1.0, 3.0], [LEFT, RIGHT])
    assert pipeline.score(data, sample_weight=weights) == pytest.approx(
        np.average(pipeline.score_samples(data), weights=weights), rel=1e-9
    )


@pytest.mark.slow
def test_a_search_chooses_by_the_held_out_likelihood(data):
    folds = ShuffleSplit(1, test_size=0.5, random_state=0)
    grid = {"max_steps": [1, 60]}
    search = GridSearchCV(estimator(), grid, cv=folds, refit=False).fit(data)
    ((train, test),) = folds.split(data)
    model = estimator(max_steps=60).fit(data.iloc[train])
    by_hand = model.score_samples(data.iloc[test]).mean()
    assert search.cv_results_["split0_test_score"][1] == pytest.approx(by_hand, abs=1e-5)
    # One step is the Gaussian that the fit begins with: it fills the gap between the modes.
    assert search.best_params_ == {"max_steps": 60}


def test_a_pickled_estimator_is_the_same_estimator(fitted, data):
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.score_samples(data), fitted.score_samples(data))
    np.testing.assert_array_equal(again.sample(5), fitted.sample(5))
    assert again.history_ == fitted.history_
    assert again.result_.log_partition == fitted.result_.log_partition
    assert again.result_.model is again.saved_.model
    assert list(again.feature_names_in_) == ["length", "mass"]
    unfitted = pickle.loads(pickle.dumps(clone(fitted)))
    assert unfitted.get_params() == fitted.get_params()


@pytest.mark.slow
def test_routed_weights_are_those_of_the_held_out_score(data):
    weights = np.repeat([1.0, 3.0], [LEFT, RIGHT])
    folds = ShuffleSplit(1, test_size=0.5, random_state=0)
    ((train, test),) = folds.split(data)
    with config_context(enable_metadata_routing=True):
        routed = estimator(max_steps=20).set_fit_request(sample_weight=True)
        routed.set_score_request(sample_weight=True)
        search = GridSearchCV(routed, {"max_steps": [20]}, cv=folds, refit=False)
        search.fit(data, sample_weight=weights)
    model = estimator(max_steps=20).fit(data.iloc[train], sample_weight=weights[train])
    by_hand = model.score(data.iloc[test], sample_weight=weights[test])
    assert search.cv_results_["split0_test_score"][0] == pytest.approx(by_hand, abs=1e-5)


@pytest.mark.slow
def test_weights_move_mass_between_modes_of_an_energy_model(data):
    model = FlowEBM(
        "balanced",
        max_steps=300,
        architecture=Architecture(width=32, depth=2, flow_layers=4, flow_width=32),
        options=BalancedOptions(n_chains=512, flow_batch=512),
        random_state=0,
    )
    model.fit(data, sample_weight=np.repeat([1.0, 3.0], [LEFT, RIGHT]))
    assert left_mass(model) == pytest.approx(0.5, abs=0.06)
    assert model.flow_.sample(jax.random.key(0), (2000,))[:, 0].mean() == pytest.approx(4, abs=0.6)
    # The measured likelihood is the weighted one: two normals of even mass, eight standard
    # deviations apart, in units of their joint standard deviation.
    exact = np.log(2 * np.pi * np.e) + np.log(2) - np.log(np.hypot(4, 1))
    assert model.history_[-1]["nll"] == pytest.approx(exact, abs=0.25)

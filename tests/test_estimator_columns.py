"""Columns of all kinds behind `FlowEBM`: exact probabilities, gaps, weights, files."""

import pickle
from math import log

import numpy as np
import pandas as pd
import pytest
from scipy.stats import lognorm, norm, poisson
from sklearn.base import clone

from flowebm.estimator import FlowEBM
from flowebm.models.architecture import Architecture
from flowebm.training.balanced import BalancedOptions
from flowebm.training.joint_options import JointOptions

#: Mixtures of Gaussians alone: nothing is compiled for them.
MIXTURES = JointOptions(network_rows=100_000)
SMALL = Architecture(
    width=16, depth=1, flow="affine-coupling", flow_layers=1, flow_width=8, flow_depth=1
)
FEW = BalancedOptions(n_chains=128, batch_size=128, flow_batch=128, n_evaluation=256)
BALANCED = {"method": "balanced", "architecture": SMALL, "options": FEW}


def estimator(**parameters):
    return FlowEBM(**({"options": MIXTURES, "random_state": 7} | parameters))


@pytest.fixture(scope="module")
def data():
    """Zeros, a lognormal, counts that depend on the zeros, and an angle in degrees."""
    rng = np.random.default_rng(0)
    zero = rng.random(1500) < 0.3
    return pd.DataFrame(
        {
            "amount": np.where(zero, 0.0, rng.lognormal(1, 0.5, 1500)),
            "count": rng.poisson(np.where(zero, 2.0, 6.0)),
            "share": rng.beta(2, 2, 1500),
        }
    )


@pytest.fixture(scope="module")
def fitted(data):
    return estimator(columns={"share": (0, 1)}).fit(data)


def test_what_columns_were_taken_for_is_said(fitted):
    assert fitted.columns_["amount"].startswith("real")
    assert fitted.columns_["amount"].endswith("piled up at 0")
    assert fitted.columns_["count"] == "whole"
    assert fitted.columns_["share"] == "0:1"


def test_samples_have_the_columns_values(fitted, data):
    samples = fitted.sample(4000, random_state=1)
    zeros = (samples[:, 0] == 0).mean()
    # A fit without the atom has none.
    assert zeros == pytest.approx((data["amount"] == 0).mean(), abs=0.08)
    assert (samples[:, 0] >= 0).all()
    np.testing.assert_array_equal(samples[:, 1], np.rint(samples[:, 1]))
    assert samples[:, 1].min() >= 0
    assert ((samples[:, 2] > 0) & (samples[:, 2] < 1)).all()


def test_probabilities_and_densities_add_up_to_one(fitted):
    # Zeros and lengths of the first column, all counts, a quadrature of the third. The error of
    # log Z is 0.02 and less, that of the draws, by Sobol points of many rows, and of the
    # quadrature likewise.
    positive = np.exp(np.linspace(-2.5, 4.5, 40))
    length = np.gradient(positive)
    share = (np.arange(12) + 0.5) / 12
    grid = np.stack(
        np.meshgrid(np.append(positive, 0.0), np.arange(22.0), share, indexing="ij"), axis=-1
    ).reshape(-1, 3)
    density, stderr = fitted.score_with_error(
        pd.DataFrame(grid, columns=["amount", "count", "share"])
    )
    width = np.append(length, 1.0).repeat(22 * 12) / 12
    assert (np.exp(density) * width).sum() == pytest.approx(1, abs=0.1)
    assert np.isfinite(stderr).all()


def test_samples_have_the_probabilities_that_scores_state(fitted):
    samples = fitted.sample(6000, random_state=2)
    share = (np.arange(12) + 0.5) / 12
    zero = np.stack(np.meshgrid([0.0], np.arange(22.0), share, indexing="ij"), -1).reshape(-1, 3)
    probability = np.exp(fitted.score_samples(pd.DataFrame(zero, columns=fitted.feature_names_in_)))
    of_counts = probability.reshape(22, 12).mean(axis=1)
    drawn = np.array([((samples[:, 0] == 0) & (samples[:, 1] == k)).mean() for k in range(22)])
    # Five binomial errors, log Z's error and the quadrature's.
    np.testing.assert_allclose(drawn, of_counts, atol=5 * 0.35 / 6000**0.5 + 0.01)


def test_a_model_is_the_same_from_its_files_and_pickled(fitted, data, tmp_path):
    fitted.save(tmp_path)
    score = fitted.score_samples(data[:40])
    for other in (FlowEBM.load(tmp_path), pickle.loads(pickle.dumps(fitted))):
        np.testing.assert_array_equal(other.score_samples(data[:40]), score)
        assert other.columns_ == fitted.columns_
        np.testing.assert_array_equal(
            other.sample(50, random_state=3), fitted.sample(50, random_state=3)
        )
    assert clone(fitted).columns == {"share": (0, 1)}


def test_a_row_is_scored_alike_whatever_rows_are_beside_it(fitted, data):
    score = fitted.score_samples(data[:30])
    np.testing.assert_allclose(fitted.score_samples(data[11:12]), score[11:12], atol=1e-5)


def test_values_that_a_declared_kind_cannot_have_are_refused(fitted, data):
    beyond = data[:5].assign(share=[0.1, 0.2, 0.3, 1.2, 0.5])
    with pytest.raises(ValueError, match=r"Row 4 of column 'share' .* bounds 0 to 1"):
        fitted.score_samples(beyond)
    with pytest.raises(ValueError, match=r"Row 4 of column 'share'"):
        estimator(columns={"share": (0, 1)}).fit(pd.concat([beyond] * 4))
    halves = data.assign(count=data["count"] + 0.5)
    with pytest.raises(ValueError, match=r"Row 1 of column 'count' .* no whole number"):
        estimator(columns={"count": "whole"}).fit(halves)
    with pytest.raises(ValueError, match=r"no column 'Share': did you mean 'share'"):
        estimator(columns={"Share": (0, 1)}).fit(data)
    with pytest.raises(ValueError, match=r"'color' .* categories"):
        estimator().fit(data.assign(color=np.tile([0.5, 1.5, 2.5], 500)))
    # A number that no row has is possible, a negative one is not.
    other = data[:2].assign(count=[60, -1])
    assert np.isneginf(fitted.score_samples(other)).tolist() == [False, True]


def test_columns_with_probabilities_make_no_flowjax_distribution(fitted):
    with pytest.raises(ValueError, match="probabilities, not a density"):
        fitted.to_distribution()


def test_bounded_columns_make_one(data):
    bounded = estimator(columns={"share": (0, 1)}).fit(data[["share"]])
    x = np.linspace(0.01, 0.99, 50)[:, None]
    log_prob = bounded.to_distribution().log_prob(x.astype(np.float32))
    np.testing.assert_allclose(
        log_prob, bounded.score_samples(pd.DataFrame(x, columns=["share"])), atol=1e-3
    )


@pytest.mark.slow
def test_known_laws_are_met():
    # A zero-inflated lognormal law beside a Poisson law: probabilities to three errors of 4,000
    # rows, 0.025, and that of a fit in its first minute.
    rng = np.random.default_rng(5)
    zero = rng.random(4000) < 0.4
    x = np.where(zero, 0, rng.lognormal(0, 1, 4000))
    data = pd.DataFrame({"x": x, "n": rng.poisson(4, 4000)})
    fitted = FlowEBM(max_steps=500, random_state=0).fit(data)

    def density(x, n):
        return np.exp(fitted.score_samples(pd.DataFrame({"x": x, "n": n})))

    k = np.arange(40)
    probability = density(np.zeros(40), k)
    assert probability.sum() == pytest.approx(zero.mean(), abs=0.03)
    np.testing.assert_allclose(probability, zero.mean() * poisson.pmf(k, 4), atol=0.02)
    x = np.array([0.3, 1.0, 3.0]).repeat(40)
    of_x = density(x, np.tile(k, 3)).reshape(3, 40).sum(axis=1)
    np.testing.assert_allclose(of_x, 0.6 * lognorm.pdf(x[::40], 1), rtol=0.2)


def test_weights_count_as_shares(data):
    weights = np.where(data["amount"] == 0, 3.0, 1.0)
    fitted = estimator(max_steps=50, **BALANCED).fit(data[["amount"]], sample_weight=weights)
    samples = fitted.sample(3000, random_state=1)
    # More than half are zero, and 0.29 without the weights; a small fit leaves some out.
    assert 0.35 < (samples[:, 0] == 0).mean() < 0.65


def gaussian_rows(n, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 1)) + np.array([[1.0, 0.5]]) * rng.normal(size=(n, 2))
    return np.where(rng.random((n, 2)) < 0.3, np.nan, x)


def test_rows_with_gaps_are_fitted_and_scored_by_what_they_have():
    gaps = gaussian_rows(2000, 1)
    fitted = estimator(missing="marginalise").fit(gaps)
    covariance = np.cov(fitted.sample(6000, random_state=2).T)
    # Of 1,000 complete pairs errors are 0.06; with means in the gaps the covariance is halved.
    np.testing.assert_allclose(covariance, [[2, 1], [1, 1.25]], atol=0.3)
    rows = np.array([[0.5, np.nan], [np.nan, -1.0], [np.nan, np.nan]])
    log_density, stderr = fitted.score_with_error(rows)
    expected = [norm.logpdf(0.5, 0, 2**0.5), norm.logpdf(-1, 0, 1.25**0.5), log(1)]
    np.testing.assert_allclose(log_density, expected, atol=0.12)
    assert (stderr < 0.06).all()
    complete = fitted.impute(rows[:2], 3, random_state=0)
    assert np.isfinite(complete).all()


def test_gaps_are_refused_unless_asked_for():
    gaps = gaussian_rows(100, 2)
    with pytest.raises(ValueError, match="missing='marginalise'"):
        estimator().fit(gaps)
    gaps[:, 1] = np.nan
    with pytest.raises(ValueError, match="no value in any row"):
        estimator(missing="marginalise").fit(gaps)

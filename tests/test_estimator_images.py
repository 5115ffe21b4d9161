"""`FlowEBM` with its defaults on images of whole-number pixels."""

import itertools
import warnings

import jax
import numpy as np
import pytest

from flowebm import FlowEBM, JointOptions
from flowebm.evaluation.estimate import EstimateWarning
from flowebm.models import Architecture
from flowebm.refusal import Refused
from flowebm.training.stages.image import _latent_classes

SMALL = JointOptions(image_steps=60, network_width=16)


def stripes(n, seed):
    """Images of 2×3 pixels of two levels: all rows alike, or all columns; a few otherwise."""
    rng = np.random.default_rng(seed)
    by_row, by_column = rng.integers(0, 2, (n, 2, 1)), rng.integers(0, 2, (n, 1, 3))
    images = np.where(rng.random((n, 1, 1)) < 0.5, by_row + 0 * by_column, by_column + 0 * by_row)
    return np.where(rng.random(images.shape) < 0.05, 1 - images, images).reshape(n, 6).astype(float)


@pytest.fixture(scope="module")
def fitted():
    return FlowEBM(point_shape=(1, 2, 3), pixel_levels=2, options=SMALL, random_state=0).fit(
        stripes(2000, 0)
    )


@pytest.fixture(scope="module")
def probabilities(fitted):
    images = np.array(list(itertools.product([0.0, 1.0], repeat=6)))
    return np.exp(fitted.score_samples(images))


def test_scores_are_log_probabilities_of_whole_numbers(fitted, probabilities):
    """Of all images they add up to one: there is nothing to normalise."""
    assert fitted.log_partition_ == fitted.log_partition_stderr_ == 0
    np.testing.assert_allclose(probabilities.sum(), 1, atol=1e-4)


def test_samples_are_whole_numbers_with_those_probabilities(fitted, probabilities):
    """Total variation of 4,000 samples; 64 cells at random have 0.05, and never twice that."""
    samples = fitted.sample(4000, random_state=1)
    assert set(np.unique(samples)) == {0.0, 1.0}
    counts = np.bincount((samples @ 2.0 ** np.arange(6)[::-1]).astype(int), minlength=64)
    assert 0.5 * np.abs(counts / 4000 - probabilities).sum() < 0.1


def test_what_images_show_is_learned(fitted, probabilities):
    test = stripes(2000, 1)
    independent = test.mean(axis=0)
    floor = np.log(np.where(test == 1, independent, 1 - independent)).sum(axis=1).mean()
    assert fitted.score_samples(test).mean() > floor + 0.5


def test_saved_loaded_and_imputed(fitted, tmp_path):
    fitted.save(tmp_path)
    again = FlowEBM.load(tmp_path)
    images = stripes(20, 2)
    np.testing.assert_array_equal(again.score_samples(images), fitted.score_samples(images))
    gaps = images.copy()
    gaps[:, 4] = np.nan
    filled = again.impute(gaps, n_draws=3, random_state=0)
    assert filled.shape == (3, 20, 6)
    assert set(np.unique(filled)) == {0.0, 1.0}
    np.testing.assert_array_equal(np.delete(filled[0], 4, 1), np.delete(images, 4, 1))


def test_choices_of_a_tilt_that_images_do_not_have_are_refused():
    images = stripes(200, 0)
    estimator = FlowEBM(
        point_shape=(1, 2, 3), pixel_levels=2, architecture=Architecture(tilt="conv")
    )
    with pytest.raises(Refused, match="no tilt"):
        estimator.fit(images)


def test_scales_that_a_time_budget_leaves_untrained_are_said():
    estimator = FlowEBM(
        point_shape=(1, 2, 3), pixel_levels=2, options=SMALL, time_budget=1e-3, random_state=0
    )
    with pytest.warns(EstimateWarning, match="before the pixels at 2x3 were trained"):
        estimator.fit(stripes(200, 0))
    assert any("before the pixels" in sentence for sentence in estimator.result_.warnings)


def test_pixel_levels_without_an_image_are_refused():
    with pytest.raises(Refused, match="point_shape"):
        FlowEBM(pixel_levels=2).fit(stripes(200, 0))


def test_few_different_images_have_as_many_latent_classes():
    """And no word of scikit-learn's on clusters that it could not find."""
    images = np.repeat(np.eye(4, dtype=np.uint8).reshape(1, 1, 4, 4), 400, axis=0)
    images[200:, 0, 0, 0] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        centers, shares = _latent_classes(jax.random.key(0), images, 32)
    assert len(centers) == 2
    np.testing.assert_allclose(shares, [0.5, 0.5])

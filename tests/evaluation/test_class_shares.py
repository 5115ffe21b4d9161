"""Shares of classes in data and in a model: right where the truth is known, with honest errors."""

import numpy as np
import pandas as pd
import pytest

from flowebm.evaluation import EstimateWarning, class_shares
from flowebm.evaluation.class_shares import NO_LABEL, _balanced, label_names

CENTERS = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 2.0]])


class Mixture:
    """A model whose shares are known."""

    def __init__(self, shares):
        self.shares = shares

    def rows(self, n, seed):
        rng = np.random.default_rng(seed)
        classes = rng.choice(3, n, p=self.shares)
        return CENTERS[classes] + rng.normal(size=(n, 2)), classes

    def sample(self, n_samples=1, *, random_state=None):
        return self.rows(n_samples, 1000 + (random_state or 0))[0]


DATA = Mixture([0.7, 0.2, 0.1])


@pytest.fixture(scope="module")
def labelled():
    return DATA.rows(2000, 1)


@pytest.mark.parametrize("shares", [[0.7, 0.2, 0.1], [0.5, 0.2, 0.3], [0.9, 0.0, 0.1]])
def test_the_shares_of_a_model_are_found_within_their_errors(labelled, shares):
    # Classes that overlap: a classifier trained on the data gives samples to what is frequent
    # there. Five standard errors and a third of a percent: false alarms under 1e-4.
    X, classes = labelled
    found = class_shares(Mixture(shares), X, np.array(["a", "b", "c"])[classes], n_samples=4000)
    assert found.classes == ("a", "b", "c")
    np.testing.assert_allclose(found.data, np.bincount(classes) / 2000)
    assert (np.abs(found.model - shares) < 5 * found.model_stderr + 3e-3).all()
    assert (found.model_stderr < 0.03).all()
    assert found.differ.any() == (shares != [0.7, 0.2, 0.1])


def test_the_rare_of_many_classes_are_found():
    """Twenty clusters of 16 to 0.3% in ten columns, far apart: boosted trees lost some of them.

    A share's relative error is (1/n + 1/m)^½ of its rows and samples; five of them.
    """
    rng = np.random.default_rng(0)
    shares = np.geomspace(0.16, 0.003, 20)
    shares /= shares.sum()
    centers = 2 * rng.normal(size=(20, 10))

    class Clusters:
        def sample(self, n_samples=1, *, random_state=None):
            rng = np.random.default_rng(random_state)
            self.classes = rng.choice(20, n_samples, p=shares)
            return centers[self.classes] + 0.5 * rng.normal(size=(n_samples, 10))

    clusters = Clusters()
    X = clusters.sample(10_000, random_state=1)
    found = class_shares(clusters, X, clusters.classes, n_samples=5000)
    errors = np.sqrt(1 / (10_000 * found.data) + 1 / (5000 * found.data))
    assert (np.abs(found.ratio - 1) < 5 * errors).all()
    assert (found.recall > 0.8).all()


def test_classes_that_cannot_be_told_apart_are_named(labelled):
    X, classes = labelled
    labels = np.where(classes == 1, "far", np.where(np.arange(2000) % 2, "odd", "even"))
    found = class_shares(DATA, X, labels, n_samples=1000)
    assert [set(pair) for pair in found.confused] == [{"odd", "even"}]
    assert found.recall[found.classes.index("far")] > 0.9


def test_a_class_without_rows_enough_is_said(labelled):
    X, classes = labelled
    labels = classes.astype(object)
    labels[:3] = "rare"
    with pytest.warns(EstimateWarning, match="'rare'.*not to be believed"):
        class_shares(DATA, X, labels, n_samples=500)


def test_labels_that_make_no_shares_are_refused(labelled):
    X, classes = labelled
    with pytest.raises(ValueError, match="two classes or more"):
        class_shares(DATA, X, np.zeros(2000))
    with pytest.raises(ValueError, match="1999 labels for 2000 rows"):
        class_shares(DATA, X, classes[1:])


def test_labels_of_all_types_have_names():
    assert label_names([1.0, 2.0, np.nan]).tolist() == ["1", "2", NO_LABEL]
    assert label_names(["T", None, "B"]).tolist() == ["T", NO_LABEL, "B"]
    assert label_names(pd.array([1, None], dtype="Int64")).tolist() == ["1", NO_LABEL]
    assert label_names(pd.Categorical(["x", "y"])).tolist() == ["x", "y"]
    assert label_names([True, False]).tolist() == ["True", "False"]


def test_of_very_many_rows_the_rare_classes_are_kept():
    codes = np.repeat([0, 1, 2], [100_000, 20_000, 300])
    kept = codes[_balanced(codes, np.bincount(codes), 0)]
    assert (kept == 2).sum() == 300
    assert 25_000 < len(kept) <= 30_000

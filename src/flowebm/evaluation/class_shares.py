"""What share each class of labelled rows has: in the data, and in a model of them."""

import warnings
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from jaxtyping import Float

from flowebm.evaluation.estimate import EstimateWarning
from flowebm.refusal import Refused

#: Trees of the forest.
N_TREES = 100

#: Rows that classifiers are trained on at most: where there are more, as many of each class as
#: leave room for the rarest.
MOST_ROWS = 30_000

#: Samples that a model's shares are estimated from, and resamplings that tell their errors.
N_SAMPLES, N_RESAMPLINGS = 20_000, 200

#: Standard errors by which a share in the model differs from that in the data, to be flagged.
CLEAR_DIFFERENCE = 3.0

#: Mean probability that rows of a class are given for another one, from which on the two are
#: said to be hardly told apart.
CONFUSED = 0.3

#: Rows of a class under which its share in a model is not to be believed.
FEW_ROWS = 10

#: What rows without a label are called.
NO_LABEL = "(no label)"


class Sampled(Protocol):
    """What can be sampled, as `FlowEBM` can."""

    def sample(self, n_samples: int, *, random_state: int | None) -> Float[np.ndarray, "n d"]:
        """Draw points in the units of the data, one a row."""
        ...


class ClassShares(NamedTuple):
    """Shares of classes in the data and in a model; all arrays have one entry a class.

    Attributes:
        classes: The classes' names, the most frequent first.
        data: Shares in the data.
        data_stderr: Their standard errors, as of a sample.
        model: Shares in the model.
        model_stderr: Their standard errors, from the samples and from the classifier's confusion.
        recall: Mean probability that the classifier gives rows of a class, held out from it, for
            their own class.
        confused: Pairs of classes that the classifier hardly tells apart: their shares in the
            model are known together better than one by one.
    """

    classes: tuple[str, ...]
    data: Float[np.ndarray, " K"]
    data_stderr: Float[np.ndarray, " K"]
    model: Float[np.ndarray, " K"]
    model_stderr: Float[np.ndarray, " K"]
    recall: Float[np.ndarray, " K"]
    confused: tuple[tuple[str, str], ...]

    @property
    def ratio(self) -> Float[np.ndarray, " K"]:
        """Shares in the model over those in the data."""
        return self.model / self.data

    @property
    def differ(self) -> np.ndarray:
        """Whether the two shares differ by more than `CLEAR_DIFFERENCE` standard errors."""
        error = np.hypot(self.data_stderr, self.model_stderr)
        return np.abs(self.model - self.data) > CLEAR_DIFFERENCE * error

    @property
    def total_variation(self) -> float:
        """Half the sum of the differences between the shares."""
        return float(0.5 * np.abs(self.model - self.data).sum())


def class_shares(
    model: Sampled,
    X: Any,
    labels: Any,
    *,
    n_samples: int = N_SAMPLES,
    random_state: int = 0,
) -> ClassShares:
    r"""The share of each class in labelled rows, and in a model that has not seen the labels.

    A random forest is trained on the rows. Its trees give rows of the class $j$ that they have not
    seen the mean probability $C_{jk}$ for the class $k$, and samples of the model the mean
    probability $m_k$. The model's shares $\pi$ are those that explain it,

    $$\min_\pi \| C^\top \pi - m \|^2, \qquad \pi \ge 0,\; \textstyle\sum_j \pi_j = 1,$$

    whatever the classifier confuses. Errors are those of resampled rows and samples.

    Args:
        model: A fitted `FlowEBM`.
        X: Rows in the units of the data, an array or data frame of shape (n, d).
        labels: The class of each row: texts or numbers, `None` or NaN where there is none.
        n_samples: Samples of the model.
        random_state: Seed of the parts, the samples and the resampling.

    Returns:
        The shares with their errors.

    Raises:
        ValueError: If labels and rows differ in number, or there is one class only.

    Warns:
        EstimateWarning: If a class has fewer than ten rows.

    Source: Lipton, Wang, Smola (2018), *Detecting and correcting for label shift with black box
    predictors*; Breiman (2001), *Random forests*, for rows out of the bag; Efron and Tibshirani
    (1993) for the errors.
    """
    # Takes seconds to import, and nothing else needs it.
    from sklearn.ensemble import RandomForestClassifier

    names = label_names(labels)
    rows = np.asarray(X, np.float64)
    if len(rows) != len(names):
        raise Refused(f"There are {len(names)} labels for {len(rows)} rows: give one a row.")
    classes, codes, counts = np.unique(names, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise Refused(f"All rows have the label {classes[0]!r}: shares need two classes or more.")
    order = np.argsort(-counts, kind="stable")
    classes, counts = classes[order], counts[order]
    codes = np.argsort(order)[codes]
    few = [str(name) for name, count in zip(classes, counts, strict=True) if count < FEW_ROWS]
    if few:
        warnings.warn(
            f"Fewer than {FEW_ROWS} rows have the label {' or '.join(map(repr, few))}: their share "
            "in the model is not to be believed.",
            EstimateWarning,
            stacklevel=2,
        )
    n, k = len(codes), len(classes)
    data = counts / n
    data_stderr = np.sqrt(data * (1 - data) / n)
    kept = _balanced(codes, counts, random_state)
    # Samples have no gaps, and a classifier would see which rows have.
    kept = kept[~np.isnan(rows[kept]).any(axis=1)]
    rows, codes = rows[kept], codes[kept]
    if len(np.unique(codes)) < k:
        raise Refused("Of some class every row has gaps: leave columns out, or that class.")
    n = len(codes)
    samples = np.asarray(model.sample(n_samples, random_state=random_state), np.float64)
    # Boosted trees lose the rare ones of many classes.
    forest = RandomForestClassifier(
        N_TREES, oob_score=True, n_jobs=cast(Any, -1), random_state=random_state
    ).fit(rows, codes)
    of_rows = np.nan_to_num(forest.oob_decision_function_)
    of_samples = forest.predict_proba(samples)

    is_of_class = (codes == np.arange(k)[:, None]).astype(float)

    def shares(row_weights: np.ndarray, sample_weights: np.ndarray) -> tuple[Any, Any]:
        confusion = (is_of_class * row_weights) @ of_rows
        confusion /= (is_of_class @ row_weights)[:, None]
        return _explained(confusion, sample_weights @ of_samples / sample_weights.sum()), confusion

    found, confusion = shares(np.ones(n), np.ones(n_samples))
    rng = np.random.default_rng(random_state)
    resampled = [
        shares(rng.exponential(size=n), rng.exponential(size=n_samples))[0]
        for _ in range(N_RESAMPLINGS)
    ]
    mixed = confusion + confusion.T
    confused = [(i, j) for i in range(k) for j in range(i) if mixed[i, j] > CONFUSED]
    return ClassShares(
        classes=tuple(map(str, classes)),
        data=data,
        data_stderr=data_stderr,
        model=found,
        # None of the samples in a class is not none of the model.
        model_stderr=np.maximum(np.std(resampled, axis=0), 1.0 / n_samples),
        recall=np.diag(confusion),
        confused=tuple((str(classes[j]), str(classes[i])) for i, j in confused),
    )


def _balanced(codes: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Numbers of `MOST_ROWS` rows at most, of each class at most as many as fit."""
    most = len(codes)
    if most > MOST_ROWS:
        limits = np.arange(1, counts.max() + 1)[:: max(1, int(counts.max()) // 1000)]
        sums = np.minimum(counts, limits[:, None]).sum(axis=1)
        most = int(limits[max(0, int((sums <= MOST_ROWS).sum()) - 1)])
    order = np.random.default_rng(seed).permutation(len(codes))
    by_class = [order[codes[order] == code][:most] for code in range(len(counts))]
    return np.sort(np.concatenate(by_class))


def label_names(labels: Any) -> np.ndarray:
    """Labels as texts; whole numbers without a point, and none as `NO_LABEL`.

    Args:
        labels: Texts or numbers, one a row.
    """

    def name(label: Any) -> str:
        if label is None or label != label or type(label).__name__ == "NAType":
            return NO_LABEL
        if isinstance(label, float | np.floating) and float(label).is_integer():
            return str(int(label))
        return str(label)

    array = np.asarray(labels).ravel()
    # Each label once: there are a million rows of a dozen.
    try:
        values, codes = np.unique(array, return_inverse=True)
    except TypeError:
        return np.array([name(label) for label in array.tolist()])
    return np.array([name(label) for label in values.tolist()])[codes]


def _explained(confusion: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The shares that explain mean probabilities, not negative and one in all."""
    from scipy.optimize import nnls

    # A heavy last equation holds their sum.
    k = len(mean)
    matrix = np.vstack([confusion.T, np.full(k, 1e3)])
    found, _ = nnls(matrix, np.append(mean, 1e3))
    return found / found.sum()

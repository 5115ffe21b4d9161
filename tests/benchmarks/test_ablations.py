"""The benchmark of ablations: its choices exist, and its table has a row each."""

from pathlib import Path

import pytest

from flowebm.training import BalancedOptions

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def ablations(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import ablations

    return ablations


def test_every_variant_is_a_choice_that_training_has(ablations):
    default = BalancedOptions()
    for name, choices in ablations.VARIANTS.items():
        assert (BalancedOptions(**choices) != default) == bool(choices), name


def test_the_table_has_a_row_a_variant(ablations):
    fit = {"kl": 0.0123, "milliseconds": 4.56, "ess": 0.789}
    worse = fit | {"kl": 0.5}
    results = {"mixture-2": {"waste recycling": {"0": fit, "1": fit, "2": worse}}}
    *_, row = ablations.table(results).splitlines()
    assert row == "| mixture-2 | waste recycling | 3 | 0.0123, 0.5000 | 4.6 | 79% |"

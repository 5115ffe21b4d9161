"""The benchmark for accelerators: it runs wherever JAX does."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_a_cell_and_its_row(monkeypatch):
    import accelerator

    monkeypatch.setattr(accelerator, "SIDE", 64)
    monkeypatch.setattr(accelerator, "TURNS", 1)
    record = accelerator.measure("draws 1024")
    # Four couplings of 16 coordinates: 8 kept ones to 28 parameters for each of the others.
    assert record["gflop"] == pytest.approx(2e-9 * 1024 * 4 * (8 * 64 + 64**2 + 64 * 28 * 8))
    assert record["fraction"] == pytest.approx(
        record["gflop"] / record["ms"] * 1e3 / record["product_gflops"]
    )
    head, _, row = accelerator.table({"draws 1024": record}).splitlines()
    assert head.count("|") == row.count("|")
    assert record["device"] in row

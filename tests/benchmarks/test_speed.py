"""The benchmark of speed: its arithmetic, and its tables."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_exponents_of_powers():
    from speed_growth import exponents

    assert exponents({"2": 3.0, "4": 12.0, "16": 192.0}) == pytest.approx((2.0, 2.0, 2.0))
    fitted, least, most = exponents({"1": 1.0, "2": 1.0, "4": 4.0})
    assert (fitted, least, most) == pytest.approx((1.0, 0.0, 2.0))


def test_operations_of_an_iteration_by_hand():
    from speed_loops import balanced_trainer, parts_gflop

    trainer = balanced_trainer(2, n_local=3, flow_interval=5)
    energy = 2 * (2 * 128 + 2 * 128**2 + 128)
    # Four couplings: one kept coordinate to 28 parameters of a spline.
    flow = 2 * 4 * (64 + 64**2 + 64 * 28)
    gflop = parts_gflop(trainer)
    assert gflop["local"] == pytest.approx(1e-9 * 1024 * energy * 2 * 4)
    assert gflop["energy step"] == pytest.approx(1e-9 * 2048 * energy * 3)
    assert gflop["pool"] == pytest.approx(1e-9 * 2048 * (energy + flow))
    assert gflop["flow step"] == pytest.approx(1e-9 * 1024 * flow * 3 / 5)
    alone = parts_gflop(balanced_trainer(2, n_local=3, global_kernel="none"))
    assert alone == {name: gflop[name] for name in ("local", "energy step")}


def test_every_section_has_cells_and_a_table_of_what_was_measured():
    import cells
    import speed

    results = cells.load(speed.RESULTS)
    for name in speed.SECTIONS:
        section = speed.section(name)
        found = results.get(name, {})
        assert set(found) <= set(section.CELLS)
        if found:
            lines = section.table(found).splitlines()
            widths = {line.count("|") for line in lines if line.startswith("|")}
            assert len(widths) == 1


def test_seconds_to_a_divergence():
    from speed_accuracy import seconds_to

    paths = [[[1.0, 0.3], [2.0, 0.1], [3.0, 0.2]], [[4.0, 0.05]]]
    assert seconds_to(0.1, paths) == 3.0
    assert seconds_to(0.05, paths) is None

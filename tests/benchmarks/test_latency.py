"""The benchmark of latency: what it counts, its table, and that it starts."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import trapezoid

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import latency


def test_a_second_turn_has_fewer_rows_and_each_turn_is_counted_alone(tmp_path, monkeypatch):
    import jax
    import jax.numpy as jnp

    seen = []

    def fit(rows, key):
        seen.append(len(rows))
        if len(seen) == 1:
            jax.jit(lambda x: jnp.cos(x) + 0.125).lower(jnp.arange(3.0)).compile()
        return (lambda points: np.zeros(len(points))), {"note": key}

    np.savez(tmp_path / "table.npz", rows=np.zeros((14, 2)), fresh=np.zeros((2, 2)), truth=[1, 3])
    monkeypatch.setitem(latency.FITS, "joint", fit)
    first, second = latency.timed("2000x10", "joint", 5, str(tmp_path), 2)
    assert seen == [14, 12]
    assert first["programs"] >= 1
    assert first["compiling"] > 0
    assert second["programs"] == second["compiling"] == second["new"] == 0
    assert first["kl"] == second["kl"] == 2
    assert first["note"] == 5


def test_the_mixture_is_a_density_of_the_rows():
    rows = np.random.default_rng(0).normal(size=(60, 1))
    log_density, notes = latency.FITS["GaussianMixture"](rows, 0)
    axis = np.linspace(-9, 9, 2001)
    assert trapezoid(np.exp(log_density(axis[:, None])), axis) == pytest.approx(1.0, abs=1e-3)
    assert notes["components"] in (1, 2, 4, 8, 16, 32)


def test_the_table_has_a_line_for_each_start():
    turn = {"seconds": 3.0, "programs": 40, "new": 4, "compiling": 1.5, "peak_memory_bytes": 2**29}
    results = {
        "20000x2": {"joint": {"0": {"cold": turn | {"kl": 0.002}, "warm": turn}}},
        "score": {"flowebm": {"0": {"cold": turn, "warm": turn | {"new": 0}}}},
    }
    assert latency.table(results).splitlines()[2:] == [
        "| 20000x2 | joint | cold | 3.0 | 40 | 4 | 1.5 | 0.50 | 0.0020 |",
        "| 20000x2 | joint | warm | 3.0 | 40 | 4 | 1.5 | 0.50 | – |",
        "| score | flowebm | cold | 3.0 | 40 | 4 | 1.5 | 0.50 | – |",
        "| score | flowebm | warm | 3.0 | 40 | 0 | 1.5 | 0.50 | – |",
    ]


def test_it_starts(tmp_path):
    command = [sys.executable, latency.__file__, "--table"]
    command += ["--results", str(tmp_path / "none.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("| what | by | start |")

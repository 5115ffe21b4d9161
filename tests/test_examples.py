"""The scripts of `examples/` run, with fewer steps and smaller flows than they would take."""

import functools
import importlib
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import flowebm
from flowebm.data import load_dataset
from flowebm.models import make_flow
from flowebm.training import fit_flow

EXAMPLES = Path(__file__).parents[1] / "examples"

SMALL_FLOW = {"layers": 1, "width": 8, "depth": 1}


@pytest.fixture
def run(monkeypatch, capsys, small_architecture, small_joint_options):
    """Run an example in this process, with a small flow that is hardly fitted."""
    fit = importlib.import_module("flowebm.training.fit_balanced")
    estimator = importlib.import_module("flowebm.estimator")
    joint = importlib.import_module("flowebm.training.fit_joint")

    def small_flow(kind, shape, **options):
        return make_flow("affine-coupling", shape, **(options | SMALL_FLOW))

    monkeypatch.setattr(joint, "JointOptions", small_joint_options)
    monkeypatch.setattr(fit, "make_flow", small_flow)
    monkeypatch.setattr(fit, "fit_flow", functools.partial(fit_flow, max_steps=20))
    for module in (estimator, flowebm):
        monkeypatch.setattr(module, "Architecture", small_architecture)

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments), "--max-steps", "20"])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_every_example_is_tested():
    source = Path(__file__).read_text(encoding="utf-8")
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == set(re.findall(r'run\("([a-z_]+\.py)"', source))


def test_fit_table_writes_samples_with_the_columns_of_the_table(run, tmp_path):
    table, samples = tmp_path / "table.csv", tmp_path / "samples.csv"
    rows = load_dataset("moons", n=400).values * [100.0, 0.1]
    pd.DataFrame(rows, columns=["length", "mass"]).to_csv(table, index=False)
    printed = run("fit_table.py", table, samples)
    assert re.search(r"log-density of held-out rows: -?\d+\.\d{3} nats", printed)
    drawn = pd.read_csv(samples)
    assert list(drawn.columns) == ["length", "mass"]
    assert drawn.shape == (1000, 2)
    assert np.isfinite(drawn.to_numpy()).all()
    # In the table's units: neither column is left standardised.
    ratio = drawn.std().to_numpy() / rows.std(axis=0)
    assert np.all((ratio > 0.5) & (ratio < 2.0))


def test_low_level_prints_an_interval_around_the_likelihood(run):
    printed = run("low_level.py")
    value, lower, upper = map(
        float, re.search(r"NLL (\S+), 95% from (\S+) to (\S+)", printed).groups()
    )
    assert lower < value < upper
    # Standardised points under their own Gaussian; the fit starts there and only gains.
    assert value < np.log(2 * np.pi * np.e) + 0.1
    assert "1000 samples" in printed


@pytest.mark.slow  # It compiles three fits and integrates over a million points.
def test_the_picture_is_drawn(run, tmp_path):
    printed = run("readme_picture.py", "--out", tmp_path / "readme.png")
    assert (tmp_path / "readme.png").read_bytes().startswith(b"\x89PNG")
    for name in ("20,000 points", "PCD's model", "flowebm's model"):
        weights = re.search(rf"{name}: weights \[(.*?)\]", printed)[1]
        assert sum(map(float, weights.split())) == pytest.approx(1.0, abs=5e-4)

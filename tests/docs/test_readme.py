"""What the README says works as it is printed, with less work than it would take a user."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flowebm.cli.entry import COMMANDS
from flowebm.data import load_dataset

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


def blocks(language):
    """The README's code blocks in one language."""
    text = README.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


@pytest.fixture
def tables(tmp_path):
    """The files that the README's commands name."""
    for name, n, seed in (("cells.csv", 500, 0), ("new.csv", 50, 1)):
        rows = load_dataset("mixture", n=n, seed=seed).values
        pd.DataFrame(rows, columns=["length", "mass"]).to_csv(tmp_path / name, index=False)
    rows.ravel()[::5] = np.nan
    pd.DataFrame(rows, columns=["length", "mass"]).to_csv(tmp_path / "gaps.csv", index=False)


@pytest.fixture
def ran(run_page, tables, capsys):
    """The names that the README's Python leaves, and what its blocks printed."""
    names = run_page(README)
    return names, capsys.readouterr().out


def test_the_blocks_run_as_they_are_printed(ran, tmp_path):
    names, printed = ran
    assert names["log_density"].shape == (20_000,)
    assert names["samples"].shape == (10_000, 2)
    right = np.asarray(names["result"].draws)[..., 0] > 0
    # Chains share a flow that was hardly trained: the standard error is about 0.02.
    assert abs(right.mean() - 0.75) < 0.1
    # A sum over 20,000 draws in single precision.
    assert float(np.sum(names["weights"].weights)) == pytest.approx(1.0, abs=1e-4)
    axis = np.linspace(-20, 20, 401)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    model = names["model"]
    mass = np.exp(model.score_samples(grid)).sum() * (axis[1] - axis[0]) ** 2
    # Five standard errors of log Z: a false-alarm rate under 1e-6.
    assert abs(np.log(mass)) < 5 * model.log_partition_stderr_ + 1e-3

    assert pd.read_csv("samples.csv").shape == (10_000, 2)
    assert np.isfinite(pd.read_csv("log_density.csv")["log_density"]).sum() == 50
    filled = pd.read_csv("filled.csv")
    assert len(filled) == 5 * 50
    assert np.isfinite(filled).all(axis=None)
    meanings = README.read_text(encoding="utf-8").partition("## What the numbers mean")[2]
    for number in ("held-out NLL", "log Z", "Pareto k̂", "draws effective"):
        assert number in printed
        assert number in meanings
    for path in (
        "model.safetensors",
        "model.json",
        "config.json",
        "metrics.jsonl",
        "evaluation.json",
        "report.html",
    ):
        assert (tmp_path / "runs" / "cells" / path).is_file()


def test_the_python_examples_are_ten_and_five_lines_and_every_command_is_shown():
    fitted, sampled = blocks("python")
    assert len([line for line in fitted.splitlines() if line]) <= 10
    assert len([line for line in sampled.splitlines() if line]) <= 5
    shown = set(re.findall(r"^flowebm ([a-z]+) ", "".join(blocks("sh")), re.M))
    # `shares` needs a run with labels; docs/shares.md has one.
    assert shown == set(COMMANDS) - {"shares"}


def test_make_knows_every_target_that_is_named():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    named = re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)\b", README.read_text(encoding="utf-8"))
    assert {"train", "test"} <= set(named) <= set(targets)


def test_the_house_is_as_it_is_drawn():
    drawn = README.read_text(encoding="utf-8").partition("src/flowebm/\n")[2].partition("```")[0]
    rooms = re.findall(r"^  ([a-z]+)/ ", drawn, re.M)
    there = {path.parent.name for path in (ROOT / "src" / "flowebm").glob("*/__init__.py")}
    assert set(rooms) == there

"""What the README says works as it is printed, with less work than it would take a user."""

import functools
import importlib
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flowebm.cli import main
from flowebm.data import load
from flowebm.training import BalancedOptions, fit_flow

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

#: The size of everything in `flowebm train`, for one line of the README to take seconds.
SMALL_TRAINING = """
    --max-steps 20 --n-chains 64 --batch-size 64 --width 8 --depth 1 --flow affine-coupling
    --flow-layers 1 --flow-width 8 --flow-depth 1 --flow-batch 64 --n-evaluation 128
"""


def blocks(page, language):
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture
def little_work(monkeypatch, small_architecture):
    """Small networks and few steps where the user's code names none."""
    estimator = importlib.import_module("flowebm.estimator")
    fit = importlib.import_module("flowebm.training.fit_balanced")
    monkeypatch.setattr(estimator, "Architecture", small_architecture)
    monkeypatch.setattr(estimator, "DEFAULT_STEPS", {"balanced": 20, "ebflow": 20})
    monkeypatch.setattr(
        fit, "BalancedOptions", functools.partial(BalancedOptions, n_chains=128, flow_batch=128)
    )
    monkeypatch.setattr(fit, "fit_flow", functools.partial(fit_flow, max_steps=20))


def test_the_python_example_runs_and_its_density_is_normalised(little_work, capsys):
    (code,) = blocks(PAGES[0], "python")
    assert len([line for line in code.splitlines() if line]) <= 10
    names = {}
    exec(compile(code, "README.md", "exec"), names)

    assert names["log_density"].shape == (20_000,)
    assert names["samples"].shape == (10_000, 2)
    assert float(np.sum(names["weights"].weights)) == pytest.approx(1.0, abs=1e-5)
    assert "log Z = " in capsys.readouterr().out
    axis = np.linspace(-20, 20, 401)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    model = names["model"]
    mass = np.exp(model.score_samples(grid)).sum() * (axis[1] - axis[0]) ** 2
    # Five standard errors of log Z: a false-alarm rate under 1e-6.
    assert abs(np.log(mass)) < 5 * model.log_partition_stderr_ + 1e-3


def test_the_commands_run_as_they_are_printed(tmp_path, monkeypatch, capsys):
    block = next(block for block in blocks(PAGES[0], "sh") if "flowebm train" in block)
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert len(commands) == 8
    monkeypatch.chdir(tmp_path)
    for name, n, seed in (("cells.csv", 500, 0), ("new.csv", 50, 1)):
        rows = load("mixture", n=n, seed=seed).values
        pd.DataFrame(rows, columns=["length", "mass"]).to_csv(name, index=False)
    rows.ravel()[::5] = np.nan
    pd.DataFrame(rows, columns=["length", "mass"]).to_csv("gaps.csv", index=False)
    for program, *arguments in commands:
        assert program == "flowebm"
        if "--help" in arguments:
            with pytest.raises(SystemExit) as stopped:
                main(arguments)
            assert stopped.value.code == 0
            continue
        small = SMALL_TRAINING.split() if arguments[0] == "train" else []
        assert main([*arguments, *small]) == 0, capsys.readouterr().err

    assert pd.read_csv("samples.csv").shape == (10_000, 2)
    assert np.isfinite(pd.read_csv("log_density.csv")["log_density"]).sum() == 50
    filled = pd.read_csv("filled.csv")
    assert len(filled) == 5 * 50
    assert np.isfinite(filled).all(axis=None)
    assert (tmp_path / "runs" / "cells" / "report.html").is_file()
    printed = capsys.readouterr().out
    meanings = PAGES[0].read_text(encoding="utf-8").partition("## What the numbers mean")[2]
    for number in ("held-out NLL", "log Z", "Pareto k̂", "draws effective", "proposals effective"):
        assert number in printed
        assert number in meanings
    for path in ("model.safetensors", "model.json", "config.json", "metrics.jsonl"):
        assert (tmp_path / "runs" / "cells" / path).is_file()


def test_make_knows_every_target_that_is_named():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    named = re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)\b", PAGES[0].read_text(encoding="utf-8"))
    assert {"train", "test"} <= set(named) <= set(targets)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_are_there(page):
    links = re.findall(r"\]\((?!https:)([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


#: Pages whose code takes a minute.
LONG = ("estimator.md",)


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, id=p.name, marks=[pytest.mark.slow] * (p.name in LONG)) for p in PAGES[1:]],
)
def test_the_code_of_a_page_runs(page, little_work):
    names = {}
    for code in blocks(page, "python"):
        exec(compile(code, page.name, "exec"), names)


def test_the_house_is_as_it_is_drawn():
    drawn = PAGES[0].read_text(encoding="utf-8").partition("src/flowebm/\n")[2].partition("```")[0]
    rooms = re.findall(r"^  ([a-z]+)/ ", drawn, re.M)
    there = {path.parent.name for path in (ROOT / "src" / "flowebm").glob("*/__init__.py")}
    assert set(rooms) == there


def test_the_picture_is_small_enough_to_load_at_once():
    picture = ROOT / "docs" / "images" / "readme.png"
    assert picture.stat().st_size < 300_000

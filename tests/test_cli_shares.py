"""`flowebm train --labels` and `flowebm shares`: labels kept apart, shares kept in the run."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from flowebm.cli import main

#: Mixtures of Gaussians alone: nothing is compiled for them.
SMALL = ("--network-rows", "100000", "--quiet")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rng = np.random.default_rng(0)
    kind = rng.choice(3, 600, p=[0.6, 0.3, 0.1])
    frame = pd.DataFrame(
        {
            "a": 3.0 * kind + rng.normal(size=600),
            "n": rng.poisson(3, 600),
            "Time": np.arange(600),
            "Kind": np.array(["B", "T", "NK"])[kind],
        }
    )
    path = tmp_path_factory.mktemp("shares") / "cells.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def run(table):
    out = table.parent / "run"
    arguments = ("train", "--data", str(table), "--out", str(out), *SMALL)
    kinds = ("--column", "n=whole:0:", "--transform", "arcsinh:5")
    assert main([*arguments, "--labels", "Kind", "--drop", "Time", *kinds]) == 0
    return out


def test_labels_and_dropped_columns_are_no_part_of_the_model(run):
    values = json.loads((run / "model.json").read_text())
    assert values["columns"] == ["a", "n"]
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["columns"] == {"a": "arcsinh:5", "n": "whole:0:"}
    shares = evaluation["class_shares"]
    assert shares["classes"] == ["B", "T", "NK"]
    assert sum(shares["model"]) == pytest.approx(1)
    assert (run / "plots" / "class_shares.png").is_file()


def test_shares_are_those_of_the_run_or_of_another_table(run, table, capsys):
    assert main(["shares", str(run), "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)
    assert kept["data"] == pytest.approx([0.6, 0.3, 0.1], abs=0.1)
    assert main(["shares", str(run), "--data", str(table), "--quiet"]) == 0
    assert "NK" in capsys.readouterr().out


def test_a_run_scores_tables_with_and_without_what_it_left_out(run, table, tmp_path, capsys):
    assert main(["score", str(run), str(table), "--quiet"]) == 0
    whole = capsys.readouterr().out
    pd.read_csv(table)[["a", "n"]].to_csv(tmp_path / "t.csv", index=False)
    assert main(["score", str(run), str(tmp_path / "t.csv"), "--quiet"]) == 0
    assert capsys.readouterr().out == whole
    assert main(["evaluate", str(run), str(table), "--quiet"]) == 0
    assert "the rows that the run held out" in " ".join(capsys.readouterr().out.split())


def test_the_report_shows_shares_and_kinds(run):
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Class shares" in page
    assert "whole:0:" in page


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--labels", "kind"), "no column .*'kind': did you mean 'Kind'"),
        (("--labels", "Kind", "--drop", "time"), "did you mean 'Time'"),
        (("--drop", "Kind", "--column", "n"), "NAME=KIND; got 'n'"),
        (("--drop", "Kind", "--column", "n=integer"), "'integer' is no kind of column"),
        (("--drop", "Kind", "--column", "m=whole"), "no column 'm'"),
        (("--drop", "Kind", "--transform", "logicle"), "'logicle' is no kind of column"),
        (("--drop", "Kind", "--column", "a=0:"), "Row .* of column 'a' .* outside of its bounds"),
        (("--columns", "a,n,a"), "asked for twice"),
        ((), "Row 1 of column 'Kind' .* not a number.*labels"),
    ],
)
def test_what_the_table_does_not_have_is_refused(table, tmp_path, capsys, options, sentence):
    status = main(["train", "--data", str(table), "--out", str(tmp_path / "r"), *SMALL, *options])
    error = capsys.readouterr().err
    assert status == 2, error
    assert re.search(sentence, " ".join(error.split())), error
    assert not (tmp_path / "r").exists()


def test_labels_of_one_class_are_refused(table, tmp_path, capsys):
    frame = pd.read_csv(table).assign(Kind="B")
    frame.to_csv(tmp_path / "one.csv", index=False)
    arguments = ["--data", str(tmp_path / "one.csv"), "--out", str(tmp_path / "r"), *SMALL]
    assert main(["train", *arguments, "--labels", "Kind"]) == 2
    assert "two classes or more" in " ".join(capsys.readouterr().err.split())

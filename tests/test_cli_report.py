"""`flowebm report`: the command that a report prints repeats the run; what is refused, and how."""

import json
import shlex
from dataclasses import asdict

import pytest

from flowebm.cli import main
from flowebm.cli.arguments import parse
from flowebm.cli.report import default_options
from flowebm.cli.train_options import NOT_THE_RUNS, options_of
from flowebm.report.page.command import options_of as options_of_run
from flowebm.report.page.command import training_command
from flowebm.report.page.record import read_record

DEFAULTS = default_options()
BALANCED = {"method": "balanced"}


def write_run(path, data="moons", method="joint", versions=None, **options):
    """A run that has begun, with these options beside the defaults."""
    path.mkdir()
    options = DEFAULTS[method] | {"method": method} | options
    config = {
        "flowebm_run": 1,
        "data": {"name": data, "sha256": "ab", "rows": 100, "columns": 2},
        "options": options,
        "versions": versions or {},
    }
    (path / "config.json").write_text(json.dumps(config))
    return path


def parsed(words):
    """The options that a command line has."""
    assert words[:2] == ["flowebm", "train"]
    return parse(options_of(words), "train", words[2:])


def named(command):
    """All options of a run by name, as `config.json` has them."""
    options = {}
    for name, value in asdict(command).items():
        if name not in NOT_THE_RUNS:
            options |= value if isinstance(value, dict) else {name: value}
    return json.loads(json.dumps(options))


def refused(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("complete", [False, True], ids=["what differs", "all"])
@pytest.mark.parametrize(
    ("data", "options"),
    [
        ("moons", {}),
        ("my data's $(touch x).csv", {"max_steps": 100, "seed": 7}),
        ("-x.npy", {"point_shape": [1, 8, 8], "dequantise": True}),
        ("digits", {"time_budget": 12.5, "residual": True, "activation": "tanh", "patience": 3}),
        (
            "mixture",
            {
                "method": "balanced",
                "dim": 16,
                "learning_rate": 1e-7,
                "penalty": 0.25,
                "full_ess": 1.0,
            },
        ),
        (
            "mixture",
            {
                "method": "balanced",
                "global_kernel": "isir",
                "gradient": "waste-recycled",
                "train_base": True,
            },
        ),
        ("mnist", {"method": "ebflow"}),
        ("x.npy", {"method": "ebflow", "match_after_preprocessing": False, "clip": 1e9}),
    ],
)
def test_the_command_has_the_options_of_the_run(tmp_path, data, options, complete):
    record = read_record(write_run(tmp_path / "run 1", data, **options))
    defaults = DEFAULTS[options.get("method", "joint")]
    named_options = options_of_run(record, defaults, complete=complete)
    command = parsed(shlex.split(training_command(record, named_options)))
    assert command.data == data
    assert command.out == tmp_path / "run 1-again"
    assert named(command) == record.config["options"].value
    again = parsed(shlex.split(training_command(record, named_options, resume=True)))
    assert again.resume
    assert again.out == tmp_path / "run 1"


def test_defaults_are_not_typed(tmp_path):
    record = read_record(write_run(tmp_path / "run", seed=3))
    command = training_command(record, options_of_run(record, DEFAULTS["joint"], complete=False))
    assert command == f"flowebm train --data moons --out {tmp_path}/run-again --seed 3"


def test_the_answer_is_printed_and_the_page_written(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    assert main(["report", str(run)]) == 0
    out = capsys.readouterr().out
    assert f"{run}/report.html: is the model to be trusted? not yet." in out
    page = tmp_path / "page.html"
    assert main(["report", str(run), "-o", str(page), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["path"] == str(page)
    assert (values["state"], values["trust"], values["warnings"]) == ("stopped", "not yet", [])
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_another_versions_run_has_all_its_options_typed(tmp_path, capsys):
    page = {}
    for name in ("0.0.1", "same"):
        path = write_run(tmp_path / name)
        if name == "same":
            from importlib.metadata import version

            config = json.loads((path / "config.json").read_text())
            config["versions"] = {"flowebm": version("flowebm")}
            (path / "config.json").write_text(json.dumps(config))
        assert main(["report", str(path)]) == 0
        page[name] = (path / "report.html").read_text()
    assert "--n-chains" in page["0.0.1"]
    assert "--n-chains" not in page["same"]
    assert "All options were the defaults" in page["same"]


def test_what_is_no_run_is_refused_with_a_sentence(tmp_path, capsys):
    assert "There is no directory" in refused(capsys, "report", tmp_path / "none")
    assert "is not a run directory" in refused(capsys, "report", tmp_path)
    (tmp_path / "config.json").write_text('{"flowebm_run": 99}')
    assert "has run version 99" in refused(capsys, "report", tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "config.json"]


def test_a_file_that_is_no_report_is_not_replaced(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    data = tmp_path / "data.csv"
    data.write_text("a,b\n")
    assert "is no report" in refused(capsys, "report", run, "-o", data)
    assert "no folder" in refused(capsys, "report", run, "-o", tmp_path / "none" / "r.html")
    assert data.read_text() == "a,b\n"


def test_help_names_the_command(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["report", "--help"])
    assert exit.value.code == 0
    assert "usage: flowebm report" in capsys.readouterr().out

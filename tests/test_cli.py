"""The command line: a run from data to samples, stopped and resumed, and every refusal."""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import flowebm
import flowebm.cli.train
from flowebm import progress
from flowebm.cli import main
from flowebm.cli.entry import COMMANDS
from flowebm.cli.measure import Measures
from flowebm.cli.points import hold_out, read_points
from flowebm.data import load_dataset
from flowebm.estimator import FlowEBM
from flowebm.training.driver import TrainingDiverged
from flowebm.training.metrics import MetricsFile, read_metrics

TINY = """
    --method balanced --n 400 --max-steps 150 --n-chains 64 --batch-size 64 --width 8 --depth 1
    --flow affine-coupling --flow-layers 1 --flow-width 8 --flow-depth 1 --flow-batch 64
    --n-evaluation 128
"""


#: Of fewer programs, where any method does.
TINY_FLOW = """
    --method ebflow --max-steps 150 --batch-size 64 --n-blocks 1 --conditioner-width 8
"""


def train(path, *options, data="mixture", tiny=TINY):
    return main(["train", "--data", str(data), "--out", str(path), *tiny.split(), *options])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run directory whose run came to its end undisturbed."""
    path = tmp_path_factory.mktemp("runs") / "finished"
    assert train(path) == 0
    return path


@pytest.fixture
def without_measures(monkeypatch):
    """Training alone, for tests of what training leaves behind."""
    monkeypatch.setattr(flowebm.cli.train, "measure", lambda *a, **k: Measures())
    monkeypatch.setattr(flowebm.cli.train, "save_run_plots", lambda *a, **k: [])
    monkeypatch.setattr(flowebm.cli.train, "print_measures", lambda *a, **k: None)


def refused(capsys, *arguments, status=2):
    """The one sentence with which a command is refused."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as exit:
        code = exit.code
    out, err = capsys.readouterr()
    assert code == status
    assert out == ""
    assert "Traceback" not in err
    return err


# A run directory and what is read from it.


def test_a_run_directory_holds_what_it_promises(finished):
    config = json.loads((finished / "config.json").read_text())
    assert config["options"]["n_chains"] == 64
    assert config["data"]["rows"] == 400
    assert {"flowebm", "jax"} <= set(config["versions"])
    rows = read_metrics(finished / "metrics.jsonl")
    assert [r["iteration"] for r in rows if r["stage"] == "balanced"] == [0, 50, 100, 150]
    plots = {path.name for path in (finished / "plots").iterdir()}
    assert plots == {"training.png", "marginals.png", "density.png", "mode_weights.png"}
    values = json.loads((finished / "evaluation.json").read_text())
    assert values["mode_weights"]["true"] == pytest.approx([0.5, 0.25, 0.15, 0.1])
    assert sum(values["mode_weights"]["fitted"]) == pytest.approx(1, abs=1e-5)
    assert values["nll"]["lower"] < values["nll"]["value"] < values["nll"]["upper"]
    assert values["iterations"] == 150


@pytest.mark.filterwarnings("ignore::flowebm.EstimateWarning")
def test_a_run_of_mixtures_alone_is_a_run_too(tmp_path, capsys):
    """Few rows are fitted by the EM algorithm, and nothing is driven block by block."""
    data, run = tmp_path / "rows.csv", tmp_path / "run"
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(90, 2)), columns=["a", "b"])
    frame.to_csv(data, index=False)
    options = ["train", "--data", str(data), "--out", str(run)]
    assert main(options) == 0
    stages = [row["stage"] for row in read_metrics(run / "metrics.jsonl")]
    assert stages[0] == "Gaussian"
    capsys.readouterr()
    assert main(["score", str(run), str(data)]) == 0
    expected = FlowEBM.load(run).score_samples(frame)
    printed = np.array(capsys.readouterr().out.split(), float)
    np.testing.assert_allclose(printed, expected, rtol=1e-6)
    before = (run / "model.safetensors").read_bytes()
    assert main([*options, "--resume"]) == 0
    assert (run / "model.safetensors").read_bytes() == before
    assert [row["stage"] for row in read_metrics(run / "metrics.jsonl")] == stages
    capsys.readouterr()
    assert "not empty" in refused(capsys, *options)
    assert main([*options, "--overwrite"]) == 0
    assert main(["report", str(run)]) == 0


def test_kl_is_the_held_out_nll_less_the_truths_entropy(finished):
    # Two independent sets of 20,000 points of the truth: five standard errors of the
    # difference, a false-alarm rate under 1e-6.
    values = json.loads((finished / "evaluation.json").read_text())
    target = load_dataset("mixture", n=10).target
    x = np.asarray(load_dataset("mixture", n=50_000, seed=99).values)
    log_p = np.asarray(target.log_prob(x), np.float64)
    error = np.hypot(values["kl"]["stderr"], values["nll"]["stderr"])
    error = np.hypot(error, log_p.std() / len(x) ** 0.5)
    assert abs(values["kl"]["value"] - (values["nll"]["value"] + log_p.mean())) < 5 * error


def test_the_standardised_nll_differs_by_the_log_of_the_scales(finished):
    values = json.loads((finished / "evaluation.json").read_text())
    scale = np.log(np.asarray(FlowEBM.load(finished).saved_.preprocessing.sd.tree)).sum()
    difference = values["nll"]["value"] - values["nll_standardised"]["value"]
    assert difference == pytest.approx(scale, abs=1e-4)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy", ".npz"])
def test_samples_in_any_kind_of_file_are_scored_as_the_model_scores_them(
    finished, tmp_path, capsys, suffix
):
    file = tmp_path / f"samples{suffix}"
    assert main(["sample", str(finished), "-n", "50", "-o", str(file)]) == 0
    estimator = FlowEBM.load(finished)
    expected = estimator.score_samples(estimator.sample(50, random_state=0))
    capsys.readouterr()
    assert main(["score", str(finished), str(file)]) == 0
    printed = np.array(capsys.readouterr().out.split(), float)
    np.testing.assert_allclose(printed, expected, rtol=1e-6)


def test_scores_in_a_file_and_in_json_are_those_that_are_printed(finished, tmp_path, capsys):
    points, scores = tmp_path / "points.csv", tmp_path / "scores.csv"
    pd.DataFrame([[4.0, 4.0], [-4.0, 4.0]]).to_csv(points, index=False)
    main(["score", str(finished), str(points)])
    printed = np.array(capsys.readouterr().out.split(), float)
    assert main(["score", str(finished), str(points), "-o", str(scores)]) == 0
    np.testing.assert_allclose(pd.read_csv(scores)["log_density"], printed, rtol=1e-6)
    main(["score", str(finished), str(points), "--json"])
    values = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(values["log_density"], printed, rtol=1e-6)


def test_seeds_tell_samples_apart(finished, tmp_path):
    files = [tmp_path / f"{name}.npy" for name in "abc"]
    for file, seed in zip(files, "112", strict=True):
        assert main(["sample", str(finished), "-n", "50", "-o", str(file), "--seed", seed]) == 0
    first, same, other = map(np.load, files)
    np.testing.assert_array_equal(first, same)
    assert not np.any(first == other)


def test_evaluate_agrees_with_the_runs_own_measures(finished, capsys):
    # Fresh points and a fresh log Z with another seed; five standard errors, a false-alarm
    # rate under 1e-6.
    assert main(["evaluate", str(finished), "mixture", "--json", "--seed", "5"]) == 0
    values = json.loads(capsys.readouterr().out)
    own = json.loads((finished / "evaluation.json").read_text())
    for name in ("nll", "kl", "log_partition"):
        error = np.hypot(values[name]["stderr"], own[name]["stderr"])
        assert 0 < abs(values[name]["value"] - own[name]["value"]) < 5 * error


def test_the_runs_own_data_are_evaluated_on_their_held_out_rows_alone(finished, tmp_path, capsys):
    points = load_dataset("mixture", n=400).values
    values = {}
    for name, rows in (("own", points), ("others", points[::-1])):
        np.save(tmp_path / f"{name}.npy", rows)
        assert main(["evaluate", str(finished), str(tmp_path / f"{name}.npy"), "--json"]) == 0
        values[name] = json.loads(capsys.readouterr().out)
    assert values["own"]["test_points"] == 40
    assert values["others"]["test_points"] == 400


def test_the_table_says_what_json_says(finished, capsys):
    assert main(["evaluate", str(finished), "mixture"]) == 0
    table = capsys.readouterr().out
    assert main(["evaluate", str(finished), "mixture", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    for number in (
        values["nll"]["value"],
        values["log_partition"]["value"],
        values["kl"]["value"],
        *values["mode_weights"]["fitted"],
    ):
        assert f"{number:.4f}" in table


# Stopped and resumed.


def test_a_run_stopped_by_ctrl_c_and_then_killed_ends_as_if_undisturbed(
    finished, tmp_path, monkeypatch, without_measures, capsys
):
    path = tmp_path / "run"
    append = MetricsFile.append

    def interrupt(self, row):
        append(self, row)
        if row["stage"] == "flow" and row["iteration"] == 100:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MetricsFile, "append", interrupt)
        assert train(path) == 130
    message = capsys.readouterr().err
    assert f"--out {path}" in message
    assert "--resume" in message
    assert not (path / "model.json").exists()

    killed_at_100 = textwrap.dedent("""
        import os, signal, sys
        from flowebm.cli import main
        from flowebm.training.metrics import MetricsFile
        append = MetricsFile.append
        def kill(self, row):
            append(self, row)
            if row["stage"] == "balanced" and row["iteration"] == 100:
                os.kill(os.getpid(), signal.SIGKILL)
        MetricsFile.append = kill
        main(sys.argv[1:])
    """)
    arguments = ["train", "--data", "mixture", "--out", str(path), *TINY.split(), "--resume"]
    process = subprocess.run([sys.executable, "-c", killed_at_100, *arguments], capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()

    seen = []

    def record(self, row):
        append(self, row)
        seen.append((row["stage"], row["iteration"]))

    monkeypatch.setattr(MetricsFile, "append", record)
    assert train(path, "--resume") == 0
    # From the last checkpoint before that: the seconds between two of them decide which it is.
    assert seen[-2:] == [("balanced", 100), ("balanced", 150)]
    for name in ("model.safetensors", "model.json"):
        assert (path / name).read_bytes() == (finished / name).read_bytes()
    assert without_seconds(path) == without_seconds(finished)


def without_seconds(path):
    rows = read_metrics(path / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.mark.parametrize(
    ("option", "named"),
    [
        (["--seed", "1"], "--seed was 0"),
        (["--n-chains", "65"], "--n-chains was 64"),
        (["--width", "9"], "--width was 8"),
        (["--n", "401"], "--n was 400"),
    ],
)
def test_resuming_with_another_option_is_refused_by_its_name(finished, capsys, option, named):
    before = (finished / "config.json").read_bytes()
    arguments = ["train", "--data", "mixture", "--out", finished, *TINY.split()]
    assert named in refused(capsys, *arguments, *option, "--resume")
    assert (finished / "config.json").read_bytes() == before


def test_resuming_with_other_data_is_refused(finished, capsys):
    arguments = ["train", "--data", "rings", "--out", finished, *TINY.split(), "--resume"]
    assert "has other values" in refused(capsys, *arguments)


def test_a_run_goes_on_with_changed_data_where_that_is_asked_for(tmp_path, capsys, monkeypatch):
    """Rows were appended: the message says how to go on, and that way works."""
    data, run = tmp_path / "rows.csv", tmp_path / "run"
    rows = pd.DataFrame(load_dataset("mixture", n=440).values)
    rows[:400].to_csv(data, index=False)
    monkeypatch.setattr(flowebm.cli.train, "save_run_plots", lambda *a, **k: [])
    append = MetricsFile.append

    def interrupt(self, row):
        append(self, row)
        if row["stage"] == "ebflow" and row["iteration"] == 100:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MetricsFile, "append", interrupt)
        assert train(run, data=data, tiny=TINY_FLOW) == 130
    before = json.loads((run / "config.json").read_text())
    rows.to_csv(data, index=False)
    again = ["train", "--data", data, "--out", run, *TINY_FLOW.split(), "--resume"]
    capsys.readouterr()
    assert "go on with these by --accept-changed-data" in refused(capsys, *again)
    assert json.loads((run / "config.json").read_text()) == before

    assert train(run, "--resume", "--accept-changed-data", data=data, tiny=TINY_FLOW) == 0
    out, _ = capsys.readouterr()
    config = json.loads((run / "config.json").read_text())
    assert config["data"]["rows"] == 440
    assert config["data"]["changed_from"] == [before["data"]["sha256"]]
    assert config["options"] == before["options"]
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert "data have changed since the run began" in evaluation["warnings"][0]
    assert "data have changed since the run began" in " ".join(out.split())
    # From now on these are the run's data.
    assert train(run, "--resume", data=data, tiny=TINY_FLOW) == 0
    capsys.readouterr()

    rows.assign(third=np.arange(440.0)).to_csv(data, index=False)
    assert "has 3 columns, and had 2" in refused(capsys, *again, "--accept-changed-data")
    assert "goes with --resume" in refused(capsys, *again[:-1], "--accept-changed-data")


def test_a_finished_run_is_not_overwritten_unless_asked(finished, capsys):
    message = refused(capsys, "train", "--data", "mixture", "--out", finished, *TINY.split())
    assert "--overwrite" in message


@pytest.mark.parametrize("bad", ["data", "shape"])
def test_a_refused_overwrite_leaves_the_run_as_it_was(finished, tmp_path, capsys, bad):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    constant = tmp_path / "near.csv"
    # Passes every check but the last, made when the rows are standardised.
    noise = np.random.default_rng(0).random(100)
    pd.DataFrame({"a": noise, "b": 1e9 + 1e-6 * noise}).to_csv(constant, index=False)
    data = [constant] if bad == "data" else ["mixture", "--tilt", "conv"]
    refused(capsys, "train", "--out", finished, *TINY.split(), "--overwrite", "--data", *data)
    assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()} == before


def test_training_that_diverges_fails_with_one_sentence(tmp_path, capsys, monkeypatch):
    def diverge(self, X, y=None):
        raise TrainingDiverged("Stage 'balanced' diverged.")

    monkeypatch.setattr(FlowEBM, "fit", diverge)
    arguments = ["train", "--data", "mixture", "--out", tmp_path / "run", "--quiet"]
    assert refused(capsys, *arguments, status=1) == "flowebm: Stage 'balanced' diverged.\n"


@pytest.mark.parametrize("asked", ["0", "1"])
@pytest.mark.parametrize(
    "bug",
    [
        lambda: {}["a bug"],
        # What libraries raise for their own reasons, JAX among them, is nobody's bad input.
        lambda: jnp.zeros(2) + jnp.zeros(3),
        lambda: np.zeros(2) + np.zeros(3),
        lambda: int("a bug"),
    ],
)
def test_what_nobody_expected_is_a_fault_of_flowebm_whose_traceback_lies_in_a_file(
    tmp_path, capsys, monkeypatch, asked, bug
):
    def fail(self, X, y=None):
        bug()

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("FLOWEBM_TRACEBACK", asked)
    monkeypatch.setattr(FlowEBM, "fit", fail)
    assert main(["train", "--data", "mixture", "--out", str(tmp_path / "run"), "--quiet"]) == 1
    *trace, sentence = capsys.readouterr().err.splitlines()
    assert sentence.startswith("flowebm: This is a fault of flowebm, not of what you gave: ")
    (file,) = tmp_path.glob("flowebm-traceback-*.txt")
    assert sentence.endswith(f"The traceback lies in {file}: please report it.")
    assert "in fail" in file.read_text(encoding="utf-8")
    assert bool(trace) == (asked == "1")


@pytest.mark.parametrize("message", ["Row 3 is empty.", "--seed must be 0 or more."])
def test_refusals_alone_have_status_2(tmp_path, capsys, monkeypatch, message):
    def refuse(self, X, y=None):
        raise flowebm.Refused(message)

    monkeypatch.setattr(FlowEBM, "fit", refuse)
    arguments = ["train", "--data", "mixture", "--out", tmp_path / "run", "--quiet"]
    assert refused(capsys, *arguments) == f"flowebm: {message}\n"


# Bad input: exit status 2 and one sentence.


def table(tmp_path, **columns):
    generator = np.random.default_rng(0)
    frame = {"a": generator.normal(size=80), "b": generator.normal(size=80)} | columns
    path = tmp_path / "data.csv"
    pd.DataFrame(frame).to_csv(path, index=False)
    return path


def with_value(value, row=7):
    column = np.random.default_rng(1).normal(size=80).astype(object)
    column[row] = value
    return column


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"b": with_value("inf")}, "Row 8 of column 'b'"),
        ({"b": with_value(None)}, "Row 8 of column 'b'"),
        ({"b": with_value("seven")}, "Row 8 of column 'b' .* 'seven', not a number"),
        ({"c": np.ones(80)}, "Column 'c' .* has the value 1 in every row"),
        ({"a": np.arange(7), "b": np.arange(7)}, "Too few rows .*=7, needs at least 9"),
    ],
)
def test_a_table_that_cannot_be_fitted_is_refused_where_it_is_wrong(
    tmp_path, capsys, columns, sentence
):
    path = table(tmp_path, **columns)
    message = refused(capsys, "train", "--data", path, "--out", tmp_path / "run")
    assert message.count("\n") == 1
    assert str(path) in message
    assert re.search(sentence, message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--data", "mixtur"], "did you mean mixture"),
        (["--data", "no/such.csv"], "There is no file no/such.csv"),
        (["--data", "rings", "--dim", "3"], "dimension is fixed"),
        (["--data", "mixture", "--max-steps", "0"], "--max-steps must be 1 or more; got 0"),
        (["--data", "mixture", "--time-budget", "-1"], "--time-budget must be above 0"),
        (["--data", "mixture", "--test-fraction", "1"], "--test-fraction must be between 0 and 1"),
        (["--data", "mixture", "--learning-rate", "nan"], "--learning-rate must be a finite"),
        (["--data", "mixture", "--flow-layers", "0"], "--flow-layers must be 1 or more"),
        (["--data", "mixture", "--base", "uniform"], "--base"),
        (["--data", "mixture", "--activation", "relu"], "--activation"),
        (["--data", "mixture", "--point-shape", "1", "2", "2"], "point_shape"),
        (["--data", "mixture", "--n-chains", "many"], "--n-chains"),
        (["--data", "mixture", "--n-chians", "9"], "--n-chains"),
        (["--data", "iris", "--test-fraction", ".005"], "fewer than two rows"),
        (["--data", "diabetes", "--dequantise"], "whole numbers"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(tmp_path, capsys, options, sentence):
    assert sentence in refused(capsys, "train", "--out", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_an_unreadable_file_is_refused(tmp_path, capsys):
    path = tmp_path / "data.parquet"
    path.write_bytes(b"PAR1 or not")
    message = refused(capsys, "train", "--data", path, "--out", tmp_path / "run")
    assert f"Cannot read {path} as Parquet" in message


@pytest.mark.parametrize("json_too", [False, True])
@pytest.mark.parametrize(
    "command",
    [["score", "mixture"], ["evaluate", "mixture"], ["sample", "-n", "3", "-o", "out.npy"]],
)
def test_commands_repeat_what_the_fit_had_to_say(
    finished, tmp_path, monkeypatch, capsys, command, json_too
):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    values = json.loads((run / "model.json").read_text())
    said = ["The estimate of log Z is not to be believed.", "Balanced training is given up."]
    (run / "model.json").write_text(json.dumps(values | {"warnings": said}))
    monkeypatch.chdir(tmp_path)
    name, *rest = command
    assert main([name, str(run), *rest, "--quiet", *["--json"] * json_too]) == 0
    out, err = capsys.readouterr()
    for sentence in said:
        if json_too:
            assert sentence in json.loads(out)["warnings"]
        else:
            assert sentence in " ".join((out + err).split())


@pytest.mark.parametrize("command", ["score", "evaluate"])
def test_a_table_of_another_width_is_refused(finished, tmp_path, capsys, command):
    path = table(tmp_path, c=np.arange(80))
    assert "Expected 2 columns" in refused(capsys, command, finished, path)
    assert "Expected 2 columns" in refused(capsys, command, finished, "iris")


@pytest.mark.parametrize("command", ["score", "evaluate"])
def test_the_models_columns_in_another_order_are_refused(finished, tmp_path, capsys, command):
    path = tmp_path / "swapped.csv"
    pd.DataFrame({"x2": np.arange(80.0), "x1": np.arange(80.0)}).to_csv(path, index=False)
    assert "column 1 is 'x2' where the model has 'x1'" in refused(capsys, command, finished, path)


def test_what_is_no_finished_run_is_refused(tmp_path, capsys):
    missing, empty, unfinished = (tmp_path / name for name in ("missing", "empty", "unfinished"))
    empty.mkdir()
    unfinished.mkdir()
    (unfinished / "config.json").write_text('{"flowebm_run": 1}')
    for path, sentence in (
        (missing, "There is no directory"),
        (empty, "is not a run directory"),
        (unfinished, "--resume"),
    ):
        assert sentence in refused(capsys, "score", path, "mixture")
        assert sentence in refused(capsys, "evaluate", path, "mixture")
        assert sentence in refused(capsys, "sample", path, "-n", 5, "-o", tmp_path / "s.csv")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"options": None}, "no valid 'seed' in 'options'"),
        ({"options": {"seed": True}}, "no valid 'seed' in 'options'"),
        ({"data": {"columns": 2}}, "no valid 'sha256' in 'data'"),
        ({"versions": []}, "no valid 'flowebm' in 'versions'"),
    ],
)
def test_a_configuration_without_its_entries_is_refused(finished, tmp_path, capsys, change, named):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | change))
    resume = ["train", "--data", "mixture", "--out", run, *TINY.split(), "--resume"]
    for arguments in (["score", run, "mixture"], ["evaluate", run, "mixture"], resume):
        assert f"config.json is damaged (it has {named})" in refused(capsys, *arguments)


def test_output_files_are_not_overwritten_unless_asked(finished, tmp_path, capsys):
    file = tmp_path / "samples.csv"
    file.write_text("mine")
    sample = ["sample", finished, "-n", 50, "-o", file]
    assert "--overwrite" in refused(capsys, *sample)
    assert "--overwrite" in refused(capsys, "score", finished, "mixture", "-o", file)
    assert file.read_text() == "mine"
    assert main([*map(str, sample), "--overwrite"]) == 0
    assert len(pd.read_csv(file)) == 50


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("s.xlsx", "must end in"), ("none/s.csv", "no folder"), ("folder.csv", "is a directory")],
)
def test_output_files_that_cannot_be_written_are_refused(tmp_path, capsys, name, sentence):
    (tmp_path / "folder.csv").mkdir()
    arguments = ["sample", tmp_path, "-n", 5, "-o", tmp_path / name]
    assert sentence in refused(capsys, *arguments)


@pytest.mark.parametrize("n", [0, -3])
def test_a_number_of_samples_below_one_is_refused(tmp_path, capsys, n):
    arguments = ["sample", tmp_path, f"-n={n}", "-o", tmp_path / "s.csv"]
    assert "-n must be 1 or more" in refused(capsys, *arguments)


def test_an_unknown_command_is_refused_with_the_known_ones(capsys):
    assert "'train', 'sample', 'score', 'evaluate'" in refused(capsys, "trian")


@pytest.mark.parametrize("command", [[], ["train"], ["sample"], ["score"], ["evaluate"]])
def test_help_comes_with_status_zero(capsys, command):
    with pytest.raises(SystemExit) as exit:
        main([*command, "--help"])
    assert exit.value.code == 0
    assert "usage: flowebm" in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from flowebm.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print([m for m in ('jax', 'numpy', 'tyro') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert printed.startswith("usage: flowebm")
    assert "--tyro-print-completion" in printed
    assert printed.splitlines()[-1] == "[]"


def test_versions_are_those_of_the_libraries_and_the_device_is_named(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0
    printed = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines())
    assert printed["python"].startswith(platform.python_version())
    for name in ("flowebm", "jax", "equinox", "flowjax", "blackjax", "optax"):
        assert printed[name] == version(name)
    assert printed["device"].startswith(f"{jax.device_count()} x ")


def completed(script, *words):
    """What bash offers for the last word of a command line."""
    code = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _tyro_flowebm'
    command = ["bash", "-c", f'{code}; echo "${{COMPREPLY[@]}}"', "bash", script, *words]
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PATH": path})
    return done.stdout.split()


def test_bash_completes_commands_and_the_options_of_every_method(tmp_path):
    script = tmp_path / "flowebm.bash"
    assert main(["--tyro-write-completion", "bash", str(script)]) == 0
    assert set(COMMANDS) <= set(completed(script, "flowebm", ""))
    assert completed(script, "flowebm", "train", "--max-st") == ["--max-steps"]
    assert completed(script, "flowebm", "train", "--objec") == ["--objective"]
    assert {"joint", "balanced", "ebflow"} <= set(
        completed(script, "flowebm", "train", "--method", "")
    )
    assert completed(script, "flowebm", "impute", "--qui") == ["--quiet"]


def test_completion_that_is_not_there_is_refused(capsys):
    assert "no completion for 'tcsh'" in refused(capsys, "--tyro-print-completion", "tcsh")
    assert "give --tyro-print-completion SHELL" in refused(capsys, "--tyro-write-completion", "zsh")


# Progress.


@pytest.fixture
def on_a_terminal(monkeypatch):
    def terminal():
        return Console(stderr=True, force_terminal=True, width=120, color_system=None)

    monkeypatch.setattr(progress, "_standard_error", terminal)


#: What the bar of a command says at its end.
ENDS = {"sample": "5/5", "score": "20000/20000", "evaluate": "4/4", "impute": "2/2"}
LONG_COMMANDS = ["sample", "score", "evaluate", pytest.param("impute", marks=pytest.mark.slow)]


def on_a_run(command, run, tmp_path):
    """A command on a finished run."""
    gaps = tmp_path / "gaps.csv"
    pd.DataFrame({"x1": [1.0, np.nan, 2.0], "x2": [np.nan, 0.5, 1.0]}).to_csv(gaps, index=False)
    out = ["-o", str(tmp_path / "out.csv"), "--overwrite"]
    rest = {
        "sample": ["-n", "5", *out],
        "score": ["mixture", *out],
        "evaluate": ["mixture"],
        "impute": [str(gaps), "--steps", "2", *out],
    }
    return [command, str(run), *rest[command]]


@pytest.mark.parametrize("command", LONG_COMMANDS)
def test_long_commands_show_bars_on_a_terminal_unless_quiet(
    finished, tmp_path, capsys, on_a_terminal, command
):
    arguments = on_a_run(command, finished, tmp_path)
    assert main(arguments) == 0
    shown = capsys.readouterr().err
    assert command in shown
    assert ENDS[command] in shown
    assert main([*arguments, "--quiet"]) == 0
    assert ENDS[command] not in capsys.readouterr().err


@pytest.mark.parametrize("command", LONG_COMMANDS)
def test_short_work_is_silent_where_there_is_no_terminal(finished, tmp_path, capsys, command):
    assert main([*on_a_run(command, finished, tmp_path), "--json"]) == 0
    out, err = capsys.readouterr()
    json.loads(out)
    assert "/" not in err


def test_scalars_for_tensorboard_are_asked_for(tmp_path, without_measures):
    run = tmp_path / "run"
    assert train(run, "--tensorboard", "--max-steps", "50", "--quiet") == 0
    assert list((run / "tensorboard").glob("events*"))


def test_tensorboard_without_its_writer_is_refused_before_anything_is_written(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("flowebm.training.tensorboard.find_spec", lambda name: None)
    arguments = ["train", "--data", "mixture", "--out", tmp_path / "run", "--tensorboard"]
    assert "pip install 'flowebm[tensorboard]'" in refused(capsys, *arguments)
    assert not (tmp_path / "run").exists()


# The points that a run is measured with.


def test_held_out_rows_are_none_of_the_fitted_ones():
    points = read_points("wine")
    fitted, test = hold_out(points, 0.25, seed=3)
    assert len(test) == round(0.25 * 178)
    together = np.concatenate([fitted, test])
    order = np.lexsort(together.T)
    expected = points.dataset.values[np.lexsort(points.dataset.values.T)]
    np.testing.assert_array_equal(together[order], expected)
    np.testing.assert_array_equal(hold_out(points, 0.25, seed=3)[1], test)


def test_fresh_points_are_none_of_the_fitted_ones():
    points = read_points("mixture", n=1000, seed=3)
    fitted, test = hold_out(points, 0.1, seed=3)
    np.testing.assert_array_equal(fitted, points.dataset.values)
    assert np.isin(test[:, 0], fitted[:, 0]).mean() < 0.01

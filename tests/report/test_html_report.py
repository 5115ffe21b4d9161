"""The report of a run: its numbers are those of the files, and no file can make it do harm."""

import json
import os
import re
from html.parser import HTMLParser

import pytest

from flowebm.report.page import write_html_report
from flowebm.report.plots import save_figure
from flowebm.report.plots.figure import new_figure
from flowebm.run import RunDirectory

HOSTILE = "<script>window.hacked=1</script>\"'><img src=x onerror=window.hacked=1>"
PLOTS = ("training", "density", "marginals", "mode_weights")


def config():
    return {
        "flowebm_run": 1,
        "data": {"name": "cells.csv", "sha256": "ab12", "rows": 20_000, "columns": 2},
        "options": {
            "method": "balanced",
            "max_steps": 100,
            "time_budget": None,
            "seed": 0,
            "global_kernel": "imh",
            "full_ess": 0.1,
        },
        "versions": {"flowebm": "0.0.1", "jax": "0.10.2"},
    }


def evaluation():
    return {
        "nll": {"value": 2.648286942, "stderr": 0.00824154, "lower": 2.6321338, "upper": 2.66444},
        "nll_standardised": {"value": 0.054, "stderr": 0.0082, "lower": 0.038, "upper": 0.07},
        "test_points": 20_000,
        "log_partition": {
            "value": -2.295078277,
            "stderr": 0.00167480,
            "ess": 18937.654,
            "khat": 0.2482658,
            "n": 20_000,
        },
        "kl": {"value": 0.00308922, "stderr": 0.00174013},
        "mode_weights": {
            "true": [0.5, 0.25, 0.15000000596, 0.1],
            "fitted": [0.50388598, 0.24389065, 0.14804026, 0.10418225],
            "stderr": [0.00363675, 0.00311359, 0.00260486, 0.00224606],
            "total_variation": 0.00806866,
            "khat": 0.173223,
        },
        "fresh_test_points": True,
        "pool_ess": 0.947060,
        "global_acceptance": 0.908094,
        "local_acceptance": 0.575313,
        "iterations": 200,
        "stop_reason": "all iterations done",
        "seconds": 153.229,
        "warnings": [],
    }


def metrics():
    rows = [
        {"stage": "flow", "iteration": i, "seconds": i / 9, "nll": 2.5 + 1 / (i + 1)}
        for i in range(0, 101, 50)
    ]
    for i in range(0, 201, 25):
        rows.append(
            {
                "stage": "balanced",
                "iteration": i,
                "seconds": 1 + i / 7,
                "nll": 2.3 + 1 / (i + 3) - (i == 50),
                "nll_stderr": 0.026 + 1e-5 * i,
                "ess": i / 200 * 0.94,
                "global_acceptance": i / 200 * 0.9,
                "local_acceptance": 0.5 + 1 / (i + 9),
                "log_partition": -2.0 - i / 700,
                "log_partition_stderr": 0.003 + 1e-6 * i,
            }
        )
    return rows


def write_run(path, **parts):
    """A run directory of these parts; those that are `None` are not there."""
    parts = {
        "config": config(),
        "model": {"shape": [2], "columns": ["CD4 (log)", "CD8"]},
        "evaluation": evaluation(),
        "metrics": metrics(),
    } | parts
    path.mkdir(exist_ok=True)
    for name in ("config", "model", "evaluation"):
        if parts[name] is not None:
            (path / f"{name}.json").write_text(json.dumps(parts[name]))
    if parts["metrics"] is not None:
        lines = "".join(json.dumps(row) + "\n" for row in parts["metrics"])
        (path / "metrics.jsonl").write_text(lines)
    return path


@pytest.fixture(scope="session")
def png(tmp_path_factory):
    """The bytes of a plot."""
    path = save_figure(new_figure(1, 1), tmp_path_factory.mktemp("plot") / "plot.png", dpi=20)
    return path.read_bytes()


@pytest.fixture
def run(tmp_path, png):
    """A finished run whose numbers are all good."""
    path = write_run(tmp_path / "run")
    (path / "plots").mkdir()
    for name in PLOTS:
        (path / "plots" / f"{name}.png").write_bytes(png)
    return path


class Page(HTMLParser):
    """What a reader of the page's source finds."""

    def __init__(self, report):
        super().__init__()
        self.tags, self.numbers, self.errors = [], [], []
        self._open, self._together = None, None
        self.source = report.path.read_text(encoding="utf-8")
        self.text = ""
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "span" and attributes.get("class") == "number":
            self._together = []
        if tag == "data":
            self._open = attributes

    def handle_endtag(self, tag):
        if tag == "data":
            self._open = None
        if tag == "span" and self._together is not None:
            self.errors.append(self._together)
            self._together = None

    def handle_data(self, data):
        self.text += data
        if self._open is not None:
            self.numbers.append((self._open["data-source"], self._open["value"], data))
            if self._together is not None:
                self._together.append(self._open["data-source"])


def resolve(run, source):
    """The value that a number's source names."""
    name, pointer = source.split("#")
    keys = pointer.split("/")[1:]
    text = (run / name).read_text()
    value = json.loads(text.splitlines()[int(keys.pop(0))] if name == "metrics.jsonl" else text)
    for key in keys:
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def assert_numbers_are_the_files(run, page):
    for source, exact, text in page.numbers:
        value = resolve(run, source)
        assert float(exact) == value, source
        # What is read differs by rounding alone: half a unit of its last digit.
        shown = re.match(r"-?[\d,]+(\.\d+)?(e[+-]\d+)?", text)
        assert shown, text
        mantissa, _, exponent = shown.group().replace(",", "").partition("e")
        unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
        percent = 100 if text.endswith("%") else 1
        number = float(shown.group().replace(",", ""))
        assert abs(number - percent * value) <= 0.5 * unit * (1 + 1e-9), (source, text)


def test_every_number_is_that_of_its_file(run):
    page = Page(write_html_report(run))
    assert_numbers_are_the_files(run, page)
    sources = {source for source, *_ in page.numbers}
    for name in ("nll/value", "nll/stderr", "nll/lower", "nll/upper", "test_points", "kl/value"):
        assert f"evaluation.json#/{name}" in sources
    for name in ("value", "stderr", "ess", "khat", "n"):
        assert f"evaluation.json#/log_partition/{name}" in sources
    for name in ("pool_ess", "global_acceptance", "local_acceptance", "iterations", "seconds"):
        assert f"evaluation.json#/{name}" in sources
    for index in range(4):
        for name in ("true", "fitted", "stderr"):
            assert f"evaluation.json#/mode_weights/{name}/{index}" in sources
    for index, row in enumerate(metrics()):
        for name in row.keys() - {"stage"}:
            assert f"metrics.jsonl#/{index}/{name}" in sources


def test_numbers_stand_beside_their_own_errors(run):
    page = Page(write_html_report(run))
    pairs = [pair for pair in page.errors if len(pair) == 2]
    assert len(pairs) > 10
    for value, error in pairs:
        expected = {
            value.replace("/value", "/stderr"),
            value.replace("/fitted/", "/stderr/"),
            f"{value}_stderr",
        }
        assert error in expected - {value}


@pytest.mark.parametrize("value", [123456789.0, -3.25e-9, 0.0, 99.99996, -1e-12, 7e22])
def test_numbers_of_any_size_are_shown_to_their_last_digit(run, value):
    changed = evaluation() | {"nll": {"value": value, "stderr": abs(value) / 1000}}
    write_run(run, evaluation=changed)
    assert_numbers_are_the_files(run, Page(write_html_report(run)))


def test_of_many_evaluations_the_last_is_shown(run):
    rows = [dict(metrics()[-1], iteration=i) for i in range(997)]
    page = Page(write_html_report(write_run(run, metrics=rows)))
    shown = [float(v) for source, v, _ in page.numbers if source.endswith("/iteration")]
    assert shown[-1] == 996
    assert 20 < len(shown) < 60


def test_the_page_needs_nothing_but_itself(run):
    page = Page(write_html_report(run))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == len(PLOTS)
    assert all(len(image["alt"]) > 20 for image in images)
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "url(" not in page.source
    assert "@import" not in page.source
    assert not any(tag == "script" for tag, _ in page.tags)


# The answer, and what it rests on.


def judged(run, **changes):
    """The report of a run whose evaluation has these entries."""
    changed = evaluation()
    for path, value in changes.items():
        *groups, name = path.split("__")
        part = changed
        for group in groups:
            part = part[group]
        part[name] = value
    return write_html_report(write_run(run, evaluation=changed))


def test_a_good_run_is_trusted(run):
    report = write_html_report(run)
    assert (report.state, report.trust, report.warnings) == ("finished", "yes", [])


@pytest.mark.parametrize(
    ("changes", "trust", "sentence"),
    [
        (
            {"log_partition__khat": 0.93},
            "no",
            r"heavy-tailed, k̂ = 0.93 .* log Z, .* Train the flow",
        ),
        ({"log_partition__khat": None}, "with care", "could not be judged"),
        ({"log_partition__ess": 31.4}, "no", "Only 31 of 20,000 draws"),
        ({"log_partition__stderr": 0.3}, "with care", r"known only to ± 0.3000 nats"),
        ({"log_partition__stderr": None}, "with care", "error of log Z is not known"),
        ({"log_partition__value": None}, "no", "log Z is not finite"),
        ({"nll__value": None}, "no", "held-out NLL is not finite"),
        ({"nll__value": True}, "no", "held-out NLL is not finite"),
        ({"kl__value": -0.5}, "no", "cannot be: log Z is too small"),
        ({"mode_weights__khat": 1.2}, "no", "k̂ = 1.20 .* the mode weights is not to be trusted"),
        (
            {
                "mode_weights__fitted": [0.6, 0.25, 0.15, 0.0],
                "mode_weights__total_variation": 0.1,
            },
            "with care",
            "wrong mass in modes 1, 4 .* 0.1000",
        ),
        ({"warnings": ["Stage 'balanced' diverged."]}, "with care", "Stage 'balanced' diverged."),
    ],
)
def test_what_is_wrong_is_said_in_plain_words(run, changes, trust, sentence):
    report = judged(run, **changes)
    assert report.trust == trust
    assert len(report.warnings) == 1
    assert re.search(sentence, report.warnings[0])
    # Options that a sentence names are elements of their own.
    assert re.sub(r"\s+", " ", report.warnings[0]) in re.sub(r"\s+", " ", Page(report).text)


def test_the_limits_are_where_they_are_said_to_be(run):
    assert judged(run, log_partition__khat=0.7).trust == "yes"
    assert judged(run, log_partition__khat=0.7000001).trust == "no"
    assert judged(run, log_partition__ess=100.0).trust == "yes"
    assert judged(run, log_partition__stderr=0.1).trust == "yes"


def test_one_cause_is_told_once(run):
    said = "The estimate of log Z and its standard error are not to be believed (k̂); do more."
    other = "The estimate of log Z from the truth's draws and its error are not to be believed."
    report = judged(
        run,
        log_partition__khat=0.9,
        log_partition__ess=3.0,
        log_partition__stderr=0.9,
        warnings=[said, said, other],
    )
    assert len(report.warnings) == 2
    assert report.warnings[1] == other


@pytest.mark.parametrize(
    ("last", "sentence"),
    [
        ({"ess": 0.04}, "Only 4.0% of the flow's proposals"),
        ({"global_acceptance": 0.01}, "Only 1.0% of the global moves"),
    ],
)
def test_chains_that_do_not_move_are_told_of(run, last, sentence):
    rows = metrics()
    rows[-1] |= last
    report = write_html_report(write_run(run, metrics=rows))
    assert report.trust == "with care"
    assert sentence in report.warnings[0]
    # A baseline without a flow has no such moves.
    without = config()
    without["options"] |= {"global_kernel": "none", "full_ess": 0.0}
    assert write_html_report(write_run(run, metrics=rows, config=without)).warnings == []


def test_a_model_worse_than_its_flow_is_told_of(run):
    rows = metrics()
    for row in rows:
        row["nll"] += 2 * (row["stage"] == "balanced")
    report = write_html_report(write_run(run, metrics=rows))
    assert report.trust == "with care"
    assert "Stage 'flow' alone describes the validation data better" in report.warnings[0]


def test_a_run_that_ended_while_it_got_better_is_told_so(run):
    rows = metrics()
    for row in rows:
        row["nll"] = 3 - row["iteration"] / 200
    report = write_html_report(write_run(run, metrics=rows))
    assert "still falling" in report.warnings[0]
    assert report.trust == "yes"


def test_an_exact_log_partition_has_no_weights_to_judge(run):
    exact = {"value": -1.25, "stderr": 0.0, "ess": None, "khat": None, "n": 0}
    changed = {
        name: value
        for name, value in (evaluation() | {"log_partition": exact}).items()
        if name not in ("pool_ess", "global_acceptance", "local_acceptance", "mode_weights", "kl")
    }
    rows = [{"stage": "score matching", "iteration": i, "nll": 2.0} for i in (0, 50)]
    report = write_html_report(write_run(run, evaluation=changed, metrics=rows))
    page = Page(report)
    assert (report.trust, report.warnings) == ("yes", [])
    assert "-1.2500 (exact)" in page.text
    assert "Accepted moves" not in page.text
    assert "k̂ of log Z" not in page.text


# Runs that have not ended.


def test_a_run_is_reported_while_it_trains_and_after_it_was_stopped(run):
    for name in ("evaluation.json", "model.json"):
        (run / name).unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "balanced", "iteration": 22')
    directory = RunDirectory(run)
    directory.begin({}, resume=True)
    training = write_html_report(run)
    page = Page(training)
    directory.release()
    stopped = write_html_report(run, defaults={"balanced": {"seed": 1, "method": "balanced"}})
    assert (training.state, training.trust) == ("training", "not yet")
    assert (stopped.state, stopped.trust) == ("stopped", "not yet")
    assert_numbers_are_the_files(run, page)
    assert f"metrics.jsonl#/{len(metrics()) - 1}/nll" in {source for source, *_ in page.numbers}
    assert "still going" in page.text
    assert page.text.count("--resume") == 0
    again = r"flowebm train --data cells.csv --out \S+/run .*--seed 0.* --resume"
    assert re.search(again, Page(stopped).text)
    # Its course alone: plots of an earlier end would not be this one's.
    assert sum(tag == "img" for tag, _ in page.tags) == 1
    assert training.warnings == []


@pytest.mark.parametrize("rows", [None, []])
def test_a_run_without_any_evaluation_is_reported(tmp_path, rows):
    path = write_run(tmp_path / "run", metrics=rows, evaluation=None, model=None)
    assert "no evaluation yet" in Page(write_html_report(path)).text


# Files that are not what they should be.


def hostile(value):
    """The same, with every text an attack."""
    if isinstance(value, dict):
        return {name: hostile(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [hostile(entry) for entry in value]
    return f"{HOSTILE}{value}" if isinstance(value, str) else value


def hostile_run(run):
    settings, results = hostile(config()), hostile(evaluation())
    settings["options"][HOSTILE] = [HOSTILE, 1]
    settings["versions"][HOSTILE] = HOSTILE
    results["warnings"] = [HOSTILE, "\ud800 is no letter"]
    model = {"shape": [2], "columns": [HOSTILE, "</style></title>"]}
    return write_run(
        run, config=settings, evaluation=results, metrics=hostile(metrics()), model=model
    )


def test_texts_of_files_are_shown_and_not_run(run):
    report = write_html_report(hostile_run(run))
    page = Page(report)
    assert page.text.count(HOSTILE) > 10
    assert not any(tag == "script" for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert sum(tag == "img" for tag, _ in page.tags) == len(PLOTS)
    policy = [attrs["content"] for tag, attrs in page.tags if "http-equiv" in attrs]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def leaves(value, path=()):
    """The paths to all entries of a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in items:
        yield (*path, key)
        if isinstance(entry, dict | list):
            yield from leaves(entry, (*path, key))


@pytest.mark.parametrize("name", ["config", "evaluation", "metrics", "model"])
def test_entries_of_any_kind_are_borne(run, name):
    original = {
        "config": config(),
        "evaluation": evaluation()
        | {
            "mode_weights": {
                "true": [0.5],
                "fitted": [0.7],
                "stderr": [0.01],
                "total_variation": 0.1,
            }
        },
        "metrics": metrics()[:1] + metrics()[-1:],
        "model": {"shape": [2], "columns": ["a", "b"]},
    }[name]
    for path in leaves(original):
        if path == ("flowebm_run",) or (name == "metrics" and len(path) == 1):
            continue
        for strange in (None, "text", True, -1, 10**400, 1e308, float("nan"), [[]], {"a": 1}):
            changed = json.loads(json.dumps(original))
            part = changed
            for key in path[:-1]:
                part = part[key]
            part[path[-1]] = strange
            report = write_html_report(write_run(run, **{name: changed}))
            assert report.trust in ("yes", "with care", "no", "not yet")


def test_strange_metrics_are_drawn_as_far_as_they_can_be(tmp_path):
    rows = [
        *metrics(),
        {"stage": ["x"], "iteration": "many", "nll": "nan", "ess": None},
        {"stage": None, "iteration": 10**400, "nll": -1e308, "log_partition": True},
        {"stage": "$\\frac{$\ud800\x00", "nll": 1, "nll_stderr": 1e300},
        {"stage": "balanced" * 99, "nll": 1e8, "nll_stderr": -1},
        {},
    ]
    path = write_run(tmp_path / "run", metrics=rows, evaluation=None)
    assert "data:image/png" in Page(write_html_report(path)).source


@pytest.mark.parametrize("name", ["evaluation.json", "model.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[" * 99_999 + b"\n{}\n", b"7\n7\n"])
def test_unreadable_files_are_named(run, name, content):
    (run / name).write_bytes(content)
    report = write_html_report(run)
    if content or name != "metrics.jsonl":
        wrong = [sentence for sentence in report.warnings if name in sentence]
        assert len(wrong) == (1 if name != "metrics.jsonl" or content != b"\xff\xfe\x00" else 0)


def test_plots_that_cannot_be_shown_are_left_out(run, png):
    (run / "plots" / "density.png").write_bytes(png[:-9])
    (run / "plots" / "marginals.png").write_bytes(b"<svg onload='window.hacked=1'/>")
    (run / "plots" / "mode_weights.png").write_bytes(png[:-12] + bytes(3_000_000) + png[-12:])
    report = write_html_report(run)
    page = Page(report)
    assert sum(tag == "img" for tag, _ in page.tags) == 1
    for name in ("density", "marginals", "mode_weights"):
        assert f"plots/{name}.png" in page.text
    assert report.path.stat().st_size < 3_000_000


# The file.


def test_a_report_replaces_a_report_and_nothing_else(run, tmp_path):
    first = write_html_report(run).path
    assert first == run / "report.html"
    assert write_html_report(run).path == first
    file = tmp_path / "data.csv"
    file.write_text("mine")
    for path, sentence in (
        (file, "is no report"),
        (tmp_path, "is a directory"),
        (tmp_path / "none" / "r.html", "no folder"),
    ):
        with pytest.raises(ValueError, match=sentence):
            write_html_report(run, path)
    assert file.read_text() == "mine"


def test_a_disk_that_is_full_leaves_the_last_report(run, monkeypatch):
    before = write_html_report(run).path.read_bytes()
    entries = sorted(run.iterdir())

    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space is left"):
        write_html_report(run)
    assert (run / "report.html").read_bytes() == before
    assert sorted(run.iterdir()) == entries


def test_nothing_is_written_through_a_link(run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (run / "report.html").symlink_to(elsewhere)
    with pytest.raises(ValueError, match="is no report"):
        write_html_report(run)
    elsewhere.unlink()
    path = write_html_report(run).path
    assert not path.is_symlink()
    assert not elsewhere.exists()


def test_images_are_shown_as_pages_with_their_bits(run, png):
    for name in ("data_images", "sample_images"):
        (run / "plots" / f"{name}.png").write_bytes(png)
    bits = {"value": 2.9374, "stderr": 0.0263, "lower": 2.8, "upper": 3.0}
    write_run(
        run,
        evaluation=evaluation() | {"bits_per_dimension": bits},
        model={"shape": [1, 8, 8], "columns": [f"pixel {i}" for i in range(64)]},
    )
    page = Page(write_html_report(run))
    assert "2.9374 ± 0.0263" in page.text
    assert "1 × 8 × 8" in page.text
    assert "pixel 63" not in page.text
    alts = [attrs["alt"] for tag, attrs in page.tags if tag == "img"]
    assert sum("page of images" in alt for alt in alts) == 2


def test_the_answers_differ_by_sign_and_word_not_by_colour_alone(run):
    answers = set()
    for khat in (0.1, 0.9, None):
        text = Page(judged(run, log_partition__khat=khat)).text
        answers.add(re.search(r"to be trusted\?(.)(Yes|No|With care)", text).groups())
    assert answers == {("✓", "Yes"), ("✕", "No"), ("!", "With care")}

"""The command line with an energy-based flow, from whole-number pixels to bits per dimension."""

import json

import numpy as np
import pandas as pd
import pytest

from flowebm.cli import main
from flowebm.training.metrics import read_metrics

LEVELS = 8
TINY = [
    *("--method", "ebflow", "--architecture", "fc", "--objective", "ml"),
    *("--learning-rate", "0.02", "--average-decay", "0.9"),
    *("--max-steps", "100", "--batch-size", "64"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Bright left halves and dark right ones, in whole numbers."""
    means = np.where(np.arange(4) < 2, 0.8, 0.2)
    pixels = np.random.default_rng(0).binomial(LEVELS - 1, means, (300, 4, 4)).astype(np.uint8)
    path = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(path, pixels)
    return path


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """A run directory whose run came to its end undisturbed."""
    path = tmp_path_factory.mktemp("runs") / "finished"
    assert train(images, path) == 0
    return path


def train(images, path, *options):
    arguments = ["train", "--data", images, "--out", path, "--pixel-levels", LEVELS, *TINY]
    return main([str(argument) for argument in (*arguments, *options)])


def test_a_run_leaves_a_model_with_an_exact_likelihood(finished):
    evaluation = json.loads((finished / "evaluation.json").read_text())
    assert evaluation["log_partition"]["stderr"] == 0
    bits = evaluation["bits_per_dimension"]["value"]
    assert bits == pytest.approx(evaluation["nll"]["value"] / (16 * np.log(2)))
    nll = [row["nll"] for row in read_metrics(finished / "metrics.jsonl")]
    assert nll[-1] < nll[0]
    assert {path.stem for path in (finished / "plots").iterdir()} == {
        "training",
        "data_images",
        "sample_images",
    }


def test_samples_are_whole_pixels_or_a_page_of_images(finished, tmp_path):
    for name in ("draws.npy", "page.png"):
        assert main(["sample", str(finished), "-n", "50", "-o", str(tmp_path / name)]) == 0
    draws = np.load(tmp_path / "draws.npy")
    assert draws.shape == (50, 1, 4, 4)
    assert set(np.unique(draws)) <= set(range(LEVELS))
    assert draws[..., :2].mean() > draws[..., 2:].mean() + 1
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_scores_of_images_come_with_bits_per_dimension(finished, images, tmp_path, capsys):
    assert main(["score", str(finished), str(images), "-o", str(tmp_path / "scores.csv")]) == 0
    assert capsys.readouterr().out == ""
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert len(scores) == 300
    np.testing.assert_allclose(
        scores["bits_per_dimension"], -scores["log_density"] / (16 * np.log(2))
    )


def test_evaluate_gives_the_runs_own_figures(finished, images, capsys):
    assert main(["evaluate", str(finished), str(images), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    recorded = json.loads((finished / "evaluation.json").read_text())
    assert again["nll"]["value"] == pytest.approx(recorded["nll"]["value"], rel=1e-5)


def test_masked_images_are_imputed(finished, images, tmp_path):
    output = tmp_path / "filled.npy"
    arguments = ["--mask", "right", "--draws", "2", "--steps", "20", "-o", str(output)]
    assert main(["impute", str(finished), str(images), *arguments]) == 0
    pixels, filled = np.load(images), np.load(output)
    assert filled.shape == (2, 300, 1, 4, 4)
    np.testing.assert_array_equal(filled[0, :, 0, :, :2], pixels[..., :2])
    assert set(np.unique(filled)) <= set(range(LEVELS))


def test_a_resumed_run_ends_like_the_uninterrupted_one(finished, images, tmp_path, monkeypatch):
    """Stopped after the first checkpoint, then resumed: the same arrays, bit for bit."""
    from flowebm.training.checkpoints import Checkpoints

    save = Checkpoints.save

    def save_and_stop(self, stage, state, history, **options):
        save(self, stage, state, history, **options)
        raise KeyboardInterrupt

    path = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_stop)
        assert train(images, path) == 130
    assert train(images, path, "--resume") == 0
    arrays = [(p / "model.safetensors").read_bytes() for p in (path, finished)]
    assert arrays[0] == arrays[1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--pixel-levels", "4"], "Pixels of 4 levels lie from 0 to 3"),
        (["--pixel-levels", "1"], "--pixel-levels must be 2 or more"),
        (["--sigma", "0"], "--sigma must be above 0"),
        (["--architecture", "coupling"], "is for points of two columns or more"),
        (["--data-dir", "."], "--data-dir and --download are for sets of images"),
        (["--data", "mnist"], "mnist comes from files: name the folder"),
    ],
)
def test_bad_choices_are_refused_with_a_sentence(images, tmp_path, capsys, options, sentence):
    path = tmp_path / "run"
    arguments = ["train", "--data", str(images), "--out", str(path), *TINY, *options]
    if "--pixel-levels" not in options:
        arguments += ["--pixel-levels", str(LEVELS)]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.startswith("flowebm: ")
    assert err.count("\n") == 1
    assert not path.exists()

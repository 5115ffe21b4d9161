"""`flowebm impute`: what is there stays as it is, what is missing comes from the model."""

import json
import re
from math import prod

import jax
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

import flowebm.cli.impute
from flowebm.cli import main
from flowebm.cli.masks import masked
from flowebm.cli.rows import write_draws
from flowebm.data import LogitPixels, Standardise
from flowebm.models import Architecture, SavedModel, save_model
from flowebm.models.architecture import build
from flowebm.models.ebflow_architecture import EBFlowArchitecture, build_ebflow
from flowebm.refusal import Refused
from flowebm.report.plots.images import NOT_A_NUMBER


def save_run(path, model, proposal, preprocessing, architecture, *, dequantise=False):
    """A run directory as far as commands on a fitted model read it."""
    save_model(path, SavedModel(model, proposal, preprocessing, 0.0, 0.0, architecture))
    config = {
        "flowebm_run": 1,
        "data": {"sha256": "ab", "columns": prod(preprocessing.shape)},
        "options": {"seed": 0, "dequantise": dequantise, "test_fraction": 0.1},
        "versions": {"flowebm": flowebm.__version__},
    }
    (path / "config.json").write_text(json.dumps(config))
    return path


SCALE = Standardise(np.array([1e6, 0.0, -5.0]), np.array([10.0, 1.0, 0.01]))


@pytest.fixture(scope="module")
def table_run(tmp_path_factory):
    """An untrained flow of three columns: independent normals, one far from 0 and narrow."""
    architecture = EBFlowArchitecture("fc", n_blocks=1)
    model = build_ebflow(architecture, (3,), key=jax.random.key(0))
    path = tmp_path_factory.mktemp("runs") / "table"
    return save_run(path, model, model, SCALE, architecture)


@pytest.fixture(scope="module")
def tilted_run(tmp_path_factory):
    """The same columns under an untrained tilted base, which is sampled by its proposal."""
    architecture = Architecture(
        width=4, depth=1, flow="affine-coupling", flow_layers=1, flow_width=4, flow_depth=1
    )
    built = build(architecture, (3,), key=jax.random.key(0))
    path = tmp_path_factory.mktemp("runs") / "tilted"
    return save_run(path, built.model, built.proposal, SCALE, architecture)


@pytest.fixture(scope="module")
def image_run(tmp_path_factory):
    """A model of 4x6 pixels of 16 levels, untrained."""
    architecture = EBFlowArchitecture("fc")
    model = build_ebflow(architecture, (1, 4, 6), key=jax.random.key(0))
    path = tmp_path_factory.mktemp("runs") / "images"
    return save_run(path, model, model, LogitPixels((1, 4, 6), levels=16), architecture)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Five images of whole numbers, in a file."""
    path = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 16, (5, 4, 6), dtype=np.uint8))
    return path


def impute(*arguments):
    return main(["impute", *map(str, arguments)])


def refused(capsys, *arguments):
    """The one sentence with which a command is refused."""
    try:
        code = impute(*arguments)
    except SystemExit as exit:
        code = exit.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    return err


CELLS = [
    ["1000012.345678901", "0.1", "-5.0123456789012345"],
    ["", "0.30000000000000004", "-5.01"],
    ["999990.0", "", ""],
    ["", "", ""],
    ["1e6", "nan", "-4.99"],
]


# Both kinds of model are loaded and sampled; the second's programs take twice as long to compile.
@pytest.mark.parametrize("kind", ["table_run", pytest.param("tilted_run", marks=pytest.mark.slow)])
def test_gaps_of_a_table_are_filled_and_the_rest_is_as_it_was(request, kind, tmp_path, capsys):
    """Every cell that is there is the same number to its last digit, rows keep their order.

    Imputed values are normals of deviation 1 and mean 0 or 1 when standardised, none of which is
    beyond 9: false-alarm rate under 1e-13.
    """
    path, file = tmp_path / "gaps.csv", tmp_path / "full.csv"
    path.write_text("\n".join(map(",".join, [["a", "b", "c"], *CELLS])))
    run = request.getfixturevalue(kind)
    assert impute(run, path, "-o", file, "--draws", 2, "--steps", 10, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    counts = {"rows": 5, "imputed_rows": 4, "imputed_entries": 7, "draws": 2, "picture": None}
    assert counts.items() <= values.items()
    assert 0 < values["local_acceptance"] <= 1
    frame = pd.read_csv(file)
    assert list(frame.columns) == ["draw", "a", "b", "c"]
    assert frame["draw"].tolist() == [0] * 5 + [1] * 5
    draws = frame[["a", "b", "c"]].to_numpy().reshape(2, 5, 3)
    expected = np.array([[float(cell or "nan") for cell in row] for row in CELLS])
    observed = ~np.isnan(expected)
    for draw in draws:
        np.testing.assert_array_equal(draw[observed], expected[observed])
    standardised = (draws - [1e6, 0.0, -5.0]) / [10.0, 1.0, 0.01]
    assert (np.abs(standardised[:, ~observed]) < 9).all()
    assert len(np.unique(draws[:, ~observed])) == 14


def test_hidden_halves_of_images_are_filled_with_whole_numbers(image_run, images, tmp_path, capsys):
    file = tmp_path / "full.npz"
    arguments = [image_run, images, "-o", file, "--mask", "left", "--draws", 2, "--steps", 4]
    assert impute(*arguments, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["imputed_entries"] == 5 * 4 * 3
    draws, original = np.load(file)["X"], np.load(images)
    assert draws.shape == (2, 5, 1, 4, 6)
    for draw in draws[:, :, 0]:
        np.testing.assert_array_equal(draw[..., 3:], original[..., 3:])
        assert ((draw >= 0) & (draw <= 15) & (draw == np.floor(draw))).all()
    assert (draws[0, ..., :3] != draws[1, ..., :3]).any()
    # Of four images in a line, original, observed and two draws, one half is hidden.
    picture = imread(values["picture"])[..., :3]
    assert values["picture"] == str(tmp_path / "full.png")
    hidden = np.isclose(picture, NOT_A_NUMBER, atol=0.01).all(axis=-1).any(axis=0)
    where = np.flatnonzero(hidden) / len(hidden)
    assert where.min() > 0.2
    assert where.max() < 0.45


def test_options_reach_the_sampler(image_run, images, tmp_path, monkeypatch, capsys):
    reached = []

    def sampler(key, model, proposal, preprocessing, rows, **options):
        reached.append((key, rows, options))
        raise Refused("This is as far as the test goes.")

    monkeypatch.setattr(flowebm.cli.impute, "impute_rows", sampler)
    arguments = ["--mask", "top", "--seed", 7, "--draws", 3, "--steps", 9]
    refused(capsys, image_run, images, "-o", tmp_path / "full.npy", *arguments)
    ((key, rows, options),) = reached
    assert key == jax.random.key(7)
    assert np.isnan(rows).sum() == 5 * 4 * 3
    assert callable(options.pop("on_progress"))
    assert options == {"n_draws": 3, "n_steps": 9, "dequantised": False}


@pytest.mark.parametrize(
    ("mask", "hidden"),
    [
        ("left", "##.. ##.. ##.. ##.."),
        ("right", "..## ..## ..## ..##"),
        ("top", "#### #### .... ...."),
        ("bottom", ".... .... #### ####"),
        ("center", ".... .##. .##. ...."),
        ("1,2,3,1", ".... ..#. ..#. ..#."),
        ("0,0,4,4", "#### #### #### ####"),
    ],
)
def test_masks_hide_what_their_names_say(mask, hidden):
    rows = [[cell == "#" for cell in row] for row in hidden.split()]
    np.testing.assert_array_equal(masked(mask, (3, 4, 4)), [rows] * 3)


@pytest.mark.parametrize("mask", ["2,0,3,1", "0,0,0,1", "0,3,1,2", "middle", "1,2,3", "-1,0,1,1"])
def test_masks_that_are_none_of_the_image_are_refused(mask):
    with pytest.raises(Refused, match=re.escape(f"--mask {mask}") + "|TOP,LEFT,HEIGHT,WIDTH"):
        masked(mask, (3, 4, 4))


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy", ".npz"])
@pytest.mark.parametrize("number", [1, 2])
def test_draws_are_told_apart_in_every_kind_of_file(tmp_path, suffix, number):
    file = tmp_path / f"draws{suffix}"
    draws = np.random.default_rng(0).normal(size=(number, 4, 2))
    write_draws(file, draws, ["a", "b"], (2,))
    if suffix in (".npy", ".npz"):
        loaded = np.load(file)
        array = loaded if suffix == ".npy" else loaded["X"]
        np.testing.assert_array_equal(array, draws if number > 1 else draws[0])
        return
    frame = {".csv": pd.read_csv, ".parquet": pd.read_parquet}[suffix](file)
    assert list(frame.columns) == (["draw", "a", "b"] if number > 1 else ["a", "b"])
    for index, part in frame.groupby("draw") if number > 1 else [(0, frame)]:
        np.testing.assert_allclose(part[["a", "b"]], draws[index], rtol=1e-15)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a,b,c\n1,2,3\n4,5,6\n", "No entry is missing in .*data.csv: leave the entries"),
        ("a,b,c\n1,,3\n4,inf,6\n", "Row 2 of column 'b' in .*data.csv is inf"),
        ("a,b\n1,\n4,5\n", "Expected 3 columns in .*data.csv, got 2"),
        ("a,b,c\n1,,three\n", "Row 1 of column 'c' .* 'three', not a number"),
        ("draw,b,c\n1,,3\n", "column 'draw' of its own"),
    ],
)
def test_tables_that_cannot_be_imputed_are_refused(table_run, tmp_path, capsys, content, sentence):
    path = tmp_path / "data.csv"
    path.write_text(content)
    message = refused(capsys, table_run, path, "-o", tmp_path / "out.csv", "--draws", 2)
    assert message.count("\n") == 1
    assert re.search(sentence, message)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--draws", "0"], "--draws must be 1 or more; got 0"),
        (["--steps", "1"], "--steps must be 2 or more; got 1"),
        (["--seed", "-1"], "--seed must be from 0 to 2147483647; got -1"),
        (["--mask", "left"], "--mask left hides a part of images, and this run is of tables"),
        (["--mask", "outside"], "--mask"),
    ],
)
def test_options_that_make_no_sense_are_refused(table_run, tmp_path, capsys, options, sentence):
    path = tmp_path / "data.csv"
    path.write_text("a,b,c\n1,,3\n")
    assert sentence in refused(capsys, table_run, path, "-o", tmp_path / "out.csv", *options)


def test_images_that_cannot_be_imputed_are_refused(image_run, images, tmp_path, capsys):
    out = tmp_path / "out.npz"
    assert "or give --mask" in refused(capsys, image_run, images, "-o", out)
    bright = tmp_path / "bright.npy"
    np.save(bright, np.full((2, 4, 6), 17))
    message = refused(capsys, image_run, bright, "-o", out, "--mask", "top")
    assert "The value 17 in row 1 is outside the range" in message
    assert "Expected 24 columns" in refused(capsys, image_run, "digits", "-o", out, "--mask", "top")
    assert not out.exists()


@pytest.mark.parametrize("suffix", [".npz", ".png"])
def test_files_are_not_overwritten_unless_asked(image_run, images, tmp_path, capsys, suffix):
    mine = tmp_path / f"out{suffix}"
    mine.write_text("mine")
    arguments = [image_run, images, "-o", tmp_path / "out.npz", "--mask", "left"]
    assert f"{mine} exists" in refused(capsys, *arguments)
    assert mine.read_text() == "mine"


def test_what_is_no_finished_run_is_refused(tmp_path, capsys):
    message = refused(capsys, tmp_path / "none", "mixture", "-o", tmp_path / "out.csv")
    assert "There is no directory" in message


def test_help_comes_with_status_zero(capsys):
    with pytest.raises(SystemExit) as exit:
        impute("--help")
    assert exit.value.code == 0
    assert "--mask" in capsys.readouterr().out

"""A run gets the plots that apply to it, as whole files, and nothing global changes."""

import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from flowebm.report.plots import mode_weight_bars, save_figure, save_run_plots

HISTORY = [{"stage": "flow", "iteration": 0, "nll": 1.0}]


@pytest.fixture
def table():
    return np.random.default_rng(0).normal(size=(400, 3))


def gaussian(x):
    return -0.5 * (x**2).sum(axis=1) - np.log(2 * np.pi)


def names_of(paths):
    return {path.name for path in paths}


def test_a_two_column_run_gets_its_density_and_leaves_matplotlib_as_it_was(tmp_path, table):
    # Reading the backend would itself choose one.
    before = {key: mpl.rcParams[key] for key in mpl.rcParams if key != "backend"}
    paths = save_run_plots(
        tmp_path,
        data=table[:, :2],
        samples=table[:50, :2],
        history=HISTORY,
        names=["a", "b"],
        log_prob=gaussian,
        true_weights=[0.5, 0.5],
        fitted_weights=[0.4, 0.6],
        fitted_weights_stderr=[0.01, 0.01],
    )
    assert names_of(paths) == {"training.png", "marginals.png", "density.png", "mode_weights.png"}
    assert set(paths) == set((tmp_path / "plots").iterdir())
    for path in paths:
        pixels = imread(path)
        assert pixels.shape[1] >= 640
        assert pixels[..., :3].std() > 0.01
    assert {key: mpl.rcParams[key] for key in before} == before


def test_only_plots_that_apply_are_written(tmp_path, table):
    paths = save_run_plots(
        tmp_path,
        data=table,
        samples=table,
        history=[],
        names=list("abc"),
        log_prob=gaussian,
        shape=(3,),
        true_weights=[1.0],
    )
    assert names_of(paths) == {"marginals.png"}


def test_images_get_pages_whether_flattened_or_not(tmp_path, table):
    flat = np.abs(table[:16]).repeat(3, axis=1)
    for samples in (flat, flat.reshape(-1, 3, 3)):
        paths = save_run_plots(
            tmp_path, data=flat, samples=samples, history=[], names=[], shape=(3, 3)
        )
        assert names_of(paths) == {"data_images.png", "sample_images.png"}
    # The same images on the same grey scale differ by their titles only.
    data, samples = (imread(tmp_path / "plots" / f"{n}_images.png") for n in ("data", "sample"))
    np.testing.assert_array_equal(data[200:], samples[200:])


def test_constant_images_are_written(tmp_path):
    blank = np.zeros((2, 3, 3))
    save_run_plots(tmp_path, data=blank, samples=blank, history=[], names=[], shape=(3, 3))


def test_a_figure_that_fails_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "weights.png"
    figure = mode_weight_bars([0.5, 0.5], [0.4, 0.6])
    save_figure(figure, path, dpi=50)
    before = path.read_bytes()
    figure.axes[0].set_title("$\\nonsense$")
    with pytest.raises(ValueError, match="nonsense"):
        save_figure(figure, path, dpi=50)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_the_same_figure_gives_the_same_bytes(tmp_path, suffix):
    figure = mode_weight_bars([0.5, 0.5], [0.4, 0.6])
    first, second = (
        save_figure(figure, tmp_path / "new" / f"{k}.{suffix}", dpi=50).read_bytes() for k in "ab"
    )
    assert first == second
    # Two files of one second would agree in spite of a date.
    assert b"CreationDate" not in first
    assert b"Software" not in first


def test_matplotlib_is_imported_only_to_draw_and_pyplot_never(tmp_path):
    program = f"""
import sys
from flowebm.report import plots
print("matplotlib" in sys.modules)
plots.save_figure(plots.mode_weight_bars([1.0], [1.0]), {str(tmp_path / "a.png")!r})
print("matplotlib.pyplot" in sys.modules)
"""
    seen = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert seen.stdout.split() == ["False", "False"]

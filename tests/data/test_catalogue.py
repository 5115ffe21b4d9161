"""Every name loads to finite points in double precision, and no other name does."""

import subprocess
import sys

import numpy as np
import pytest

from flowebm.data import available, load_dataset

SHAPES = {
    "mixture": (50, 2),
    "rings": (50, 2),
    "moons": (50, 2),
    "sine": (50, 2),
    "swirl": (50, 2),
    "checkerboard": (50, 2),
    "funnel": (50, 2),
    "multimodal10": (50, 10),
    "digits": (1797, 64),
    "iris": (150, 4),
    "wine": (178, 13),
    "breast-cancer": (569, 30),
    "diabetes": (442, 10),
}


def test_available_lists_every_name_with_a_line():
    assert available().keys() == SHAPES.keys()
    assert all(available().values())


@pytest.mark.parametrize("name", SHAPES)
def test_a_name_loads_the_same_finite_points_every_time(name):
    dataset = load_dataset(name, n=50)
    assert dataset.values.shape == SHAPES[name]
    assert dataset.values.dtype == np.float64
    assert np.isfinite(dataset.values).all()
    assert (dataset.values.std(axis=0) > 0).all()
    assert len(dataset.names) == SHAPES[name][1]
    np.testing.assert_array_equal(load_dataset(name, n=50).values, dataset.values)


def test_seeds_give_other_draws():
    assert not np.array_equal(
        load_dataset("mixture", n=50).values, load_dataset("mixture", n=50, seed=1).values
    )


def test_synthetic_sets_carry_their_density():
    dataset = load_dataset("mixture", dim=5, n=50)
    assert dataset.values.shape == (50, 5)
    assert dataset.target is not None
    assert dataset.target.shape == (5,)
    assert load_dataset("iris").target is None


def test_labels_are_one_class_a_row():
    assert np.unique(load_dataset("digits").labels).tolist() == list(range(10))
    assert load_dataset("diabetes").labels is None


def test_digits_are_dequantised_pixels():
    values = load_dataset("digits").values
    assert np.floor(values).min() == 0
    assert np.floor(values).max() == 16


def test_a_name_may_be_written_as_in_scikit_learn():
    assert load_dataset("breast_cancer").name == "breast-cancer"


def test_a_path_loads_its_table(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_text("cd3,cd4\n1,2\n3,4.5\n")
    dataset = load_dataset(path)
    np.testing.assert_array_equal(dataset.values, [[1, 2], [3, 4.5]])
    assert dataset.names == ("cd3", "cd4")
    assert dataset.target is None


def test_a_path_with_missing_values_is_refused(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_text("cd3,cd4\n1,2\n3,\n")
    with pytest.raises(ValueError, match="Row 2 of column 'cd4'"):
        load_dataset(path)


def test_an_unknown_name_is_refused_with_its_neighbours_and_the_list():
    with pytest.raises(ValueError, match=r"did you mean mixture\?.*checkerboard") as error:
        load_dataset("mixtrue")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rings", {"dim": 3}, "dim=3 was given"),
        ("mixture", {"dim": 1}, "dim of at least 2"),
        ("mixture", {"n": 0}, "at least 1 point"),
        ("absent.csv", {}, "There is no file absent.csv"),
    ],
)
def test_what_cannot_be_loaded_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(name, **options)


def test_importing_the_room_does_not_import_what_only_some_tables_need():
    code = "import sys, flowebm.data; sys.exit(bool({'pandas', 'sklearn'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

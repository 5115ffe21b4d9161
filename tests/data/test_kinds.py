"""Kinds of columns: as they are declared, found, and refused."""

from math import inf, pi

import numpy as np
import pytest

from flowebm.data.kinds import (
    Kind,
    check_kind,
    find_atoms,
    find_column,
    find_kind,
    kinds_of,
    parse_kind,
    refuse_categories,
)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("real", Kind("real")),
        ((None, None), Kind("real")),
        ((0, 1), Kind("bounded", 0, 1)),
        ((0, None), Kind("bounded", 0)),
        ("0:1", Kind("bounded", 0, 1)),
        (":2.5", Kind("bounded", -inf, 2.5)),
        ("-1:", Kind("bounded", -1)),
        ("whole", Kind("whole")),
        (("whole", 0, None), Kind("whole", 0)),
        ("whole:0:100", Kind("whole", 0, 100)),
        ("circular", Kind("circular", period=2 * pi)),
        (("circular", 360), Kind("circular", period=360)),
        ("circular:360", Kind("circular", period=360)),
        (("arcsinh", 5), Kind("arcsinh", cofactor=5)),
        ("arcsinh:150", Kind("arcsinh", cofactor=150)),
        ("levels", Kind("levels")),
    ],
)
def test_a_kind_is_written_in_python_as_on_the_command_line(given, kind):
    assert parse_kind(given) == kind


@pytest.mark.parametrize(
    "given",
    [
        *("angle", "", ":1:2", "real:0:1", "whole:a:b", 3, None, (0,), (1, 0), (float("nan"), 1)),
        *(
            ("circular", 0),
            ("circular", -1),
            ("circular", 1, 2),
            ("whole", 5, 5),
            ("bounded", 0, 1),
        ),
    ],
)
def test_what_is_no_kind_is_refused(given):
    with pytest.raises(ValueError, match=r"no kind|ends of|period"):
        parse_kind(given)


def test_a_column_that_does_not_exist_is_refused_with_the_names_that_are_near():
    names = ("CD4", "CD8", "FSC-A")
    assert find_column("CD8", names) == 1
    assert find_column(2, names) == 2
    with pytest.raises(ValueError, match=r"no column 'cd4 ': did you mean 'CD4'"):
        find_column("cd4 ", names)
    for strange in ("weight", 3, -1, True):
        with pytest.raises(ValueError, match="There is no column"):
            find_column(strange, names)
    with pytest.raises(ValueError, match="'auto'"):
        kinds_of("whole", names)
    with pytest.raises(TypeError, match="dict"):
        kinds_of(["whole"], names)  # type: ignore[arg-type]


def test_values_that_a_kind_cannot_have_are_refused_with_their_row():
    x = np.array([0.5, 1.0, 1.25])
    with pytest.raises(ValueError, match=r"Row 3 of column 'p' .* 1\.25.*bounds 0 to 1 .*1 rows"):
        check_kind(x, Kind("bounded", 0, 1), "p")
    with pytest.raises(ValueError, match=r"Row 1 of column 'n' .* 0\.5, which is no whole number"):
        check_kind(x, Kind("whole"), "n")
    check_kind(np.array([0.0, np.nan, 1.0]), Kind("whole", 0, 1), "n")


def test_whole_numbers_are_found_and_numbers_of_their_own_are_not():
    rng = np.random.default_rng(0)
    assert find_kind(rng.poisson(3, 500).astype(float)).name == "whole"
    assert find_kind(rng.normal(size=500)).name == "real"
    # Time stamps, identifiers and large amounts.
    assert find_kind(rng.integers(0, 10**9, 500).astype(float)).name == "real"


def test_piled_up_values_are_found_and_rounded_ones_are_not():
    rng = np.random.default_rng(1)
    x = rng.normal(size=5000)
    assert find_atoms(x).tolist() == []
    # A column of one decimal has 200 rows with each of its frequent values.
    assert find_atoms(np.round(x, 1)).tolist() == []
    x[:60] = 0.25
    assert find_atoms(x).tolist() == [0.25]
    x[60:1500] = -3.0
    assert find_atoms(x).tolist() == [-3.0, 0.25]
    assert find_atoms(np.round(np.where(x == -3.0, x, np.abs(x)), 3)).tolist() == [-3.0, 0.25]
    # Of two columns of rounded numbers, one with a digit more in every second row.
    mixed = rng.normal(size=5000)
    assert find_atoms(np.where(rng.random(5000) < 0.8, np.round(mixed, 1), mixed)).tolist() == []
    # Piles side by side, and nothing else near.
    mixed[:2000] = rng.choice([7.0, 7.5, 8.0, 8.5], 2000, p=[0.7, 0.1, 0.1, 0.1])
    assert find_atoms(mixed).tolist() == [7.0, 7.5, 8.0, 8.5]
    # One half in a hundred rows is too few.
    y = rng.normal(size=5000)
    y[:25] = 1.5
    assert find_atoms(y).tolist() == []
    weights = np.where(y == 1.5, 3.0, 1.0)
    assert find_atoms(y, weights).tolist() == [1.5]


def test_a_column_of_categories_is_refused_with_what_to_do():
    rng = np.random.default_rng(2)
    with pytest.raises(ValueError, match=r"'kind' .* 3 distinct values.*labels or drop it"):
        refuse_categories(rng.choice([0.5, 1.5, 7.0], 300), "kind")
    refuse_categories(np.round(rng.normal(size=300), 1), "x")

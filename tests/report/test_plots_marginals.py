"""Data and samples are compared as densities, column by column and pair by pair."""

import numpy as np
import pytest

from flowebm.report.plots import data_against_samples
from flowebm.report.plots.cells import mass_levels
from flowebm.report.plots.marginals import kolmogorov_distance
from flowebm.report.plots.points import axis_name


@pytest.fixture(scope="module")
def table():
    return np.random.default_rng(0).normal(size=(2000, 40))


def histogram(patch):
    values, edges, _ = patch.get_data()
    return (values * np.diff(edges)).sum(), edges


def test_one_column_is_one_histogram_of_each(table):
    figure = data_against_samples(table[:, :1], table[:500, :1] + 1, ["distance (Å)"])
    (axes,) = figure.axes
    assert axes.get_xlabel() == "distance (Å)"
    assert axes.get_ylabel() == "density (per unit)"
    (mass, edges), (samples_mass, samples_edges) = map(histogram, axes.patches)
    np.testing.assert_array_equal(edges, samples_edges)
    # A view keeps at least all but a thousandth on either side of each.
    assert 0.998 <= mass <= 1
    assert 0.998 <= samples_mass <= 1
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["data (2,000)", "samples (500)"]


def test_the_sample_histogram_is_that_of_the_samples(table):
    figure = data_against_samples(table[:, :1], table[:, :1] + 3, ["x"])
    means = []
    for patch in figure.axes[0].patches:
        values, edges, _ = patch.get_data()
        means.append(np.average((edges[1:] + edges[:-1]) / 2, weights=values))
    # Binning moves a mean by less than a bin, which is about 0.1 wide here.
    assert means[1] - means[0] == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize(("width", "panels"), [(2, 3), (3, 6)])
def test_a_corner_has_each_marginal_and_each_pair_once(table, width, panels):
    names = [f"column {j}" for j in range(width)]
    figure = data_against_samples(table[:, :width], table[:900, :width], names)
    assert len(figure.axes) == panels
    bottom = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]
    left = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert bottom == names
    assert left == ["density", *names[1:]]
    assert not figure.get_suptitle()


def test_pairs_have_the_lower_columns_name_across(table):
    data = table[:200, :2] * [1, 100]
    samples = data[:50] + np.array([0, 7])
    figure = data_against_samples(data, samples, ["a", "b"])
    _, pair, _ = figure.axes
    assert (pair.get_xlabel(), pair.get_ylabel()) == ("a", "b")
    shown, drawn = (line.get_xydata() for line in pair.lines)
    np.testing.assert_array_equal(shown, data)
    np.testing.assert_array_equal(drawn, samples)


def test_of_many_columns_the_worst_are_shown_and_told(table):
    samples = np.random.default_rng(1).normal(size=(1000, 40))
    # Units a million times as small must not hide a column, nor large ones promote one.
    samples[:, 5] += 2
    samples[:, 31] += 1
    scale = np.where(np.arange(40) == 31, 1e-6, np.where(np.arange(40) == 7, 1e6, 1.0))
    figure = data_against_samples(
        table * scale, samples * scale, [f"x{j}" for j in range(40)], max_columns=2
    )
    labels = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]
    assert labels[0] == "x5"
    assert labels[1].startswith("x31\n")
    assert "10^{−6}" in labels[1]
    assert figure.get_suptitle() == "2 of 40 columns: those that differ most"


def test_samples_that_are_not_finite_are_left_out_and_counted(table):
    samples = table[:400, :2].copy()
    samples[3] = np.nan
    figure = data_against_samples(table[:, :2], samples, ["a", "b"])
    assert figure.get_suptitle() == "samples not finite, left out: 1"
    assert "samples (399)" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("n_samples", [1, 400])
def test_constant_columns_and_single_samples_are_drawn(table, n_samples):
    data = np.column_stack([np.full(2000, 3.0), table[:, 0]])
    figure = data_against_samples(data, data[:n_samples], ["constant", "b"])
    figure.draw_without_rendering()


def test_equal_data_and_samples_have_equal_regions(table):
    figure = data_against_samples(table[:, :2], table[:, :2], ["a", "b"])
    areas, lines = figure.axes[1].collections
    np.testing.assert_array_equal(areas.levels[:2], lines.levels)


def test_regions_of_highest_density_are_the_smallest_with_their_mass():
    mass = np.array([[0.4, 0.1], [0.3, 0.2]])
    assert mass_levels(mass, (0.5, 0.95)) == [(0.95, 0.1), (0.5, 0.3)]
    assert mass_levels(mass / 2, (0.4, 0.95)) == [(0.4, 0.1)]


def test_the_kolmogorov_distance_is_the_greatest_gap_of_distribution_functions():
    assert kolmogorov_distance(np.array([0.0, 1, 2, 3]), np.array([2.0, 3, 4, 5])) == 0.5
    assert kolmogorov_distance(np.ones(5), np.ones(3)) == 0


def test_long_names_are_cut_but_keep_their_unit():
    assert axis_name("energy (kJ/mol)") == "energy (kJ/mol)"
    cut = axis_name("potential energy of the whole molecule (kJ/mol)", 24)
    assert cut == "potential ener… (kJ/mol)"
    assert len(axis_name("a" * 99, 18)) == 18


def test_bad_input_is_refused(table):
    with pytest.raises(ValueError, match="40 columns and the samples 2"):
        data_against_samples(table, table[:, :2], ["x"] * 40)
    with pytest.raises(ValueError, match="1 names were given for 2 columns"):
        data_against_samples(table[:, :2], table[:, :2], ["x"])
    with pytest.raises(ValueError, match=r"samples .* hold no finite point"):
        data_against_samples(table[:, :2], np.full((3, 2), np.inf), ["x", "y"])
    with pytest.raises(ValueError, match="max_columns=0"):
        data_against_samples(table[:, :2], table[:, :2], ["x", "y"], max_columns=0)
    with pytest.raises(ValueError, match="table of points"):
        data_against_samples(np.ones((3, 2, 2)), table[:, :2], ["x", "y"])

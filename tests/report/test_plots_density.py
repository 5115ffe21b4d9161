"""Density panels show densities: per unit area, on one scale, nothing rescaled."""

import numpy as np
import pytest

from flowebm.report.plots import DensityPanel, density_comparison
from flowebm.report.plots.cells import density_on_grid, histogram_density

BOUNDS = ((-5.0, 5.0), (-2.0, 8.0))


MEAN, SD = np.array([1.0, 2.0]), np.array([0.5, 0.6])


def gaussian(x, mean=MEAN, sd=SD):
    z = (x - mean) / np.array(sd)
    return -0.5 * (z**2).sum(axis=1) - np.log(2 * np.pi * np.prod(sd))


@pytest.fixture(scope="module")
def points():
    draws = np.random.default_rng(0).normal(size=(4000, 2))
    return MEAN + SD * draws


def panels_of(figure):
    return [axes for axes in figure.axes if axes.get_title()]


def integral(axes):
    image = axes.images[0]
    low_x, high_x, low_y, high_y = image.get_extent()
    field = np.asarray(image.get_array())
    return field.sum() * (high_x - low_x) * (high_y - low_y) / field.size


def test_a_normalised_density_and_a_histogram_both_integrate_to_one(points):
    figure = density_comparison([("data", points), ("model", gaussian)], bounds=BOUNDS)
    data, model = panels_of(figure)
    assert integral(model) == pytest.approx(1, abs=1e-6)
    assert integral(data) == pytest.approx(1, abs=1e-12)


def test_mass_out_of_view_is_not_spread_over_the_view(points):
    half = ((-5.0, 1.0), BOUNDS[1])
    inside = (points[:, 0] < 1).mean()
    cells = histogram_density(points, half, bins=20)
    assert cells.mean() * 6 * 10 == pytest.approx(inside, abs=1e-12)
    field = density_on_grid(gaussian, half, 200)
    assert field.mean() * 6 * 10 == pytest.approx(0.5, abs=1e-3)


def test_a_model_twice_too_dense_is_drawn_twice_as_dense(points):
    figure = density_comparison(
        [("data", points), ("model", lambda x: gaussian(x) + np.log(2))], bounds=BOUNDS
    )
    assert integral(panels_of(figure)[1]) == pytest.approx(2, abs=1e-5)


def test_the_highest_pixel_lies_at_the_mode_in_both_kinds_of_panel(points):
    figure = density_comparison([("data", points), ("model", gaussian)], bounds=BOUNDS)
    for axes, cells in zip(panels_of(figure), (0.6, 0.051), strict=True):
        image = axes.images[0]
        field = np.asarray(image.get_array())
        row, column = np.unravel_index(field.argmax(), field.shape)
        assert image.origin == "lower"
        # Extent over array shape turns an index into a coordinate, whatever the drawing order.
        x = -5 + 10 * (column + 0.5) / field.shape[1]
        y = -2 + 10 * (row + 0.5) / field.shape[0]
        assert abs(x - 1) < cells
        assert abs(y - 2) < cells


def test_all_panels_have_the_colour_scale_of_the_highest(points):
    wide = lambda x: gaussian(x, sd=(2.0, 2.0))  # noqa: E731
    figure = density_comparison([("wide", wide), ("narrow", gaussian)], bounds=BOUNDS)
    norms = [axes.images[0].norm for axes in panels_of(figure)]
    assert norms[0] is norms[1]
    assert norms[0].vmin == 0
    assert norms[0].vmax == pytest.approx(np.exp(gaussian(MEAN[None]))[0], rel=0.01)


def test_weights_stand_at_their_modes_and_titles_and_names_are_shown(points):
    modes = np.array([[1.0, 2.0], [-3.0, 6.0], [0.0, -1.0]])
    figure = density_comparison(
        [DensityPanel("truth", points, [0.5, 0.3, 0.2]), DensityPanel("model", gaussian)],
        bounds=BOUNDS,
        modes=modes,
        names=("mass (kg)", "length (m)"),
    )
    first, second = panels_of(figure)
    assert [text.get_text() for text in first.texts] == ["0.500", "0.300", "0.200"]
    np.testing.assert_array_equal([text.xy for text in first.texts], modes)
    assert not second.texts
    assert (first.get_title(), second.get_title()) == ("truth", "model")
    assert first.get_xlabel() == second.get_xlabel() == "mass (kg)"
    assert first.get_ylabel() == "length (m)"
    assert figure.axes[-1].get_ylabel() == "density (per unit area)"


def test_panels_wrap_into_rows(points):
    figure = density_comparison([(str(k), points) for k in range(5)], columns=2)
    assert len(panels_of(figure)) == 5
    assert panels_of(figure)[0].get_subplotspec().get_gridspec().get_geometry() == (3, 2)


def test_the_bounds_follow_the_bulk_of_the_points_and_not_an_outlier(points):
    figure = density_comparison([("data", np.vstack([points, [[1e9, 0.0]]]))])
    low, high = panels_of(figure)[0].get_xlim()
    assert -4 < low < -0.2
    assert 2.2 < high < 6


def test_an_undefined_density_is_masked_and_an_impossible_point_has_none(points):
    def torn(x):
        return np.where(x[:, 0] > 0, np.nan, -np.inf)

    figure = density_comparison([("data", points), ("model", torn)], bounds=BOUNDS, grid=10)
    field = panels_of(figure)[1].images[0].get_array()
    assert field.mask[:, 5:].all()
    assert (field[:, :5] == 0).all()
    figure.draw_without_rendering()


@pytest.mark.parametrize("table", [np.ones((40, 2)), np.array([[3.0, np.nan], [1e6, 2.0]])])
def test_constant_columns_and_single_points_are_drawn(table):
    density_comparison([("data", table)]).draw_without_rendering()


def test_bad_input_is_refused(points):
    with pytest.raises(ValueError, match="at least one panel"):
        density_comparison([])
    with pytest.raises(ValueError, match="give the `bounds`"):
        density_comparison([("model", gaussian)])
    with pytest.raises(ValueError, match=r"'data' have 3 coordinates"):
        density_comparison([("data", np.ones((5, 3)))])
    with pytest.raises(ValueError, match="hold no finite point"):
        density_comparison([("data", np.full((5, 2), np.nan))])
    with pytest.raises(ValueError, match=r"'data' has weights of shape \(2,\)"):
        density_comparison([("data", points, [0.5, 0.5])])

"""Images keep their order, orientation and grey values on the page."""

import numpy as np
import pytest

from flowebm.report.plots import image_grid
from flowebm.report.plots.images import mosaic


def page(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


def test_images_lie_row_by_row_the_right_way_up():
    images = np.arange(5 * 2 * 3).reshape(5, 2, 3) / 29
    shown = page(image_grid(images, columns=2))
    assert shown.shape == (3 * 3 - 1, 2 * 4 - 1, 3)
    for index, image in enumerate(images):
        top, left = 3 * (index // 2), 4 * (index % 2)
        tile = shown[top : top + 2, left : left + 3]
        np.testing.assert_allclose(tile, np.repeat(image[..., None], 3, axis=-1))
    # The place of the sixth image and the lines between images are white.
    assert (shown[6:, 4:] == 1).all()
    assert (shown[2] == 1).all()
    assert (shown[:, 3] == 1).all()


def test_colour_channels_stay_in_place():
    images = np.random.default_rng(0).uniform(size=(3, 3, 4, 4))
    shown = page(image_grid(images, columns=3))
    np.testing.assert_array_equal(shown[:, 5:9], images[1].transpose(1, 2, 0))


def test_one_channel_is_grey():
    images = np.random.default_rng(0).uniform(size=(4, 1, 5, 5))
    np.testing.assert_array_equal(page(image_grid(images)), page(image_grid(images[:, 0])))


def test_values_are_scaled_to_their_range_and_clipped():
    image = np.array([[[-50.0, 4.0, 8.0, 20.0, 99.0, np.inf, -np.inf]]])
    expected = [0, 0, 0.25, 1, 1, 1, 0]
    np.testing.assert_array_equal(mosaic(image, None, (4, 20))[0, :, 0], expected)
    np.testing.assert_array_equal(page(image_grid(image, value_range=(4, 20)))[0, :, 0], expected)


def test_pixels_that_are_not_a_number_have_a_colour_of_their_own():
    image = np.zeros((1, 2, 2))
    image[0, 1, 0] = np.nan
    shown = page(image_grid(image))
    red, _, blue = shown[1, 0]
    assert red > blue
    assert (shown[0] == 0).all()


def test_the_page_is_square_without_columns_and_no_wider_than_its_images():
    images = np.zeros((10, 3, 3))
    assert page(image_grid(images)).shape == (11, 15, 3)
    assert page(image_grid(images[:2], columns=8)).shape == (3, 7, 3)
    assert page(image_grid(images[:1], title="one")).shape == (3, 3, 3)


def test_bad_input_is_refused():
    for shape in [(3, 3), (2, 2, 3, 3), (0, 3, 3), (1, 1, 1, 3, 3)]:
        with pytest.raises(ValueError, match="Images must have shape"):
            image_grid(np.zeros(shape))
    with pytest.raises(ValueError, match="must rise; got 1 to 1"):
        image_grid(np.zeros((1, 3, 3)), value_range=(1, 1))
    with pytest.raises(ValueError, match="at least one column"):
        image_grid(np.zeros((1, 3, 3)), columns=0)

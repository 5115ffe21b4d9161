"""Mode weights are shown as they are, with two standard errors either side."""

import numpy as np
import pytest

from flowebm.report.plots import mode_weight_bars

TRUE = np.array([0.5, 0.3, 0.2])
FITTED = np.array([0.45, 0.33, 0.22])


def test_bars_have_the_weights_heights_and_the_title_their_distance():
    axes = mode_weight_bars(TRUE, FITTED, names=["a", "b", "c"]).axes[0]
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
    np.testing.assert_array_equal(heights, [TRUE, FITTED])
    assert axes.get_title() == "total variation 0.0500"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a", "b", "c"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["true", "model"]
    assert axes.get_ylim()[0] == 0


def test_error_bars_are_two_standard_errors_either_side():
    stderr = np.array([0.01, 0.02, 0.0])
    axes = mode_weight_bars(TRUE, FITTED, stderr).axes[0]
    ends = np.array([line[:, 1] for line in axes.containers[2].lines[2][0].get_segments()])
    np.testing.assert_allclose(ends, np.stack([FITTED - 2 * stderr, FITTED + 2 * stderr], axis=1))
    assert "2 standard errors" in axes.get_legend().get_texts()[1].get_text()


@pytest.mark.parametrize("number", [1, 30])
def test_one_mode_and_many_modes_are_drawn(number):
    weights = np.full(number, 1 / number)
    mode_weight_bars(weights, weights, np.full(number, np.nan)).draw_without_rendering()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"\(3,\) and \(2,\)"):
        mode_weight_bars(TRUE, FITTED[:2])
    with pytest.raises(ValueError, match=r"Standard errors of shape \(2,\)"):
        mode_weight_bars(TRUE, FITTED, FITTED[:2])
    with pytest.raises(ValueError, match="2 names were given for 3"):
        mode_weight_bars(TRUE, FITTED, names=["a", "b"])

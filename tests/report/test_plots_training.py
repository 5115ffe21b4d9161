"""The training curves show the history's numbers, each at its iteration."""

import numpy as np
import pytest

from flowebm.report.plots import training_curves


def row(stage, iteration, nll, **more):
    return {"stage": stage, "iteration": iteration, "seconds": 1.0, "nll": nll} | more


HISTORY = [
    row("flow", 0, 3.0, nll_stderr=0.1),
    row("flow", 50, 2.5, nll_stderr=0.1),
    row("flow", 100, 2.6, nll_stderr=0.1),
    row("balanced", 0, 2.4, nll_stderr=0.02, log_partition=0.1, log_partition_stderr=0.05),
    row("balanced", 10, 2.2, nll_stderr=0.02, log_partition=0.3, ess=0.5, global_acceptance=0.4),
    row("balanced", 20, 2.1, nll_stderr=0.02, log_partition=0.2, ess=0.7, local_acceptance=0.6),
]


def curves(axes):
    return [line for line in axes.lines if line.get_label()[:6] != "_child"]


def test_stages_follow_one_another_with_their_nll_and_lowest_value():
    nll = training_curves(HISTORY).axes[0]
    flow, balanced = curves(nll)
    np.testing.assert_array_equal(flow.get_xydata(), [[0, 3.0], [50, 2.5], [100, 2.6]])
    np.testing.assert_array_equal(balanced.get_xydata(), [[100, 2.4], [110, 2.2], [120, 2.1]])
    assert flow.get_label() == "flow: lowest 2.500 ± 0.100"
    assert balanced.get_label() == "balanced: lowest 2.100 ± 0.020"
    assert flow.get_color() != balanced.get_color()
    (boundary,) = [line for line in nll.lines if line not in (flow, balanced)]
    assert list(boundary.get_xdata()) == [100, 100]


def test_the_band_is_one_standard_error_either_side():
    nll = training_curves(HISTORY).axes[0]
    corners = {tuple(np.round(vertex, 9)) for vertex in nll.collections[0].get_paths()[0].vertices}
    assert {(0, 2.9), (0, 3.1), (50, 2.4), (50, 2.6), (100, 2.5), (100, 2.7)} <= corners
    # Where a row has no error the band has no width, and the other rows keep theirs.
    log_z = training_curves(HISTORY).axes[2]
    corners = {
        tuple(np.round(vertex, 9)) for vertex in log_z.collections[0].get_paths()[0].vertices
    }
    assert corners == {(100, 0.05), (100, 0.15), (110, 0.3), (120, 0.2)}


def test_every_panel_is_labelled_with_its_unit_and_shows_its_quantities():
    nll, fractions, log_z = training_curves(HISTORY).axes
    assert [axes.get_ylabel() for axes in (nll, fractions, log_z)] == [
        "validation NLL (nats)",
        "fraction",
        "log Z (nats)",
    ]
    assert log_z.get_xlabel() == "iteration"
    shown = {line.get_label(): line.get_xydata().tolist() for line in curves(fractions)}
    assert shown == {
        "ESS / draws": [[110, 0.5], [120, 0.7]],
        "global acceptance": [[110, 0.4]],
        "local acceptance": [[120, 0.6]],
    }


def test_numbers_between_rows_without_one_are_seen():
    gaps = [None, 1.5, float("nan"), 1.4, None, float("inf")]
    history = [row("flow", i, value, ess=value) for i, value in enumerate(gaps)]
    figure = training_curves(history)
    for axes in figure.axes:
        np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[1, 1.5], [3, 1.4]])
    figure.draw_without_rendering()


@pytest.mark.parametrize(
    "history", [[{}], [row("flow", 0, 1.0)], [row("flow", 0, float("nan"))] * 3, [{"nll": None}]]
)
def test_hardly_any_history_is_drawn(history):
    figure = training_curves(history)
    assert len(figure.axes) == 1
    figure.draw_without_rendering()


def test_a_single_row_is_a_visible_dot():
    (line,) = training_curves([row("flow", 0, 1.0)]).axes[0].lines
    assert line.get_marker() == "o"


def test_a_high_start_is_cut_and_told():
    values = [900.0, *np.linspace(3, 2, 40)]
    axes = training_curves([row("flow", i, v) for i, v in enumerate(values)]).axes[0]
    low, high = axes.get_ylim()
    assert low < 2
    assert 3 <= high < 5
    assert [text.get_text() for text in axes.texts] == ["1 of 41 values above, up to 900"]


def test_an_ordinary_curve_is_not_cut():
    axes = training_curves([row("flow", i, 3 - i / 40) for i in range(41)]).axes[0]
    assert axes.get_ylim()[1] > 3
    assert not axes.texts


def test_an_empty_history_is_refused():
    with pytest.raises(ValueError, match="no rows to plot"):
        training_curves([])

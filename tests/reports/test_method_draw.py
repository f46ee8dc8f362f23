"""What a method reports of itself is drawn over epochs, whatever the method is called."""

from __future__ import annotations

import numpy as np
import pytest

from mwray.reports import method_draw

EPOCHS = np.arange(1.0, 6.0)


def shown(figure) -> dict[str, object]:
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_visible()}


def test_each_number_gets_a_panel_with_its_values_and_nothing_else_does():
    columns = {
        "epoch": EPOCHS,
        "train.loss": EPOCHS,
        "method.share_kept": np.array([1.0, 0.9, 0.8, 0.7, 0.7]),
        "method.lid": np.array([np.nan, 4.0, 3.0, 5.0, 6.0]),
        "method.lr": EPOCHS,
    }
    panels = shown(method_draw.method(columns))
    assert set(panels) == {"share kept", "lid"}
    np.testing.assert_array_equal(panels["lid"].lines[0].get_ydata(), columns["method.lid"])
    assert panels["share kept"].get_ylim() == pytest.approx((0, 1.03))
    assert panels["lid"].get_ylim()[1] > 5


def test_what_happened_is_a_line_in_every_panel_and_is_named():
    columns = {
        "epoch": EPOCHS,
        "method.lid": EPOCHS,
        "method.alpha": EPOCHS / 5,
        "method.turning_epoch": np.array([0.0, 0.0, 0.0, 4.0, 4.0]),
        "method.phase": np.array([1.0, 1.0, 2.0, 2.0, 2.0]),
    }
    assert method_draw.events(columns) == {"turning": 4.0, "phase 2 begins": 3.0}
    figure = method_draw.method(columns)
    for axes in shown(figure).values():
        assert [line.get_xdata()[0] for line in axes.lines[1:]] == [4.0, 3.0]
    assert "turning: epoch 4" in figure.get_suptitle()


def test_a_turning_point_that_has_not_come_is_no_line():
    columns = {"epoch": EPOCHS, "method.lid": EPOCHS, "method.turning_epoch": np.zeros(5)}
    assert method_draw.events(columns) == {}
    assert method_draw.method(columns).get_suptitle() == ""


def test_a_method_that_reports_nothing_has_no_picture():
    columns = {"epoch": EPOCHS, "train.loss": EPOCHS, "method.lr": EPOCHS}
    assert method_draw.reported(columns) == {}
    with pytest.raises(ValueError, match="no number of the method's own"):
        method_draw.method(columns)

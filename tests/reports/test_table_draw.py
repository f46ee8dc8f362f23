"""Tables as pictures: a point at every mean, the paper's beside ours, nothing for columns that were not run."""

from __future__ import annotations

import numpy as np
import pytest

from mwray.reports.cells import find
from mwray.reports.page import page, table_section
from mwray.reports.table_draw import ACROSS, dots
from mwray.reports.tables import tables

from .filled import fill


@pytest.fixture
def table(tmp_path):
    for seed, (base, mwnet) in enumerate([(0.70, 0.87), (0.72, 0.88)]):
        fill(tmp_path, base, row="BaseModel", seed=seed)
        fill(tmp_path, mwnet, row="MW-Net", seed=seed)
    fill(tmp_path, 0.5, row="MW-Net", dataset="CIFAR-100", bias="flip 20 %")
    (found,) = tables(find(tmp_path))
    return found


def test_points_stand_at_the_means_in_the_table_s_order(table):
    first, second = [axis for axis in dots(table).axes if axis.get_visible()]
    assert first.get_title(loc="left") == "CIFAR-10\nflip 40 %" and second.get_title(loc="left").startswith("CIFAR-100")
    points = {int(c.lines[0].get_ydata()[0]): float(c.lines[0].get_xdata()[0]) for c in first.containers}
    rows = list(table.rows)
    assert points == {rows.index("BaseModel"): pytest.approx(71.0), rows.index("MW-Net"): pytest.approx(87.5)}
    (paper,) = [line for line in first.lines if line.get_label() == "paper"]
    np.testing.assert_allclose(paper.get_xdata()[rows.index("MW-Net")], 87.54)
    low, high = first.get_ylim()
    assert low > high  # the first row is on top
    assert [label.get_text() for label in first.get_yticklabels()] == rows


def test_a_wide_table_goes_over_two_rows_of_panels(tmp_path):
    for number, bias in enumerate(["imbalance 200", "imbalance 100", "imbalance 50", "imbalance 20"]):
        for dataset in ("CIFAR-10", "CIFAR-100"):
            fill(tmp_path, 0.5 + number / 10, row="MW-Net", table="1", dataset=dataset, bias=bias)
    (found,) = tables(find(tmp_path))
    assert sum(axis.get_visible() for axis in dots(found).axes) == 8 > ACROSS


def test_the_page_shows_it_beside_the_table_and_does_without_where_nothing_was_run(table, tmp_path):
    section = table_section(table)
    text = page("T", "M", [section])
    assert text.count("data:image/png;base64,") == 1
    assert f"width: {section.pictures[0].width}px" in text and 200 < section.pictures[0].width < 1200
    fill(tmp_path / "none", None, row="MW-Net")
    (empty,) = tables(find(tmp_path / "none"))
    assert table_section(empty).pictures == ()
    with pytest.raises(ValueError, match="no cell of this table has a finished run"):
        dots(empty)

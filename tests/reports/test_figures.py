"""Figures: their data by value, their drawings as pictures that decode, the page whole and safe."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from mwray.records import Run
from mwray.reports import figure_draw, figures
from mwray.reports.arrays import LAST, WATCHED, Watched
from mwray.reports.cells import find
from mwray.reports.draw import png
from mwray.reports.page import Section, page
from mwray.reports.published import Column
from mwray.reports.report import report
from mwray.reports.tables import ReportError, tables

from .filled import fill

UNIFORM = Column("CIFAR-10", "uniform 40 %")
CELL = {"table": "2", "bias": "uniform 40 %"}


def test_fixed_weight_functions():
    losses = np.array([0.0, np.log(2), 50.0])
    np.testing.assert_allclose(figures.focal_weight(losses, 2.0), [0, 0.25, 1], atol=1e-12)
    np.testing.assert_array_equal(figures.self_paced_weight(losses, np.log(2)), [1, 0, 0])


def test_variation_between_epochs_by_hand():
    weights = np.array([[1.0, 9.0, 2.0], [3.0, 9.0, np.nan], [2.0, 9.0, 2.0]])
    kept = Watched(
        np.array([1, 2, 3]), np.array([7, 8, 9]), np.array([False, True, False]), weights, np.array([1.0, 2.0, 2.0])
    )
    found = figures.variation(kept)
    # Sample 7, relative to the mean: 1, 1.5, 1; sample 9 was never seen in two epochs running.
    assert found.index.tolist() == [7, 9]
    assert found.mean[0] == pytest.approx(0.5) and found.spread[0] == pytest.approx(0.0)
    assert np.isnan(found.mean[1])


def test_bands_over_seeds(tmp_path):
    for seed, accuracy in enumerate((0.8, 0.6)):
        fill(tmp_path, accuracy, row="MW-Net", seed=seed, **CELL)
    fill(tmp_path, None, row="MW-Net", seed=2, **CELL)
    entries = find(tmp_path)
    line = figures.band(figures.select(entries, "2", "MW-Net", UNIFORM), "test.accuracy")
    assert line.n == 2
    np.testing.assert_allclose(line.mean, [0.35, 0.7])
    np.testing.assert_allclose(line.spread, [0.05 * np.sqrt(2), 0.1 * np.sqrt(2)])
    assert figures.band(entries, "no.such.name") is None
    assert list(figures.bands(entries, "2", ["L2RW", "MW-Net"], UNIFORM, "train.loss")) == ["MW-Net"]


def test_columns_come_with_the_strongest_bias_first(tmp_path):
    for bias in ("imbalance 10", "imbalance 200", "imbalance 50"):
        fill(tmp_path, 0.5, row="MW-Net", table="1", bias=bias)
    assert [c.bias for c in figures.columns_of(find(tmp_path), "1", "MW-Net")] == [
        "imbalance 200",
        "imbalance 50",
        "imbalance 10",
    ]


def with_arrays(folder, scale=1):
    rng = np.random.default_rng(scale)
    clean = np.arange(40) % 2 > 0
    np.savez(
        folder / LAST,
        epoch=2,
        classes=np.array(["a", "b"]),
        confusion=np.array([[3, 1], [0, 4]]) * scale,
        loss=rng.exponential(1, 40),
        weight=rng.random(40),
        clean=clean,
    )
    np.savez(
        folder / WATCHED,
        epochs=np.array([1, 2, 3]),
        index=np.arange(4),
        clean=np.array([False, False, True, True]),
        weight=rng.random((3, 4)),
        mean=np.ones(3),
    )
    grid = np.linspace(0, 5, 10)[None]
    names = {"epochs": np.array([1]), "names": np.array([], str), "values": np.zeros((1, 0))}
    np.savez(
        folder / "curves.npz",
        **names,
        **{"curve.epochs": np.array([1]), "curve.loss": grid, "curve.weight": np.exp(-grid)},
    )


def test_confusion_adds_up_the_seeds(tmp_path):
    for seed in (0, 1):
        with_arrays(fill(tmp_path, 0.8, row="MW-Net", seed=seed, **CELL), scale=seed + 1)
    share, classes = figures.confusion(find(tmp_path), "2", "MW-Net", UNIFORM)
    np.testing.assert_allclose(share, [[0.75, 0.25], [0, 1]])
    assert classes == ("a", "b")
    assert figures.confusion(find(tmp_path), "2", "L2RW", UNIFORM) is None


def runs(root):
    for table, bias in (("1", "imbalance 200"), ("2", "uniform 40 %"), ("3", "flip 40 %")):
        for row in ("BaseModel", "MW-Net", "L2RW"):
            for seed in (0, 1):
                with_arrays(fill(root, 0.8 + seed / 10, row=row, seed=seed, table=table, bias=bias))
    for network in ("wrn28-10", "resnet32"):
        fill(root, 0.8, row="MW-Net", table="figure 4", bias=f"flip 40 % ({network})")


def test_a_report_has_every_table_and_figure_and_needs_nothing_from_outside(tmp_path):
    runs(tmp_path)
    index = report(tmp_path, tmp_path / "out")
    drawn = {path.stem for path in (tmp_path / "out" / "figures" / "paper").glob("*.png")}
    assert {re.match(r"figure-(\d+)", name)[1] for name in drawn} == {
        "01", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12", "13",
    }  # fmt: skip
    text = index.read_text()
    beside = sorted(path.name for path in (tmp_path / "out").glob("table-*.png"))
    assert beside == [f"table-{name}-paper.png" for name in ("1", "2", "3", "figure-4")]
    assert text.count("data:image/png;base64,") == len(drawn) + len(beside)
    assert "Commands: launch/tables.py --table 3." in text
    assert "http" not in text and "<script" not in text
    assert "Table 2: WRN-28-10 under uniform noise" in text and "prefers-color-scheme: dark" in text
    assert "test accuracy at the last epoch" in text and "paired t-test" in text
    assert "<tr><th>GLC</th>" in text and "missing" in text
    for ending in ("md", "tex", "csv"):
        assert (tmp_path / "out" / f"table-3-paper.{ending}").stat().st_size > 100
    assert "### Table 1:" in (tmp_path / "out" / "tables.md").read_text()


def test_no_run_no_report(tmp_path):
    with pytest.raises(ReportError, match="no run of a table is in this folder.*--runs FOLDER"):
        report(tmp_path, tmp_path / "out")


def test_names_are_escaped_on_the_page(tmp_path):
    fill(tmp_path, 0.5, row="<b>mine</b>")
    text = page("a & b", "", [Section("x", "t", table) for table in tables(find(tmp_path))])
    assert "&lt;b&gt;mine&lt;/b&gt;" in text and "<b>mine" not in text
    assert "<h1>a &amp; b</h1>" in text


def test_two_networks_as_a_picture(tmp_path):
    runs(tmp_path)
    (table,) = [table for table in tables(find(tmp_path)) if table.name == "figure 4"]
    picture = Image.open(io.BytesIO(png(figure_draw.two_networks(table))))
    assert picture.width == 1400
    assert table.heading == "figure 4: two networks under flip noise"


def test_a_finished_run_without_arrays_gives_the_figures_of_its_records(tmp_path):
    fill(tmp_path, 0.8, row="MW-Net", **CELL)
    report(tmp_path, tmp_path / "out")
    assert {path.stem for path in (tmp_path / "out" / "figures" / "paper").glob("*.png")} == {"figure-07", "figure-12"}
    assert Run(find(tmp_path)[0].folder).state == "done"

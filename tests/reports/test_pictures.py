"""Figures alone: from a study, or from runs that belong to none; what is missing is named."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from mwray import cli_reports
from mwray.config import override, to_dict
from mwray.recipes import recipe
from mwray.records import RecordError, Run
from mwray.reports import figure_draw
from mwray.reports.cells import find
from mwray.reports.loose import below, entries_of
from mwray.reports.published import Column
from mwray.reports.report import draw
from mwray.reports.tables import ReportError

from .filled import fill, record
from .test_figures import with_arrays

UNIFORM = {"table": "2", "bias": "uniform 40 %"}


def trained(folder, name="digits", done=True, **values):
    """A run that looks like one of `mwray train`, outside of any study."""
    run = Run(folder)
    run.start(to_dict(override(recipe(name), {key.replace("__", "."): value for key, value in values.items()})), {}, 0)
    for epoch in (1, 2):
        run.append(record(epoch, 0.8))
    with_arrays(folder)
    if done:
        run.finish({"test.last": 0.8})
    return folder


def test_one_figure_is_drawn_alone(tmp_path):
    with_arrays(fill(tmp_path, 0.8, row="MW-Net", **UNIFORM))
    paths = draw(find(tmp_path), tmp_path / "out", ["5", "12"])
    assert [str(path.relative_to(tmp_path / "out")) for path in paths] == [
        "paper/figure-05-cifar-10-uniform-40-.png",
        "paper/figure-12.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_a_figure_that_the_runs_do_not_give_says_which_it_takes(tmp_path):
    with_arrays(fill(tmp_path, 0.8, row="MW-Net", **UNIFORM))
    with pytest.raises(ReportError, match=r"--figure 3: needs finished runs of MW-Net and BaseModel under imbalance"):
        draw(find(tmp_path), tmp_path / "out", ["5", "3"])
    with pytest.raises(ReportError, match=r"--figure 2: figures are 1, 3, 4, .*13, or all"):
        draw(find(tmp_path), tmp_path / "out", ["2"])
    with pytest.raises(ReportError, match=r"these runs give no figure"):
        draw([], tmp_path / "out", [*map(str, range(3, 14)), "1"])


def test_runs_of_no_study_are_told_apart_by_their_settings(tmp_path):
    trained(tmp_path / "a", seed=3)
    trained(tmp_path / "b", "digits-flip", method__name="l2rw")
    trained(tmp_path / "c", "digits-longtail", method__name="focal")
    trained(tmp_path / "d", "cifar100-flip", data__bias__noise="hierarchical", method__name="base")
    trained(tmp_path / "e", "digits-flip", data__bias__imbalance=20.0)
    found = {
        e.folder.name: (e.cell.table, e.cell.row, e.cell.column, e.cell.seed) for e in entries_of(below([tmp_path]))
    }
    assert found == {
        "a": ("2", "MW-Net", Column("digits", "uniform 40 %"), 3),
        "b": ("3", "L2RW", Column("digits", "flip 40 %"), 0),
        "c": ("1", "focal", Column("digits", "imbalance 50"), 0),
        "d": ("3", "BaseModel", Column("CIFAR-100", "hierarchical 40 %"), 0),
        "e": ("1", "MW-Net", Column("digits", "imbalance 20 with flip 40 %"), 0),
    }
    drawn = draw(entries_of(below([tmp_path])), tmp_path / "out", ["1", "8"])
    assert [path.stem for path in drawn] == ["figure-01", "figure-08-digits"]


def test_two_runs_of_one_cell_and_a_run_that_has_not_finished(tmp_path):
    trained(tmp_path / "a", optimizer__lr=0.1)
    trained(tmp_path / "b", optimizer__lr=0.2)
    with pytest.raises(RecordError, match=r"/a and .*/b are both seed 0 of MW-Net under digits, uniform 40 %"):
        entries_of(below([tmp_path]))
    trained(tmp_path / "c", done=False)
    with pytest.raises(RecordError, match=r"/c: holds no finished run"):
        entries_of(below([tmp_path / "c"]))


def titles(figure):
    return [axis.get_title(loc="left").split("\n")[0] for axis in figure.axes if axis.get_title(loc="left")]


def test_matrices_stand_by_bias_with_their_methods_under_one_another():
    half = np.full((2, 2), 0.5)
    biases = [f"imbalance {level}" for level in (200, 100, 50, 20)]
    figure = figure_draw.confusions({bias: {"BaseModel": half, "MW-Net": half} for bias in biases}, ("a", "b"))
    first, second = biases[:3], biases[3:]
    assert titles(figure) == [
        *[f"{method}, {bias}" for method in ("BaseModel", "MW-Net") for bias in first],
        *[f"{method}, {bias}" for method in ("BaseModel", "MW-Net") for bias in second],
    ]
    assert figure.get_size_inches()[0] <= 7
    one = figure_draw.confusions({"flip 40 %": {"BaseModel": half, "MW-Net": np.eye(2)}}, ("a", "b"))
    assert titles(one) == ["BaseModel, flip 40 %", "MW-Net, flip 40 %"]
    assert [text.get_text() for text in one.axes[1].texts] == ["100", "100"]  # alone, cells have room for numbers


def typed(*arguments):
    parser = argparse.ArgumentParser()
    cli_reports.add_verbs(parser.add_subparsers(required=True))
    options = parser.parse_args(["report", *map(str, arguments)])
    return options.verb(options)


def test_figures_as_typed_from_a_study_and_from_runs(tmp_path, capsys, monkeypatch):
    with_arrays(fill(tmp_path / "study", 0.8, row="MW-Net", **UNIFORM))
    assert typed(tmp_path / "study", "--figure", "5,12") == 0
    here = tmp_path / "study" / "report" / "figures" / "paper"
    assert capsys.readouterr().out.split() == [
        str(here / "figure-05-cifar-10-uniform-40-.png"),
        str(here / "figure-12.png"),
    ]
    trained(tmp_path / "loose" / "a")
    monkeypatch.chdir(tmp_path)
    assert typed("--figure", "12", "--runs", tmp_path / "loose") == 0
    assert capsys.readouterr().out.split() == ["runs/figures/runs/figure-12.png"]
    assert typed("--runs", tmp_path / "loose" / "a", "--out", tmp_path / "out") == 0  # all that one run gives
    assert {path.stem for path in (tmp_path / "out" / "runs").iterdir()} == {
        *("figure-01", "figure-05-digits-uniform-40-", "figure-06-digits-uniform-40-"),
        *("figure-07", "figure-09-digits", "figure-12"),
    }

"""Tables from records: by value, beside the paper, with what is missing shown as missing; four ways to write them."""

from __future__ import annotations

import csv
import io
import math
import statistics
import subprocess
from dataclasses import replace
from shutil import which

import pytest

from mwray.records import RecordError
from mwray.reports.cells import find
from mwray.reports.latex import escape, to_latex
from mwray.reports.published import TABLES, Column, Value
from mwray.reports.tables import ReportError, tables
from mwray.reports.text import lines, to_csv, to_markdown

from .filled import fill

FLIP40 = Column("CIFAR-10", "flip 40 %")


@pytest.fixture
def root(tmp_path):
    for seed, (base, mwnet) in enumerate([(0.70, 0.8740), (0.72, 0.8750), (0.71, 0.8790)]):
        fill(tmp_path, base, row="BaseModel", seed=seed)
        fill(tmp_path, mwnet, row="MW-Net", seed=seed)
    fill(tmp_path, 0.80, row="BaseModel, long", beside="BaseModel")
    fill(tmp_path, None, row="GLC")
    return tmp_path


@pytest.fixture
def table(root):
    (found,) = tables(find(root))
    return found


def test_our_numbers_beside_the_paper_s(table):
    cell = table.cells["MW-Net", FLIP40]
    assert cell.ours.n == 3
    assert cell.ours.mean == pytest.approx(87.60)
    assert cell.ours.spread == pytest.approx(statistics.stdev([87.40, 87.50, 87.90]))
    assert cell.paper == Value(87.54, 0.23)
    assert cell.difference == pytest.approx(0.06)
    assert cell.within is True
    assert cell.place == 1


def test_a_row_of_ours_is_held_beside_the_paper_s_of_another_name_and_stands_below_it(table):
    cell = table.cells["BaseModel, long", FLIP40]
    assert cell.paper == Value(70.77, 2.31)
    assert (cell.within, cell.place, cell.ours.spread) == (False, 2, None)
    assert table.rows[:2] == ("BaseModel", "BaseModel, long")
    assert table.cells["BaseModel", FLIP40].place is None


def test_what_did_not_finish_is_missing(table):
    assert table.rows[-1] == "MW-Net"
    assert table.columns == TABLES["3"].columns
    assert table.cells["GLC", FLIP40].ours is None
    assert len(table.missing) == 13 * 6 - 3
    assert "1 to 3 seeds a cell" in table.caption


def test_the_rule_of_selection_is_in_the_caption_and_an_oracle_is_called_one(root):
    (table,) = tables(find(root), "test.best")
    assert table.cells["MW-Net", FLIP40].ours.mean == pytest.approx(88.60)
    assert "an oracle: chosen on the test set" in table.caption
    with pytest.raises(ReportError, match=r"'test.lst': known are test.last, "):
        tables(find(root), "test.lst")


def test_a_data_set_that_the_paper_has_not_gets_columns_of_its_own_in_the_paper_s_order(tmp_path):
    for bias in ("flip 40 %", "flip 0 %"):
        fill(tmp_path, 0.9, row="MW-Net", dataset="digits", bias=bias, preset="digits")
    (table,) = tables(find(tmp_path))
    assert table.columns == (Column("digits", "flip 0 %"), Column("digits", "flip 40 %"))
    assert table.cells["MW-Net", table.columns[0]].paper is None
    assert not table.has_paper
    text = to_markdown(table)
    assert "paper's number" not in text and TABLES["3"].note not in text


def test_what_a_reader_has_to_know_of_a_preset_is_said_also_of_a_changed_one(tmp_path):
    fill(tmp_path, 0.9, row="MW-Net", dataset="digits", preset="digits+epochs=2")
    (table,) = tables(find(tmp_path), says={"digits": "Small."})
    assert table.note == "Small. Changed here: epochs=2."


def test_presets_and_tables_stay_apart_and_a_run_may_fill_cells_of_both(tmp_path):
    fill(tmp_path, 0.9, row="MW-Net")
    fill(tmp_path, 0.8, row="MW-Net", preset="reduced")
    fill(tmp_path, 0.7, row="1-100-1", table="5")
    assert [(t.name, t.preset) for t in tables(find(tmp_path))] == [("3", "paper"), ("3", "reduced"), ("5", "paper")]


def test_two_runs_for_one_cell_are_refused(tmp_path):
    fill(tmp_path / "a", 0.9, row="MW-Net")
    fill(tmp_path / "b", 0.8, row="MW-Net")
    with pytest.raises(RecordError, match=r"both are seed 0 of MW-Net in table 3"):
        find(tmp_path)


def test_a_broken_cell_file_is_named(tmp_path):
    (tmp_path / "cell-0.json").write_text('{"row": "MW-Net"}')
    with pytest.raises(RecordError, match=r"cell-0.json: does not name the cell"):
        find(tmp_path)


def test_markdown(table):
    text = to_markdown(table)
    row = next(line for line in text.splitlines() if line.startswith("| MW-Net"))
    assert row.split("|")[4].strip() == "**87.60 \u00b1 0.26 (3)**<br>paper 87.54 \u00b1 0.23<br>+0.06, within"
    assert row.split("|")[2].strip() == "missing<br>paper 92.04 \u00b1 0.15"
    assert "*80.00 (1)*<br>paper 70.77 \u00b1 2.31<br>+9.23, outside" in text
    assert "test accuracy at the last epoch" in text
    assert TABLES["3"].note in text
    assert "Rows share MW-Net's schedule" in text  # for one of them has another


def test_lines_for_a_terminal_mark_the_best(table):
    by_row = {line[0]: line for line in lines(table)}
    assert by_row["MW-Net"][3] == "87.60 \u00b1 0.26 (3)*"
    assert by_row["GLC"][3] == "-"


def test_csv_can_be_read_back(table):
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert len(rows) == 13 * 6
    (mine,) = [r for r in rows if (r["row"], r["dataset"], r["bias"]) == ("MW-Net", "CIFAR-10", "flip 40 %")]
    assert math.isclose(float(mine["mean"]), 87.60, abs_tol=1e-3)
    assert mine["seeds"] == "0:87.4000 1:87.5000 2:87.9000"
    assert mine["within_paper_sd"] == "True"
    assert rows[0]["mean"] == "" and rows[0]["n"] == "0"


def test_latex_has_as_many_columns_as_it_says_and_nothing_unescaped(table):
    text = to_latex(table)
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert all(line.count(" & ") == 6 and line.endswith(r"\\") for line in body)
    assert r"\begin{tabular}{lcccccc}" in text
    assert r"\multicolumn{3}{c}{CIFAR-10} & \multicolumn{3}{c}{CIFAR-100}" in text
    assert r"\textbf{87.60} $\pm$ 0.26 (3)" in text and r"\underline{80.00} (1)" in text
    assert r"\scriptsize 87.54 $\pm$ 0.23 ($+0.06$*)" in text  # within the paper's spread
    assert r"\scriptsize 70.77 $\pm$ 2.31 ($+9.23$)" in text
    assert "%" not in text.replace(r"\%", "")
    assert escape("a_b & 5 % {x} \\") == r"a\_b \& 5 \% \{x\} \textbackslash{}"


def test_latex_of_many_columns_goes_below_itself(table):
    wide = replace(table, columns=table.columns + table.columns[:1])
    text = to_latex(wide)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert r"\begin{tabular}{lc}" in text and r"\multicolumn{1}{c}{CIFAR-10}" in text
    assert text.count("{") == text.count("}")


@pytest.mark.skipif(which("pdflatex") is None, reason="needs TeX with booktabs")
def test_latex_is_read_by_latex_and_stays_within_the_page(table, tmp_path):
    body = to_latex(replace(table, note="a_b & 5 % of {x} <y> ~z ^ # $ \\"))
    text = rf"\documentclass{{article}}\usepackage{{booktabs,graphicx}}\begin{{document}}{body}\end{{document}}"
    (tmp_path / "page.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-draftmode", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout


def test_equal_means_share_a_place(tmp_path):
    for row in ("MW-Net", "GLC"):
        fill(tmp_path, 0.9, row=row)
    fill(tmp_path, 0.8, row="Focal")
    (table,) = tables(find(tmp_path))
    assert [table.cells[row, FLIP40].place for row in ("MW-Net", "GLC", "Focal")] == [1, 1, 2]

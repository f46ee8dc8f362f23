"""Paired tests against textbook formulas and counts by hand."""

from __future__ import annotations

import math
import statistics

import pytest
from scipy import stats

from mwray.reports.cells import find
from mwray.reports.significance import compare, paired, subject
from mwray.reports.tables import tables
from mwray.reports.text import significance_csv, significance_markdown

from .filled import fill

DIFFERENCES = [1.0, 2.0, 4.0, 3.5, 0.5]


def test_the_t_test_and_its_interval_by_the_formula():
    (low, high), t_p, _ = paired(DIFFERENCES)
    mean, error = statistics.mean(DIFFERENCES), statistics.stdev(DIFFERENCES) / math.sqrt(5)
    assert t_p == pytest.approx(2 * stats.t.sf(mean / error, 4))
    reach = 2.7764451 * error  # t-distribution with 4 degrees of freedom, 97.5 %
    assert (low, high) == pytest.approx((mean - reach, mean + reach), rel=1e-6)


def test_wilcoxon_by_counting_signs():
    # All five positive: 2 of the 2^5 assignments of signs are as extreme.
    assert paired(DIFFERENCES)[2] == pytest.approx(2 / 32)
    # Ranks 1 2 3 4 5 with the smallest negative: rank sums 0 and 1 on either side, 4 of 32.
    assert paired([-0.5, 1.0, 2.0, 3.5, 4.0])[2] == pytest.approx(4 / 32)


def test_edges():
    assert paired([0.0, 0.0, 0.0]) == ((0.0, 0.0), 1.0, 1.0)
    interval, t_p, wilcoxon_p = paired([1.0, 1.0])
    assert interval == (1.0, 1.0)
    assert t_p == wilcoxon_p == pytest.approx(0.5)
    with pytest.raises(ValueError, match="two seeds or more, and 1"):
        paired([1.0])


def test_methods_are_compared_over_the_seeds_that_both_have(tmp_path):
    for seed, accuracy in enumerate((0.90, 0.92, 0.94)):
        fill(tmp_path, accuracy, row="MW-Net", seed=seed)
    for seed, accuracy in ((1, 0.90), (2, 0.91), (7, 0.10)):
        fill(tmp_path, accuracy, row="GLC", seed=seed)
    for seed, accuracy in ((0, 0.70), (1, 0.74), (2, 0.73)):
        fill(tmp_path, accuracy, row="BaseModel", seed=seed)
    fill(tmp_path, 0.5, row="Focal", seed=0)  # one shared seed: no test
    (table,) = tables(find(tmp_path))
    pairs = {pair.against: pair for pair in compare(table)}
    assert set(pairs) == {"GLC", "BaseModel"}
    assert pairs["GLC"].n == 2 and pairs["GLC"].difference == pytest.approx(2.5)
    assert pairs["BaseModel"].n == 3
    low, high = sorted(pair.t_p for pair in pairs.values())
    # Benjamini and Hochberg by hand: the smaller p doubles, unless the larger is below that.
    assert min(pair.adjusted_p for pair in pairs.values()) == pytest.approx(min(2 * low, high))
    assert max(pair.adjusted_p for pair in pairs.values()) == pytest.approx(high)
    text = significance_markdown(list(pairs.values()))
    rows = significance_csv(list(pairs.values())).splitlines()
    assert rows[0].startswith("dataset,bias,row,against,n,difference,low,high,p_t_test")
    assert any(row.startswith("CIFAR-10,flip 40 %,MW-Net,GLC,2,2.5,") for row in rows)
    assert "paired t-test" in text and "Wilcoxon" in text and "| +2.50 |" in text


def test_nothing_to_compare(tmp_path):
    fill(tmp_path, 0.9, row="MW-Net")
    (table,) = tables(find(tmp_path))
    assert compare(table) == []
    assert compare(table, row="no such method") == []
    assert significance_markdown([]) == ""


@pytest.mark.parametrize(
    ("table", "rows", "about"),
    [
        ("3", ["BaseModel", "MW-Net"], "MW-Net"),
        ("5", ["1-50-1", "1-100-1"], "1-100-1"),
        ("6", ["MW-Net", "MW-Net transferred"], "MW-Net transferred"),
        ("a to b", ["mwnet", "MW-Net transferred, trajectory"], "MW-Net transferred, trajectory"),
        ("3", ["BaseModel", "GLC"], None),
    ],
)
def test_a_table_is_about_the_row_that_was_run(tmp_path, table, rows, about):
    for row in rows:
        for seed, accuracy in enumerate((0.8, 0.9)):
            fill(tmp_path, accuracy, table=table, row=row, seed=seed)
    (found,) = tables(find(tmp_path))
    assert subject(found) == about
    assert {pair.row for pair in compare(found)} == ({about} if about else set())

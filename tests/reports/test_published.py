"""The paper's numbers as data: sizes, dashes, and values read off the paper one by one."""

from __future__ import annotations

import pytest

from mwray.reports.published import TABLES, TRANSFERRED, Column, Value

SHAPES = {"1": (6, 12, 0), "2": (12, 6, 2), "3": (12, 6, 0), "4": (8, 1, 0), "5": (6, 6, 0), "6": (5, 12, 6)}
"""Rows, columns, and cells that the paper does not have (Table 6: MentorNet has no long-tail numbers)."""


@pytest.mark.parametrize("name", TABLES)
def test_every_table_has_its_size_and_its_dashes(name):
    table = TABLES[name]
    rows, columns, dashes = SHAPES[name]
    assert (len(table.rows), len(table.columns)) == (rows, columns)
    assert len(table.cells) == rows * columns - dashes
    assert {row for row, _ in table.cells} == set(table.rows)
    assert {column for _, column in table.cells} == set(table.columns)
    assert all(10 < value.mean < 100 and 0 < (value.spread or 1) < 5 for value in table.cells.values())


@pytest.mark.parametrize(
    ("name", "row", "column", "mean", "spread"),
    [
        ("1", "BaseModel", Column("CIFAR-10", "imbalance 200"), 65.68, None),
        ("1", "Class-Balanced", Column("CIFAR-100", "imbalance 200"), 36.23, None),
        ("1", "Fine-tuning", Column("CIFAR-100", "imbalance 1"), 70.72, None),
        ("1", "MW-Net", Column("CIFAR-10", "imbalance 20"), 84.94, None),
        ("2", "BaseModel", Column("CIFAR-10", "uniform 40 %"), 68.07, 1.23),
        ("2", "Focal", Column("CIFAR-100", "uniform 60 %"), 27.70, 3.77),
        ("2", "S-Model", Column("CIFAR-100", "uniform 0 %"), 52.86, 0.99),
        ("2", "GLC", Column("CIFAR-100", "uniform 60 %"), 50.81, 1.00),
        ("2", "MW-Net", Column("CIFAR-100", "uniform 60 %"), 58.75, 0.11),
        ("3", "BaseModel", Column("CIFAR-10", "flip 40 %"), 70.77, 2.31),
        ("3", "Fine-tuning", Column("CIFAR-10", "flip 20 %"), 82.47, 3.64),
        ("3", "MW-Net", Column("CIFAR-100", "flip 40 %"), 58.64, 0.47),
        ("4", "MW-Net", Column("Clothing1M", "real noise"), 73.72, None),
        ("5", "1-50-1", Column("CIFAR-10", "imbalance 100"), 73.50, None),
        ("5", "1-200-1", Column("CIFAR-100", "uniform 40 %"), 67.84, None),
        ("5", "1-10-10-10-1", Column("CIFAR-100", "flip 40 %"), 57.29, None),
        ("6", TRANSFERRED, Column("CIFAR-100", "imbalance 10"), 58.23, None),
        ("6", TRANSFERRED, Column("CIFAR-100", "flip 20 %"), 63.97, None),
        ("6", "L2RW", Column("CIFAR-100", "uniform 40 %"), 60.79, 0.91),
    ],
)
def test_values_as_printed(name, row, column, mean, spread):
    assert TABLES[name].cells[row, column] == Value(mean, spread)


def test_a_dash_is_no_cell():
    assert ("S-Model", Column("CIFAR-10", "uniform 60 %")) not in TABLES["2"].cells


def test_the_shape_of_the_method_itself_is_the_method_of_the_other_tables():
    mine = {column: value.mean for (row, column), value in TABLES["5"].cells.items() if row == "1-100-1"}
    others = {c: v.mean for name in "123" for (row, c), v in TABLES[name].cells.items() if row == "MW-Net"}
    assert mine == {column: others[column] for column in mine}

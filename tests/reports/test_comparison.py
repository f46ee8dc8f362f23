"""Tables from records: means, spreads and costs by value; what is not finished is missing, not zero."""

from __future__ import annotations

import statistics

import pytest

from mwray.records import Run
from mwray.reports.comparison import compare, csv_text, markdown, table


def finished(folder, accuracy, seconds):
    run = Run(folder)
    run.start({"folder": folder.name}, {}, 0)
    for epoch, share in enumerate((0.25, 0.75), 1):
        run.append({"epoch": epoch, "seconds": seconds * share})
    run.finish({"test.last": accuracy})
    return folder


@pytest.fixture
def runs(tmp_path):
    found = []
    for seed, (base, mwnet) in enumerate([(0.70, 0.94), (0.72, 0.96), (0.74, 0.95)]):
        found.append(("base", "flip", finished(tmp_path / f"b{seed}", base, 2.0)))
        found.append(("mwnet", "flip", finished(tmp_path / f"m{seed}", mwnet, 6.0 + seed)))
    unfinished = tmp_path / "u"
    Run(unfinished).start({}, {}, 0)
    return [*found, ("mwnet", "uniform", unfinished)]


def test_means_spreads_and_costs(runs):
    comparison = compare(runs)
    cell = comparison.cells["mwnet", "flip"]
    assert cell.mean == pytest.approx(0.95)
    assert cell.spread == pytest.approx(statistics.stdev([0.94, 0.96, 0.95]))
    assert comparison.cost("mwnet") == pytest.approx(7.0 / 2.0)
    assert comparison.cost("base") == pytest.approx(1.0)
    assert ("mwnet", "uniform") not in comparison.cells


def test_the_printed_table(runs):
    lines = table(compare(runs))
    assert lines == [
        ["method", "flip", "uniform", "time / base"],
        ["base", "72.00 +- 2.00 (3)", "-", "1.00"],
        ["mwnet", "95.00 +- 1.00 (3)", "-", "3.50"],
    ]
    assert markdown(lines).splitlines()[1] == "|---|---|---|---|"
    assert csv_text(lines).splitlines()[1] == "base,72.00 +- 2.00 (3),-,1.00"


def test_a_single_run_has_no_spread(tmp_path):
    comparison = compare([("base", "flip", finished(tmp_path / "a", 0.5, 1.0))])
    assert comparison.cells["base", "flip"].spread is None
    assert table(comparison)[1] == ["base", "50.00 (1)", "1.00"]

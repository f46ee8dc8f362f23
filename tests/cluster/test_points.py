"""Points over seeds: ranked by their mean, never by one lucky training."""

from __future__ import annotations

import csv
import io
import json

import pytest
from rich.console import Console

from mwray.cluster import leaderboard, status
from mwray.cluster.display import report
from mwray.cluster.leaderboard import SearchResult, columns
from mwray.cluster.points import points, spread_text
from mwray.cluster.search import _bases, _write_space
from mwray.cluster.study import Study
from tests.cluster.helpers import finish_run, space

GRID = {"method.weight_net.shape": {"choice": ["1-50-1", "1-100-1"]}}
# By shape and seed. The second shape has the best single training and the worse mean.
ACCURACIES = {("1-50-1", 0): 0.80, ("1-50-1", 1): 0.84, ("1-100-1", 0): 0.90, ("1-100-1", 1): 0.70}


def searched(folder, leave_out=()):
    """A finished search over two shapes and two seeds, BaseModel beside it; what is left out failed."""
    over = space(GRID, sampler="grid", seeds=2, trials=None)
    study = Study(over, folder)
    while (proposal := study.next()) is not None:
        key = proposal.values["method.weight_net.shape"], proposal.values["seed"]
        if key in leave_out:
            study.fail(proposal.number, "diverged")
            continue
        finish_run(proposal.folder, proposal.experiment, ACCURACIES[key])
        study.finish(proposal.number, ACCURACIES[key])
    bases = _bases(over, folder)
    for base, accuracy in zip(bases, (0.5, 0.7), strict=True):
        finish_run(base.folder, base.experiment, accuracy)
    return SearchResult(
        folder=folder,
        rows=leaderboard.ranked(leaderboard.rows(study), over.mode),
        bases=_bases(over, folder),
        finished=True,
        names=columns(over),
        mode=over.mode,
    )


def test_base_model_stands_beside_the_points_with_as_many_seeds(tmp_path):
    result = searched(tmp_path)
    assert [row.experiment.seed for row in result.bases] == [0, 1]
    point = result.base_point
    assert (point.label, point.n, *point.of("validation")) == (
        "BaseModel",
        2,
        pytest.approx(0.6),
        pytest.approx(0.2 / 2**0.5),
    )
    leaderboard.write(result)
    last = list(csv.DictReader((tmp_path / "points.csv").open()))[-1]
    assert (last["trials"], float(last["validation.mean"])) == ("BaseModel", pytest.approx(0.6))
    _write_space(tmp_path, space(GRID, sampler="grid", seeds=2, trials=None), 4)
    shown = [(line.values["seed"], line.validation) for line in status.read(tmp_path).lines if line.number is None]
    assert shown == [(0, 0.5), (1, 0.7)]


def test_the_best_mean_wins_over_the_best_training(tmp_path):
    result = searched(tmp_path)
    assert result.rows[0].values["method.weight_net.shape"] == "1-100-1"  # the lucky one
    best, second = result.points
    assert best.values["method.weight_net.shape"] == "1-50-1" and "seed" not in best.values
    assert (best.n, *best.of("validation")) == (2, pytest.approx(0.82), pytest.approx(0.04 / 2**0.5))
    assert best.of("test")[0] == pytest.approx(0.72)
    assert second.of("objective")[0] == pytest.approx(0.80)
    assert result.best.values["method.weight_net.shape"] == "1-50-1" and result.best.experiment.seed == 0


def test_a_point_with_fewer_seeds_is_behind_one_with_all(tmp_path):
    result = searched(tmp_path, leave_out=[("1-100-1", 1)])
    assert [(p.values["method.weight_net.shape"], p.n) for p in result.points] == [("1-50-1", 2), ("1-100-1", 1)]
    assert spread_text(result.points[1].of("objective")) == "90.0"


def test_smaller_is_better_where_the_metric_says_so(tmp_path):
    rows = searched(tmp_path).rows
    assert [point.values["method.weight_net.shape"] for point in points(rows, "min")] == ["1-100-1", "1-50-1"]


def test_files_and_table_show_mean_spread_and_number_of_seeds(tmp_path):
    result = searched(tmp_path)
    leaderboard.write(result)
    first, second, base = csv.DictReader(io.StringIO((tmp_path / "points.csv").read_text()))
    assert base["trials"] == "BaseModel"
    assert (first["method.weight_net.shape"], first["seeds"], first["trials"]) == ("1-50-1", "2", "2 3")
    assert float(first["validation.mean"]) == pytest.approx(0.82)
    assert float(second["test.sd"]) == pytest.approx(0.2 / 2**0.5)
    assert json.loads((tmp_path / "best.json").read_text())["experiment"]["method"]["weight_net"]["shape"] == "1-50-1"
    console = Console(file=io.StringIO(), width=140)
    report(result, console)
    assert "82.0 +- 2.8" in console.file.getvalue() and "Over the seeds" in console.file.getvalue()


def test_a_search_at_one_seed_has_no_points(tmp_path):
    over = space(GRID, sampler="grid", trials=None)
    result = SearchResult(folder=tmp_path, rows=(), bases=(), finished=True, names=columns(over))
    assert result.points == () and result.best is None
    leaderboard.write(result)
    assert not (tmp_path / "points.csv").exists() and (tmp_path / "leaderboard.csv").read_text() == "trial\n"

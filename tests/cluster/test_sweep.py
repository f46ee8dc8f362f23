"""Many trainings over a real Ray on this machine: finished ones are skipped, a failing one stops nobody."""

from __future__ import annotations

import io

import pytest
import ray
from rich.console import Console

from mwray.cluster.compare import compare
from mwray.cluster.sweep import Job, sweep
from mwray.config import override
from mwray.recipes import recipe
from mwray.records import Run

TINY = {"epochs": 2, "optimizer.milestones": [1], "data.num_train": 300, "data.num_test": 100}


@pytest.fixture(scope="module", autouse=True)
def one_ray(ray_home):
    """One Ray for all of these: starting it is what takes time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(ray_home))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=2, address="local", log_to_driver=False, object_store_memory=100 * 2**20)
        yield
        ray.shutdown()


def test_a_failing_training_stops_nobody_and_finished_ones_are_skipped(tmp_path):
    good = override(recipe("digits"), TINY | {"method.name": "base"})
    bad = override(good, {"optimizer.lr": 1e30})
    jobs = [Job("bad", bad, tmp_path / "bad"), Job("good", good, tmp_path / "good")]
    said = io.StringIO()
    outcomes = sweep(jobs, console=Console(file=said, width=200))
    assert outcomes[0].summary is None
    assert "NonFiniteLoss: epoch 1" in outcomes[0].error
    assert outcomes[1].summary == Run(tmp_path / "good").summary()
    assert "failed bad" in said.getvalue()

    written = (tmp_path / "good" / "done").stat().st_mtime_ns
    said = io.StringIO()
    again = sweep(jobs[1:], console=Console(file=said, width=200))
    assert again[0].summary == outcomes[1].summary
    assert (tmp_path / "good" / "done").stat().st_mtime_ns == written
    assert said.getvalue() == ""


def test_a_comparison_writes_its_table_and_goes_on_from_it(tmp_path, capsys):
    compare(["digits"], ["base", "mwnet"], 1, tmp_path, values=TINY)
    compare(["digits"], ["base", "mwnet"], 2, tmp_path, values=TINY | {"method.weight_net.shape": "1-100-1"})
    assert "2 of 4 trainings are finished already" in capsys.readouterr().out
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines] == ["method", "---", "base", "mwnet"]
    assert all("(2)" in line for line in lines[2:])
    best = [Run(folder).summary()["test.best"] for folder in tmp_path.glob("digits/base-seed*")]
    compare(["digits"], ["base"], 2, tmp_path, values=TINY, measure="test.best")
    assert f"{100 * sum(best) / 2:.2f}" in (tmp_path / "table.md").read_text()

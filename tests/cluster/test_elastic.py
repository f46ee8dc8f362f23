"""A cluster that grows and shrinks under a search: who joins is used at once, who leaves takes nothing along (slow)."""

from __future__ import annotations

import json
import threading
import time

import pytest

from mwray.cluster import display
from mwray.cluster.search import search
from mwray.cluster.trainer import fit
from mwray.config import override
from mwray.recipes import recipe
from mwray.records import Run
from tests.cluster.helpers import space

EPOCHS, TRIALS = 40, 6
SLOW = "tests.cluster.networks:slow"
USED = 30.0
"""Seconds from a worker's joining until a trial runs there, at most."""


class Watch(display.Silent):
    """What runs at this moment."""

    def __init__(self):
        self.states = {}

    def changed(self, row):
        self.states[row.label] = (row.state, row.epoch)

    def running(self):
        return [label for label, (state, _) in self.states.items() if state == "running"]


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


@pytest.fixture
def cluster(tmp_path, ray_home, monkeypatch):
    """A head with one core. Its node processes look for this package where the tests do."""
    import ray
    from ray.cluster_utils import Cluster

    from mwray.cluster.connect import _passed_on, _quiet

    monkeypatch.setenv("HOME", str(ray_home))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    _quiet()
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 10**8})
    ray.init(address=made.address, log_to_driver=False, runtime_env={"env_vars": _passed_on({})})
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_that_joins_is_used_even_where_trials_end_sooner_than_a_process_starts(tmp_path, cluster, monkeypatch):
    watch, results = Watch(), []
    monkeypatch.setattr(display, "make", lambda console, shown: watch)
    fixed = {"epochs": 2, "optimizer.milestones": [], "method.name": "base", "model.name": SLOW}
    searched = space({"optimizer.lr": {"float": [0.02, 0.2]}}, set=fixed, trials=120)
    driver = threading.Thread(
        target=lambda: results.append(search(searched, tmp_path / "search", address="auto", display=False)), daemon=True
    )
    driver.start()
    wait_for(lambda: len(watch.running()) == 1, 120)
    cluster.add_node(num_cpus=1, object_store_memory=10**8)
    joined = time.monotonic()
    wait_for(lambda: len(watch.running()) == 2, USED)
    print(f"used after {time.monotonic() - joined:.1f} s")
    driver.join(400)
    assert results and results[0].finished and len(results[0].rows) == 120


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_that_joins_is_used_and_one_that_leaves_takes_nothing_along(tmp_path, cluster, monkeypatch):
    watch, results = Watch(), []
    monkeypatch.setattr(display, "make", lambda console, shown: watch)
    fixed = {"epochs": EPOCHS, "optimizer.milestones": [], "method.name": "base", "model.name": SLOW}
    searched = space({"optimizer.lr": {"float": [0.02, 0.2]}}, set=fixed, trials=TRIALS)
    folder = tmp_path / "search"
    driver = threading.Thread(
        target=lambda: results.append(search(searched, folder, address="auto", display=False)), daemon=True
    )
    driver.start()
    wait_for(lambda: len(watch.running()) == 1, 120)

    worker = cluster.add_node(num_cpus=1, object_store_memory=10**8)
    joined = time.monotonic()
    wait_for(lambda: len(watch.running()) == 2, 120)
    used = time.monotonic() - joined
    both = watch.running()
    wait_for(lambda: all(watch.states[label][1] >= 2 or label not in watch.running() for label in both), 240)
    cluster.remove_node(worker, allow_graceful=False)
    driver.join(400)

    assert used < USED, f"the new worker waited {used:.0f} s for its first trial"
    assert results and results[0].finished
    rows = results[0].rows
    assert [row.state for row in rows] == ["finished"] * TRIALS
    for row in rows:
        assert [record["epoch"] for record in Run(row.folder).records()] == list(range(1, EPOCHS + 1))
    starts = [json.loads((row.folder / "environment.json").read_text()) for row in rows]
    again = [entries for entries in starts if len(entries) > 1]
    assert len(again) == 1 and again[0][1]["epoch"] >= 1, "the trial of the lost worker goes on from its checkpoint"
    print(f"used after {used:.1f} s; its trial went on after epoch {again[0][1]['epoch']}")


@pytest.mark.slow
def test_one_training_over_two_machines_makes_its_folder(tmp_path, cluster):
    cluster.add_node(num_cpus=1, object_store_memory=10**8)
    short = override(recipe("digits"), {"epochs": 1, "optimizer.milestones": [], "method.name": "base"})
    summary = fit(short, tmp_path / "new" / "run", 2, address="auto")
    assert summary["epochs"] == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["run"]

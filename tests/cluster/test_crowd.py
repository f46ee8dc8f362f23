"""The search loop with many trials in flight that only sleep (slow): none is forgotten, each report costs little."""

from __future__ import annotations

import time

import pytest

from benchmarks.crowd import crowd
from mwray.cluster.connect import _quiet
from mwray.cluster.search import search
from mwray.cluster.study import Study
from tests.cluster.helpers import space

SIZE, TRIALS, EPOCHS = 60, 150, 5


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sixty_trials_in_flight_are_driven_to_their_ends(tmp_path, ray_home, monkeypatch):
    monkeypatch.setenv("HOME", str(ray_home))
    _quiet()
    fixed = {"epochs": EPOCHS, "optimizer.milestones": [], "method.name": "base"}
    searched = space({"optimizer.lr": {"float": [0.02, 0.2]}}, set=fixed, trials=TRIALS)
    with crowd(SIZE, 10.0, EPOCHS) as processes:
        before = time.process_time()
        result = search(searched, tmp_path / "search", display=False)
        busy = time.process_time() - before
    assert result.finished
    assert [row.state for row in result.rows] == ["finished"] * TRIALS
    assert processes.made == SIZE  # each is used again and again, and no more are made than fit
    entries = Study(searched, tmp_path / "search").entries()
    assert [entry.number for entry in entries] == list(range(TRIALS))
    assert all(entry.epoch == EPOCHS for entry in entries)
    assert busy / (TRIALS * (EPOCHS + 1)) < 0.02, "seconds of CPU for a report; 0.003 when this was written"

"""Folders of two machines copied over one another: whichever files win, the run ends whole and with the same bits."""

from __future__ import annotations

import shutil

import pytest
import torch

from mwray.config import override
from mwray.recipes import recipe
from mwray.records import Run
from mwray.train import checkpoint
from mwray.train.loop import train
from mwray.worker import LocalWorker
from tests.train.stopping import Stopped, Stopping

EXPERIMENT = override(
    recipe("digits"),
    {"method.name": "base", "model.name": "mlp", "epochs": 4, "optimizer.milestones": [3], "data.num_train": 200},
)


@pytest.fixture
def machines(tmp_path):
    """One that has finished, and one that has been stopped after the first epoch."""
    train(EXPERIMENT, tmp_path / "done", worker=LocalWorker("cpu"))
    with pytest.raises(Stopped):
        train(EXPERIMENT, tmp_path / "begun", worker=Stopping(1))
    return tmp_path


def copy(source, target, clobber):
    for path in source.iterdir():
        if clobber or not (target / path.name).exists():
            shutil.copy(path, target / path.name)


@pytest.mark.parametrize("clobber", [True, False])
@pytest.mark.parametrize(("source", "target"), [("done", "begun"), ("begun", "done")])
def test_whichever_files_win(machines, source, target, clobber):
    weights = checkpoint.latest(machines / "done")["method"]
    lines = [record["test.accuracy"] for record in Run(machines / "done").records()]
    copy(machines / source, machines / target, clobber)
    merged = Run(machines / target)
    assert (merged.state == "done") == (len(merged.records()) == 4)  # never finished with records left out
    summary = train(EXPERIMENT, machines / target, worker=LocalWorker("cpu"))
    assert summary["epochs"] == 4 and merged.state == "done"
    assert [record["test.accuracy"] for record in merged.records()] == lines
    again = checkpoint.latest(machines / target)["method"]
    assert all(torch.equal(again["network"][name], value) for name, value in weights["network"].items())

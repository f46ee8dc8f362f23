"""What a notebook shows of a training: lines as text, and a bar in its place, without widgets."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from mwray.config import override
from mwray.recipes import recipe
from mwray.train.loop import train
from mwray.train.sinks import ConsoleSink
from mwray.train.sinks import console as console_module
from mwray.train.sinks.notebook import NotebookBar, _clock
from mwray.worker import LocalWorker


@pytest.fixture
def cell(monkeypatch):
    """Every state of what IPython shows, in order."""
    shown = []

    def display(value, display_id=False):
        shown.append(value)
        return SimpleNamespace(update=shown.append)

    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(HTML=lambda text: text, display=display))
    return shown


def test_the_bar_tells_speed_and_time_left_and_goes(cell, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("mwray.train.sinks.notebook.time", SimpleNamespace(monotonic=lambda: now[0]))
    bar = NotebookBar(total=110, done=10, batch_size=50, noun="vector")
    now[0] += 4
    bar.update(30, "epoch 2/5")
    bar.stop()
    assert cell[0] == cell[-1] == "" and "value='30' max='110'" in cell[1]
    assert cell[1].endswith("epoch 2/5, 250 vectors/s, 0:16 left")


def test_a_training_in_a_notebook(cell, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(console_module, "REFRESH", 0.0)
    changes = {"epochs": 2, "data.num_train": 300, "optimizer.milestones": [], "method.name": "base"}
    sink = ConsoleSink(Console(force_jupyter=True))
    train(override(recipe("digits"), changes), tmp_path, worker=LocalWorker("cpu"), sinks=[sink])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["epoch", "1/2", "2/2"] and "finished 2 epochs" in lines[4]
    assert any("value='1' max='6'" in state and "epoch 1/2" in state for state in cell) and cell[-1] == ""


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3723, "1:02:03")])
def test_clock(seconds, text):
    assert _clock(seconds) == text

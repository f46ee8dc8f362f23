"""The examples of docs/reports.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from mwray.methods.learned_weight_net import LearnedWeightNet
from mwray.studies.tables import STUDIES
from mwray.transfer import load, save

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parent.parent / "docs" / "reports.md").read_text(), re.S)


@pytest.fixture
def studies():
    """Put back what an example adds."""
    before = dict(STUDIES)
    yield STUDIES
    STUDIES.clear()
    STUDIES.update(before)


def test_a_study_of_your_own(studies, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = [block for block in BLOCKS if "Study(" in block]
    exec(code, {})
    said = capsys.readouterr().out
    assert "Table cheaper, preset digits: 18 trainings, 0 finished" in said
    assert "18 of 18 trainings to do: about " in said


def test_a_kept_weight_net_in_a_loop_of_your_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save(LearnedWeightNet("1-3-1", torch.randn(10)), Path("net.json"))
    (code,) = [block for block in BLOCKS if "load(" in block]
    x, y = torch.randn(8, 4), torch.randint(3, (8,))
    model = nn.Linear(4, 3)
    weight, bias = (p.detach().clone() for p in model.parameters())
    around = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), 0.5), "batches": [(x, y)]}
    exec(code, around)
    # By hand: the gradient of a linear layer's cross-entropy is (softmax - one-hot) x, weighted by eta.
    eta = around["weights"] / around["weights"].sum()
    error = torch.softmax(x @ weight.T + bias, 1) - nn.functional.one_hot(y, 3)
    torch.testing.assert_close(model.weight, weight - 0.5 * (eta[:, None] * error).T @ x)
    net = load("net.json").build()
    torch.testing.assert_close(
        around["weights"], net(nn.functional.cross_entropy(x @ weight.T + bias, y, reduction="none"))
    )

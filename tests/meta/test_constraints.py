"""Weights that the forward itself keeps within bounds: what it does to them is no change after it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from mwray import MetaWeightNet
from mwray.meta.forward_mode import ForwardMode
from mwray.meta.pull_backs import PullBacks
from mwray.meta.tangent import Linearized
from mwray.models.weight_net import WeightNet
from tests.meta import oracle
from tests.meta.tangent_nets import images, random_direction


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class MaxNorm(nn.Module):
    """Rows of the weight are kept short, in place and beside the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(768, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.body.weight.copy_(self.body.weight.renorm(2, 0, 0.4))
        return self.head(self.body(x.flatten(1)).tanh())


def test_weights_constrained_in_the_forward(caplog):
    model, weight_net = MaxNorm().double(), WeightNet("1-10-1").double()
    batch, meta = ((images(n), torch.randint(5, (n,))) for n in (8, 6))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    twins = copy.deepcopy((model, weight_net))
    _, expected = oracle.meta_gradient(twins[0], sgd, twins[1], batch, meta, "normalized", "sgd")
    MetaWeightNet(model, sgd, weight_net).step(batch, meta)
    for p, b in zip(weight_net.parameters(), expected, strict=True):
        assert (p.grad - b).norm() <= 1e-11 * b.norm()
    assert not caplog.records


@pytest.mark.parametrize("kind", [Linearized, ForwardMode, PullBacks])
def test_a_constraint_in_the_forward_is_no_change_after_it(kind):
    model, x = MaxNorm().double(), images()
    recording = kind(model, x)
    weight = model.body.weight.detach().clone()
    recording.tangent(random_direction(model))
    assert recording.tangent(random_direction(model)).shape == (6, 5)
    assert torch.equal(model.body.weight, weight)
    with torch.no_grad():
        model.body.weight.mul_(2)
    with pytest.raises(RuntimeError, match="before the optimiser steps"):
        recording.tangent({})


def test_weights_below_the_last_stage_may_be_constrained():
    """The step is that of a network whose weights were short before it, and which leaves them alone."""
    ends = []
    for kept_short in (True, False):
        torch.manual_seed(0)
        model = MaxNorm().double()
        if not kept_short:
            with torch.no_grad():
                model.body.weight.copy_(model.body.weight.renorm(2, 0, 0.4))
            model.forward = lambda x, own=model: own.head(own.body(x.flatten(1)).tanh())
        mwn = MetaWeightNet(model, torch.optim.SGD(model.parameters(), lr=0.1), "1-5-1", layers=["head"])
        mwn.step(*((images(n), torch.arange(n) % 5) for n in (8, 6)))
        ends.append([*model.parameters(), *mwn.weight_net.parameters()])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)

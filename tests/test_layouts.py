"""Gradients and state lie as their parameters do, wherever they come from: fused optimisers go by addresses.

The CPU's fused kernels mix up the elements of tensors that lie otherwise: a wrong layout shows here as wrong numbers.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mwray import optim, process_group
from mwray.meta.step import MetaWeightNet
from mwray.pack.optim import StackedAdam, StackedSGD
from mwray.process_group import Exchange
from mwray.worker import LocalWorker


class Peerless(LocalWorker):
    """One of two workers, whose peer has the same tensors: the exchange runs, and the mean is one's own."""

    def __init__(self, overlap: bool) -> None:
        super().__init__("cpu")
        self.size, self._exchange = 2, Exchange(0, 2, torch.device("cpu"), overlap)

    def average(self, tensors):
        return self._exchange.average(tensors)

    def gradients(self, *given, **named):
        return self._exchange.gradients(*given, **named)


class Done:
    def wait(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _peer(monkeypatch):
    monkeypatch.setattr(process_group.dist, "all_reduce", lambda flat, async_op=False: (flat.mul_(2), Done())[async_op])


def network() -> nn.Module:
    """Convolutions with their channels innermost."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return made.to(memory_format=torch.channels_last)


def batch(seed: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(6, 3, 8, 8, generator=draws), torch.randint(5, (6,), generator=draws)


def optimizer_of(model: nn.Module, fused: bool) -> torch.optim.SGD:
    return optim.sgd(model.parameters(), fused, lr=0.1, momentum=0.9)


@pytest.mark.parametrize("overlap", [False, True])
def test_a_fused_step_along_exchanged_gradients_is_the_ordinary_one(overlap):
    ends = []
    for fused in (False, True):
        model, worker = network(), Peerless(overlap)
        weigher = MetaWeightNet(model, optimizer_of(model, fused), worker=worker)
        for seed in range(3):
            weigher.step(batch(seed), batch(10 + seed))
        ends.append([p.detach().clone() for p in model.parameters()])
    for ordinary, one in zip(*ends, strict=True):
        torch.testing.assert_close(one, ordinary)


@pytest.mark.parametrize("saved", [torch.contiguous_format, torch.channels_last])
def test_state_that_was_saved_in_another_layout_is_laid_anew(saved):
    models = [network().to(memory_format=saved), network().to(memory_format=torch.channels_last)]
    first, second = (optimizer_of(model, fused=True) for model in models)
    x, y = batch(0)
    parameters = list(models[0].parameters())
    optim.set_gradients(parameters, torch.autograd.grad(F.cross_entropy(models[0](x), y), parameters))
    first.step()
    models[1].load_state_dict(models[0].state_dict())
    optim.restore(second, first.state_dict())
    for (p, ours), theirs in zip(second.state.items(), first.state.values(), strict=True):
        assert ours["momentum_buffer"].stride() == p.stride()
        torch.testing.assert_close(ours["momentum_buffer"], theirs["momentum_buffer"])


def test_what_lies_right_is_not_copied():
    parameter = nn.Parameter(torch.zeros(4, 3, 2, 2).to(memory_format=torch.channels_last))
    right, wrong = torch.ones_like(parameter), torch.randn(4, 3, 2, 2)
    assert optim.as_laid(right, parameter) is right
    single = nn.Parameter(torch.zeros(4, 1, 2, 2).to(memory_format=torch.channels_last))
    same = torch.randn(4, 1, 2, 2)
    assert optim.as_laid(same, single) is same  # strides of dimensions of one element say nothing
    laid = optim.as_laid(wrong, parameter)
    assert laid.stride() == parameter.stride() and torch.equal(laid, wrong) and not laid.requires_grad


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_state_that_leaves_a_stack_lies_as_the_trial_s_own_parameters(kind):
    models = [network() for _ in range(2)]
    own = [
        optimizer_of(model, fused=True) if kind == "sgd" else optim.adam(model.parameters(), True, lr=0.1)
        for model in models
    ]
    pairs = zip(*(model.parameters() for model in models), strict=True)
    together = [nn.Parameter(torch.stack([p.detach() for p in pair])) for pair in pairs]
    stacked = (StackedSGD if kind == "sgd" else StackedAdam)(together, own)
    for parameter in together:
        parameter.grad = torch.randn_like(parameter)
    stacked.step()
    stacked.unload(1, own[1])
    for parameter, held in own[1].state.items():
        assert all(value.stride() == parameter.stride() for value in held.values() if value.dim())

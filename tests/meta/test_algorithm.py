"""`iterate` as a function: what it is given decides what it gives, and it moves its state and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mwray.meta.algorithm import Rule, State, iterate
from mwray.models.registry import MODELS
from mwray.models.weight_net import WeightNet
from mwray.pack.network import StackedNetwork, stack_images
from mwray.pack.optim import StackedSGD
from mwray.pack.stack import losses_of
from mwray.pack.weight_net import StackedWeightNet
from mwray.worker import LocalWorker

pytestmark = pytest.mark.usefixtures("double_precision")

SHAPE = (3, 8, 8)
WORKER = LocalWorker("cpu")
RULES = {
    "paper": Rule(),
    "mean, optimizer": Rule("mean", look_ahead="optimizer"),
    "detached, recompute": Rule("detached", recompute="all"),
    "through": Rule(input="through", recompute="nothing"),
    "lagged": Rule(look_ahead="optimizer", order="lagged"),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def state_of(seed: int, aligned: slice = slice(None)) -> State:
    """A network, a weight net and their optimisers."""
    torch.manual_seed(seed)
    model, net = MODELS["small"](5, SHAPE), WeightNet("1-7-1")
    sgd = torch.optim.SGD(model.parameters(), 0.1 + 0.05 * seed, momentum=0.9, weight_decay=1e-3)
    by_theta = torch.optim.SGD(net.parameters(), 0.3 + seed, momentum=0.9, nesterov=True)
    trained = dict(model.named_parameters())
    return State(model, sgd, net, by_theta, trained, tuple(trained)[aligned], torch.zeros(()))


def pair(seed: int, n: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(100 + seed)
    return torch.randn(n, *SHAPE), torch.randint(5, (n,))


def contents(state: State) -> list[Tensor]:
    """All numbers that a state holds, copied."""
    parts: list[Any] = [state.model.state_dict(), state.weight_net.state_dict()]
    parts += [optimizer.state_dict()["state"] for optimizer in (state.optimizer, state.weight_optimizer)]
    tensors = [tensor for part in parts for tensor in leaves(part)]
    return [tensor.detach().clone() for tensor in (*tensors, state.meta_loss)]


def leaves(part: Any) -> list[Tensor]:
    if isinstance(part, dict):
        return [tensor for value in part.values() for tensor in leaves(value)]
    return [part] if isinstance(part, Tensor) else []


@every_rule
def test_equal_states_and_batches_give_equal_bits(rule):
    ends = []
    for _ in range(2):
        state = state_of(0)
        for number in range(3):
            meta = None if number == 1 else pair(number + 10, 4)
            seen = iterate(state, rule, pair(number, 6), meta, WORKER)
            torch.rand(7)  # what happens elsewhere
        ends.append([*contents(state), seen.logits, seen.values, seen.weights])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@every_rule
def test_nothing_but_the_state_is_moved(rule):
    state, batch, meta = state_of(0), pair(0, 6), pair(1, 4)
    given, before = copy.deepcopy((batch, meta)), contents(state)
    random, rule_before = torch.get_rng_state(), replace(rule)
    iterate(state, rule, batch, meta, WORKER)
    assert torch.equal(torch.get_rng_state(), random) and rule == rule_before
    assert all(
        torch.equal(a, b) for old, new in zip(given, (batch, meta), strict=True) for a, b in zip(old, new, strict=True)
    )
    assert not all(torch.equal(a, b) for a, b in zip(before, contents(state), strict=False))


@pytest.mark.parametrize("aligned", [slice(None), slice(-2, None)], ids=["all", "top"])
@every_rule
def test_a_stacked_state_is_its_rows(rule, aligned):
    """One function, two executors: K networks at once, or one after the other."""
    alone, packed = [state_of(seed, aligned) for seed in range(3)], [state_of(seed, aligned) for seed in range(3)]
    together, stacked_rule = stacked(packed), replace(rule, criterion=losses_of)
    for number in range(3):
        batches = [pair(number + 20 * row, 6) for row in range(3)]
        metas = [None if number == 1 else pair(number + 20 * row + 10, 4) for row in range(3)]
        seen = iterate(together, stacked_rule, put(batches), None if number == 1 else put(metas), WORKER)
        for row, state in enumerate(alone):
            own = iterate(state, rule, batches[row], metas[row], WORKER)
            for a, b in ((seen.losses, own.losses), (seen.weights, own.weights), (seen.meta_loss, own.meta_loss)):
                assert torch.allclose(a[row], b, rtol=1e-10, atol=1e-13)
            assert (seen.alignment is None) == (own.alignment is None) == (number == 1)


def stacked(states: Sequence[State]) -> State:
    network = StackedNetwork([state.model for state in states])
    trained = dict(network.named_parameters())
    sgd = StackedSGD(list(trained.values()), [state.optimizer for state in states])
    net = StackedWeightNet([state.weight_net for state in states])
    by_theta = StackedSGD(list(net.parameters()), [s.weight_optimizer for s in states], net.views, net.masks)
    aligned = tuple(f"held.{name}" for name in states[0].aligned)
    return State(network, sgd, net, by_theta, trained, aligned, torch.zeros(len(states)))


def put(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return stack_images([x for x, _ in pairs]), torch.stack([y for _, y in pairs])

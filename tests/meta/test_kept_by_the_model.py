"""Models that keep a forward's tensors and read them in the next: what they hold is not lent to the meta pass."""

from __future__ import annotations

import copy
from collections import deque

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mwray import MetaWeightNet
from mwray.meta import recompute, tangent
from mwray.meta.held import Watch, compiled, held_by
from mwray.models.weight_net import WeightNet


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(recompute, "SMALLEST", 1)
    tangent._failures.clear()


class Net(nn.Module):
    """A stem whose activation z the subclasses keep somewhere, and read in the next forward, the meta pass's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x):
        z = F.relu(self.norm(self.stem(x)))
        return self.head(self.kept(z).mean((2, 3)))

    def kept(self, z):
        return z


class Buffer(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def kept(self, z):
        z = z + 0.1 * self.seen.mean()
        self.seen = F.relu(z).detach()
        return z


class Cache(Net):
    """A table that the first forward makes of a constant one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.rand(8, 12, 12))
        self.cache: dict[str, list[torch.Tensor]] = {}

    def kept(self, z):
        if not self.cache:
            self.cache["scaled"] = [self.table * 0.5]
        return z + self.cache["scaled"][0]


class Holder:
    tensor: torch.Tensor | None = None


class Attribute(Net):
    def __init__(self) -> None:
        super().__init__()
        self.holder = Holder()

    def kept(self, z):
        before, self.holder.tensor = self.holder.tensor, F.relu(z).detach()
        return z if before is None else z + 0.1 * before.mean(0)


class Hooked(Net):
    def __init__(self) -> None:
        super().__init__()
        seen = []
        self.norm.register_forward_hook(lambda module, given, made: seen.append(made.detach()))
        self.seen = lambda: torch.stack([each.mean() for each in seen]).mean()

    def kept(self, z):
        return z + 0.1 * self.seen()


class Queue(Net):
    """Where nobody thinks to look; one network more, which is none of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: deque[torch.Tensor] = deque(maxlen=1)
        self.others = [Buffer().double()]

    def kept(self, z):
        before = self.queue[0].mean() if self.queue else 0.0
        self.queue.append(F.relu(z).detach())
        return self.others[0].kept(z + 0.1 * before)


class Hidden(Net):
    """In a place that cannot be looked into."""

    def __init__(self) -> None:
        super().__init__()
        seen: list[torch.Tensor] = []

        def kept(z):
            before = seen[-1].mean() if seen else 0.0
            seen.append(F.relu(z).detach())
            return z + 0.1 * before

        self.kept = kept  # type: ignore[method-assign]


class Slots:
    __slots__ = ("tensor",)


def weight_net_gradients(model, what, steps=3):
    """Of a few steps; the same batches each time it is asked."""
    draws = torch.Generator().manual_seed(1)
    net = WeightNet("1-6-1").double()
    net.load_state_dict(WEIGHTS)
    learner = MetaWeightNet(model, torch.optim.SGD(model.parameters(), lr=0.1), net, recompute=what)
    found = []
    for _ in range(steps):
        x, y = torch.randn(2, 6, 3, 12, 12, generator=draws).double(), torch.randint(5, (2, 6), generator=draws)
        learner.step((x[0], y[0]), (x[1], y[1]))
        found.append(torch.cat([p.grad.flatten().clone() for p in net.parameters()]))
    return found


WEIGHTS = WeightNet("1-6-1").double().state_dict()


@pytest.mark.parametrize("what", ["cheap", "all"])
@pytest.mark.parametrize("kind", [Buffer, Cache, Attribute, Hooked, Queue, Hidden])
def test_the_steps_are_those_of_a_model_whose_memory_is_not_lent(kind, what):
    torch.manual_seed(3)
    one = kind().double()
    torch.manual_seed(3)
    other = kind().double()
    for ours, whole in zip(weight_net_gradients(one, what), weight_net_gradients(other, "nothing"), strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-10, atol=1e-14)


def test_what_is_held_is_found_wherever_a_module_has_it():
    model = Attribute()
    model.holder.tensor, model.list = torch.ones(2), [(torch.ones(3),), {"a": torch.ones(4)}]
    found = held_by(model)
    for tensor in (model.holder.tensor, model.list[0][0], model.list[1]["a"], model.norm.running_mean):
        assert tensor.untyped_storage()._cdata in found
    assert model.stem.weight.untyped_storage()._cdata not in found


def test_hooks_of_one_s_own_may_keep_anything_and_pytorch_s_do_not():
    assert held_by(Hooked()) is None
    assert held_by(nn.utils.spectral_norm(copy.deepcopy(Net().stem))) is not None


def test_a_hook_of_all_modules_may_keep_anything():
    handle = nn.modules.module.register_module_forward_hook(lambda module, given, made: None)
    try:
        assert held_by(Net()) is None
    finally:
        handle.remove()
    assert held_by(Net()) is not None


def test_what_has_no_memory_of_its_own_is_passed_over():
    model = Net()
    model.register_buffer("graph", torch.eye(6).to_sparse())
    model.register_buffer("rows", torch.eye(6).to_sparse_csr())
    model.slots = Slots()
    model.words = {f"word {i}": i for i in range(10**6)}
    model.slots.tensor = torch.ones(2)
    found = held_by(model)
    for tensor in (model.graph._values(), model.rows.values(), model.slots.tensor):
        assert tensor.untyped_storage()._cdata in found
    x, y = torch.randn(6, 3, 12, 12), torch.randint(5, (6,))
    MetaWeightNet(model, torch.optim.SGD(model.parameters(), lr=0.1)).step((x, y), (x, y))


def test_memory_is_filled_once_and_before_it_is_read():
    kept, other, calls = torch.ones(3), torch.ones(3), []
    with Watch([kept.untyped_storage()._cdata], lambda: calls.append(float(other.sum()))):
        assert float(other.sum()) == 3 and not calls
        torch.cat([other, kept[1:]])
        kept.add_(1)
        assert calls == [3]


def test_a_compiled_model_is_known():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    assert not compiled(model)
    assert compiled(nn.Sequential(torch.compile(model)))
    model[0].compile()
    assert compiled(model)

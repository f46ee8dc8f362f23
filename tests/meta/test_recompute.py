"""Memory that the training forward lends to the meta pass: it is free meanwhile, and what comes back is the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.timing import Peak
from mwray import MetaWeightNet
from mwray.meta import tangent as tangent_module
from mwray.meta.forward_mode import ForwardMode
from mwray.meta.recompute import Recomputation
from mwray.meta.tangent import Linearized, record
from mwray.models.registry import MODELS
from mwray.models.sync_batch_norm import synchronized
from mwray.models.weight_net import WeightNet
from mwray.worker import LocalWorker
from tests.meta.tangent_nets import NETS, images, random_direction, relative, residual_net


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    tangent_module._warned.clear()
    tangent_module._failures.clear()


def lent(recording: Linearized) -> int:
    """Bytes that are free while the recording is set aside."""
    before = {s.data_ptr(): s.nbytes() for s in (v.untyped_storage() for v in kept(recording))}
    with recording.set_aside():
        after = sum(s.nbytes() for s in (v.untyped_storage() for v in kept(recording)))
    return sum(before.values()) - after


def kept(recording: Linearized) -> list[Tensor]:
    """One tensor for each memory that the tape reads."""
    tensors = [t for entry in recording._tape._entries for t in entry.kept]
    return list({t.untyped_storage()._cdata: t for t in tensors}.values())


@pytest.mark.parametrize("what", ["cheap", "all"])
@pytest.mark.parametrize("name", NETS)
def test_everything_that_was_lent_comes_back(name, what):
    """Tangent and second pull-back of every network, after its memory has been somebody else's."""
    model, x = NETS[name]().double(), images(64)
    twin = copy.deepcopy(model)
    direction = random_direction(model)
    torch.manual_seed(7)
    recording = Linearized(model, x, what)
    contents = [t.clone() for t in kept(recording)]
    if name not in ("mlp", "weight norm", "hooks"):  # a hook may keep what it sees: nothing is lent
        assert lent(recording) > 0
    with recording.set_aside():
        rubbish = [torch.full((2**16,), torch.nan, dtype=torch.float64) for _ in range(200)]
    for now, then in zip(kept(recording), contents, strict=True):
        torch.testing.assert_close(now, then, rtol=1e-12, atol=1e-13)
        assert what == "cheap" or torch.equal(now, then)
    torch.manual_seed(7)
    untouched = Linearized(twin, x, "nothing")
    assert relative(recording.tangent(direction), untouched.tangent(direction)) < 1e-12
    cotangent = torch.randn_like(recording.outputs)
    pulled = torch.autograd.grad(recording.outputs, list(model.parameters()), cotangent)
    expected = torch.autograd.grad(untouched.outputs, list(twin.parameters()), cotangent)
    assert relative(*(torch.cat([g.flatten() for g in gradients]) for gradients in (pulled, expected))) < 1e-12
    for mine, theirs in zip(model.buffers(), twin.buffers(), strict=True):
        assert torch.equal(mine, theirs)
    del rubbish


class Counting(LocalWorker):
    """One of two equal workers, in whose name both have answered."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.size, self.exchanges = 2, 0

    def average(self, tensors):
        self.exchanges += 1
        return list(tensors)


def test_synchronised_batch_norm_comes_back_without_an_exchange():
    worker = Counting()
    model = synchronized(residual_net(), worker).double()
    recording = Linearized(model, images(64))
    exchanges = worker.exchanges
    assert exchanges == 5
    assert recording._tape.failure is None
    contents = [t.clone() for t in kept(recording)]
    assert lent(recording) > sum(t.numel() * t.element_size() for t in contents) / 4
    assert worker.exchanges == exchanges
    for now, then in zip(kept(recording), contents, strict=True):
        torch.testing.assert_close(now, then, rtol=1e-12, atol=1e-13)


class Awkward(nn.Module):
    """Cheap results that may not be recomputed from what is there later, or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(768, 64), nn.Linear(64, 5)
        self.register_buffer("scale", torch.ones(64))
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        scaled = x + self.scale  # from a buffer that is overwritten afterwards
        with torch.no_grad():
            self.scale.mul_(0.5)
        y = scaled.sigmoid()
        y = y + x.tanh()[:, :1]  # from a view of something that dies
        z = (y + y.exp()).add_(1).relu_()  # in place, twice, on what nobody else holds
        w = (z + 0.1) * 1.5
        w += y
        self.seen = w.relu()
        return self.second(self.seen * torch.rand_like(w))


@pytest.mark.parametrize("what", ["cheap", "all"])
def test_overwritten_views_and_random_numbers(what):
    model, x = Awkward().double(), images(64)
    direction = random_direction(model)
    torch.manual_seed(7)
    recording = Linearized(copy.deepcopy(model), x, what)
    assert recording._tape.failure is None
    contents = [t.clone() for t in kept(recording)]
    with recording.set_aside():
        pass
    for now, then in zip(kept(recording), contents, strict=True):
        assert torch.equal(now, then)
    torch.manual_seed(7)
    assert relative(recording.tangent(direction), ForwardMode(model, x).tangent(direction)) < 1e-12


def test_what_the_user_keeps_is_there_after_the_step():
    model, x = Awkward(), images(64, dtype=torch.float32)
    y = torch.randint(5, (64,))
    torch.manual_seed(7)
    MetaWeightNet(model, torch.optim.SGD(model.parameters(), lr=0.1)).step((x, y), (x, y))
    assert model.seen is not None and float(model.seen.sum()) > 0


@pytest.mark.parametrize(("meta", "lends"), [(64, True), (9, True), (8, False)])
def test_memory_is_lent_where_that_lowers_the_peak(meta, lends, monkeypatch):
    released = []
    monkeypatch.setattr(Recomputation, "release", lambda memory, keep, held: released.append(held))
    model, x = residual_net(), images(64, dtype=torch.float32)
    y = torch.randint(5, (64,))
    MetaWeightNet(model, torch.optim.SGD(model.parameters(), lr=0.1)).step((x, y), (x[:meta], y[:meta]))
    assert bool(released) == lends


def test_it_comes_back_after_an_error_too():
    model, x = residual_net().double(), images(64)
    recording = record(model, x)
    contents = [t.clone() for t in kept(recording)]
    with pytest.raises(KeyError), recording.set_aside():
        raise KeyError
    for now, then in zip(kept(recording), contents, strict=True):
        torch.testing.assert_close(now, then)


def test_changed_parameters_are_refused():
    model, x = residual_net(), images(8, dtype=torch.float32)
    recording = record(model, x)
    with pytest.raises(RuntimeError, match="parameters were changed"), recording.set_aside(), torch.no_grad():
        next(model.parameters()).add_(1)


def step_peak(model: nn.Module, pairs, **choices) -> int:
    model = copy.deepcopy(model)
    mwn = MetaWeightNet(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), WeightNet("1-9-1"), **choices)
    mwn.step(*pairs)
    with Peak() as peak:
        mwn.step(*pairs)
    return peak.bytes


def plain_peak(model: nn.Module, pairs) -> int:
    """Of a step on the mean loss, its gradient made anew, momentum there already."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(pairs[0][0]), pairs[0][1]).backward()
        optimizer.step()

    step()
    with Peak() as peak:
        step()
    return peak.bytes


def test_peak_memory_where_weights_outweigh_activations():
    """g, w_hat, g_m and the direction are each as large as the model; kept to the end they would be two to three."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 1000), nn.ReLU(), nn.Linear(1000, 5))
    pairs = [(torch.randn(4, 3, 16, 16), torch.randint(5, (4,))) for _ in range(2)]
    plain = plain_peak(model, pairs)
    assert step_peak(model, pairs) / plain < 1.4
    assert step_peak(model, pairs, look_ahead="optimizer") / plain < 2.1
    assert step_peak(model, pairs, order="lagged") / plain < 2.1  # the real step takes g


@pytest.mark.slow
def test_peak_memory_of_a_step():
    """ResNet-32 at 100 + 100: two graphs would be twice plain training's memory."""
    model = MODELS["resnet32"](10, (3, 32, 32))
    pairs = [(torch.randn(100, 3, 32, 32), torch.randint(10, (100,))) for _ in range(2)]
    plain = plain_peak(model, pairs)
    ratios = {what: step_peak(model, pairs, recompute=what) / plain for what in ("nothing", "cheap", "all")}
    assert ratios["nothing"] > 1.9
    assert ratios["cheap"] < 1.5
    assert ratios["all"] < 1.25
    assert step_peak(model, pairs, layers="top") / plain < 1.25

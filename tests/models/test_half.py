"""bfloat16 on float32 weights: what stays wide, what becomes narrow, and how far gradients move."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mwray.config import override
from mwray.meta.forward_mode import ForwardMode
from mwray.meta.gradient import cross_entropy
from mwray.meta.step import MetaWeightNet
from mwray.meta.tangent import Linearized
from mwray.models.half import Bfloat16
from mwray.models.registry import MODELS
from mwray.recipes import recipe
from mwray.train.loop import Session
from mwray.worker import LocalWorker

X, Y = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)


class WithConstants(nn.Module):
    """Everything that a cast of the weights alone would trip over: layer norm, a float32 buffer, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, stride=8)
        self.register_buffer("position", torch.randn(1, 16, 32) * 0.1)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.layer(self.patches(x).flatten(2).transpose(1, 2) + self.position).mean(1))


def build(name):
    torch.manual_seed(0)
    return (WithConstants() if name == "constants" else MODELS[name](10, (3, 32, 32))).train()


def batch(count=16):
    return torch.randn(count, 3, 32, 32, generator=X.manual_seed(1)), torch.randint(10, (count,), generator=Y)


def flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def distance(a, b):
    return float((a - b).norm() / b.norm())


def test_layers_see_bfloat16_and_all_that_is_kept_is_float32():
    half = Bfloat16(build("resnet8"))
    seen = []
    for module in half.network.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            module.register_forward_hook(lambda m, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    before = half.network.bn1.running_mean.clone()
    x, y = batch()
    logits = half(x)
    cross_entropy(logits, y).mean().backward()
    assert set(seen) == {(torch.bfloat16, torch.bfloat16)}
    assert logits.dtype == torch.float32
    assert {p.dtype for p in half.parameters()} == {p.grad.dtype for p in half.parameters()} == {torch.float32}
    assert {b.dtype for b in half.buffers()} == {torch.float32, torch.int64}
    assert not torch.equal(half.network.bn1.running_mean, before)


def test_a_step_smaller_than_bfloat16_can_hold_is_kept():
    """Adding a thousandth of the last bit that bfloat16 has would be lost without float32 weights."""
    half = Bfloat16(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10, bias=False)))
    weight = half.network[1].weight
    with torch.no_grad():
        weight.fill_(1.0)
        for _ in range(1000):
            weight.add_(1e-5)
    assert float(weight.detach()[0, 0]) == pytest.approx(1.01, abs=1e-4)
    narrow = torch.ones((), dtype=torch.bfloat16)
    assert float(narrow + 1e-5) == 1.0


def test_a_checkpoint_has_the_network_s_own_names():
    network = build("resnet8")
    half = Bfloat16(copy.deepcopy(network))
    assert list(half.state_dict()) == list(network.state_dict())
    other = Bfloat16(MODELS["resnet8"](10, (3, 32, 32)))
    other.load_state_dict(network.state_dict())
    assert torch.equal(flat(other.parameters()), flat(network.parameters()))
    nested = nn.ModuleDict({"a": half})
    assert list(nested.state_dict())[0] == "a.conv1.weight"
    nested.load_state_dict(nested.state_dict())


# Measured on the CPU, one draw each, then doubled.
BOUNDS = {"resnet8": (0.008, 0.12), "resnet32": (0.04, 0.32), "wrn10-1": (0.012, 0.18), "mlp": (0.05, 0.16)}


@pytest.mark.parametrize("name", [*BOUNDS, "constants"])
@pytest.mark.parametrize("recorder", [Linearized, ForwardMode])
def test_the_tangent_pass_is_that_of_float32_to_rounding(name, recorder):
    network = build(name)
    half = Bfloat16(network)
    x, y = batch()
    gradients = torch.autograd.grad(cross_entropy(network(x), y).mean(), list(network.parameters()))
    halves = torch.autograd.grad(cross_entropy(half(x), y).mean(), list(half.parameters()))
    direction = dict(zip(dict(network.named_parameters()), gradients, strict=True))
    wide = Linearized(network, x).tangent(direction)
    recording = recorder(half, x)
    narrow = recording.tangent({f"network.{name}": value for name, value in direction.items()})
    tangent_bound, gradient_bound = BOUNDS.get(name, (0.05, 0.2))
    assert recording.outputs.dtype == narrow.dtype == torch.float32
    assert distance(narrow, wide) < tangent_bound
    assert distance(flat(halves), flat(gradients)) < gradient_bound


def test_it_follows_the_tape_and_does_not_fall_back():
    half = Bfloat16(build("resnet8"))
    recording = Linearized(half, batch()[0])
    assert recording._tape.failure is None


@pytest.mark.parametrize("weight_map", ["normalized", "mean"])
def test_the_weight_net_s_gradient_is_near_float32_s(weight_map, tmp_path):
    """Digits, 8 steps into a training; bounds are three times what was measured on a CPU."""
    session = Session(
        override(recipe("digits"), {"data.num_train": 400, "epochs": 3, "optimizer.milestones": []}),
        tmp_path,
        LocalWorker("cpu"),
        (),
    )
    for epoch in range(2):
        session.method.epoch_start(epoch)
        for draws in session._draws(epoch):
            session.iteration(draws)
    batch, meta = next(session._batches(2))
    seen = []
    for wrap in (lambda network: network, Bfloat16):
        model = wrap(copy.deepcopy(session.method.classifier.network))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        weight_net = copy.deepcopy(session.method.meta.weight_net)
        learner = MetaWeightNet(model, optimizer, weight_net, weight_map=weight_map)
        step = learner.step((batch.x, batch.y), (meta.x, meta.y))
        shown = (step.logits, step.losses, step.weights, step.values, step.meta_loss, step.alignment)
        assert {tensor.dtype for tensor in shown} == {torch.float32}
        slopes = [flat(p.grad for p in net.parameters()) for net in (model, weight_net)]
        seen.append((step.losses, step.alignment, *slopes))
    found = [distance(narrow, wide) for wide, narrow in zip(*seen, strict=True)]
    print("losses, alignment, classifier's gradient, weight net's:", found)
    for value, bound in zip(found, (0.02, 0.1, 0.1, 0.1), strict=True):
        assert value < bound

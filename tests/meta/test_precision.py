"""The weight net's gradient of a whole step, in both precisions, beside double backward."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mwray import MetaWeightNet
from mwray.meta import tangent as tangent_module
from mwray.models.weight_net import WeightNet
from tests.meta import oracle
from tests.meta.tangent_nets import NETS, images, relative

NAMES = ["group norm", "transformer", "vit", "shared", "residual", "resnet8", "wide", "small", "mlp"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    tangent_module._warned.clear()
    tangent_module._failures.clear()
    yield
    torch.set_default_dtype(torch.float32)


def task(name: str, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.set_default_dtype(torch.float32)  # initial weights are drawn in it
    torch.manual_seed(1)
    model, weight_net = NETS[name](), WeightNet("1-10-1")
    pairs = [(images(n, dtype=torch.float32), torch.randint(5, (n,))) for n in (12, 10)]
    return model.to(dtype), weight_net.to(dtype), [(x.to(dtype), y) for x, y in pairs]


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05)


def exact(name: str, dtype: torch.dtype) -> Tensor:
    model, weight_net, pairs = task(name, dtype)
    torch.set_default_dtype(dtype)
    with sdpa_kernel(SDPBackend.MATH):
        _, slopes = oracle.meta_gradient(model, optimizer_of(model), weight_net, *pairs, "normalized", "sgd")
    return torch.cat([slope.flatten() for slope in slopes])


def ours(name: str, dtype: torch.dtype) -> Tensor:
    model, weight_net, pairs = task(name, dtype)
    torch.set_default_dtype(dtype)
    MetaWeightNet(model, optimizer_of(model), weight_net).step(*pairs)
    return torch.cat([p.grad.flatten() for p in weight_net.parameters()])


def after(name: str, dtype: torch.dtype, rate: float, steps: int, by_hand: bool) -> list[Tensor]:
    """Model, weight net and weights after some steps: by double backward, or ours."""
    model, weight_net, (batch, meta) = task(name, dtype)
    torch.set_default_dtype(dtype)
    sgd, by_theta = optimizer_of(model), torch.optim.SGD(weight_net.parameters(), rate)
    learner = MetaWeightNet(model, sgd, weight_net, weight_optimizer=lambda parameters: by_theta)
    for _ in range(steps):
        if not by_hand:
            eta = learner.step(batch, meta).weights
            continue
        with sdpa_kernel(SDPBackend.MATH):
            _, slopes = oracle.meta_gradient(model, sgd, weight_net, batch, meta, "normalized", "sgd")
            for parameter, slope in zip(weight_net.parameters(), slopes, strict=True):
                parameter.grad = slope
            by_theta.step()
            losses = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
            eta = oracle.weights_of(weight_net(losses.detach()), "normalized").detach()
            sgd.zero_grad()
            (eta * losses).sum().backward()
            sgd.step()
    return [*(torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (model, weight_net)), eta]


@pytest.mark.parametrize("rate, steps", [(10.0, 1), (0.1, 10)], ids=["one large step", "ten steps"])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_result_as_by_double_backward(name, rate, steps):
    """Parameters and weights to 1e-6 in float32, where the weight net moves by up to a third of its norm."""
    for a, b in zip(*(after(name, torch.float32, rate, steps, by_hand) for by_hand in (False, True)), strict=True):
        assert float((a - b).abs().max()) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_double_backward(name, caplog):
    """To 1e-12 in float64; in float32 to 1e-6 beyond what rounding does to double backward itself."""
    with caplog.at_level(logging.WARNING, logger="mwray"):
        reference = exact(name, torch.float64)
        assert relative(ours(name, torch.float64), reference) < 1e-12
        rounding = relative(exact(name, torch.float32).double(), reference)
        assert relative(ours(name, torch.float32).double(), reference) < 1e-6 + 4 * rounding
    assert not caplog.records, "fell back to dual numbers"

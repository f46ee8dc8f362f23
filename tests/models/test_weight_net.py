"""The weight net: the paper's shapes, and a value computed by hand."""

from __future__ import annotations

import pytest
import torch

from mwray.config import ConfigError
from mwray.models.settings import parse_shape
from mwray.models.weight_net import WeightNet
from mwray.seeding import rng


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        ("1-50-1", 151),
        ("1-100-1", 301),
        ("1-200-1", 601),
        ("1-100-100-1", 10_401),
        ("1-10-10-1", 141),
        ("1-10-10-10-1", 251),
        ("1-1-1", 4),
    ],
)
def test_shapes_of_table_5(shape: str, parameters: int) -> None:
    net = WeightNet(shape)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    weights = net(torch.linspace(0, 10, 7))
    assert weights.shape == (7,)
    assert bool(((weights > 0) & (weights < 1)).all())


@pytest.mark.parametrize("seed", range(10))
def test_the_formula(seed: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = WeightNet("1-3-2-1").double()
    losses = torch.rand(5, generator=rng(0), dtype=torch.float64)
    (w1, b1), (w2, b2), (w3, b3) = ((net.layers[k].weight, net.layers[k].bias) for k in (0, 2, 4))
    h = (losses[:, None] @ w1.T + b1).relu()
    h = (h @ w2.T + b2).relu()
    expected = 1 / (1 + torch.exp(-(h @ w3.T + b3)))
    torch.testing.assert_close(net(losses), expected[:, 0])


def test_initial_weights_are_those_of_plain_linear_layers() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = WeightNet("1-100-1")
        torch.manual_seed(0)
        first, second = torch.nn.Linear(1, 100), torch.nn.Linear(100, 1)
    assert torch.equal(net.layers[0].weight, first.weight)
    assert torch.equal(net.layers[2].bias, second.bias)


def test_it_can_be_traced() -> None:
    net = WeightNet()
    losses = torch.linspace(0, 3, 4)
    assert torch.equal(torch.fx.symbolic_trace(net)(losses), net(losses))
    assert net(losses[:0]).shape == (0,)


def test_parse_shape() -> None:
    assert parse_shape("1-10-20-1") == (1, 10, 20, 1)


@pytest.mark.parametrize(
    "text",
    ["", "1", "1-1", "1-100", "100-1", "1-x-1", "2-5-1", "1-5-2", "1-0-1", "1--1", "1-5-1-", "1-5.0-1", "1-\u00b2-1"],
)
def test_malformed_shapes_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not the shape of a weight net.*'1-100-1'") as caught:
        WeightNet(text)
    assert repr(text) in str(caught.value)

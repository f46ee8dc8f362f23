"""Stacked networks, weight nets and optimisers against the K of them that they are made of."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mwray.models.class_weight_net import ClassWeightNet
from mwray.models.registry import MODELS
from mwray.models.weight_net import WeightNet
from mwray.pack.network import StackedNetwork, stack_images
from mwray.pack.optim import stacked as stacked_optimizer
from mwray.pack.weight_net import StackedWeightNet

SHAPE = (3, 8, 8)


pytestmark = pytest.mark.usefixtures("double_precision")


def networks(name, count=3):
    return [MODELS[name](5, SHAPE).train() for _ in range(count)]


def near(a, b, tolerance=1e-12):
    assert a.shape == b.shape
    assert float((a - b).detach().abs().max()) <= tolerance * max(1.0, float(b.detach().abs().max()))


@pytest.mark.parametrize("name", ["mlp", "small", "resnet8", "wrn10-1"])
def test_a_stack_gives_each_network_its_logits_its_gradient_and_its_running_statistics(name):
    solo = networks(name)
    stacked = StackedNetwork(solo).train()
    x = [torch.randn(6, *SHAPE) for _ in solo]
    logits = stacked(stack_images(x))
    weights = torch.randn_like(logits)
    gradients = torch.autograd.grad((logits * weights).sum(), list(stacked.parameters()))
    for row, network in enumerate(solo):
        own = network(x[row])  # moves its running statistics, too
        near(logits[row], own)
        expected = torch.autograd.grad((own * weights[row]).sum(), list(network.parameters()))
        for g, e in zip(gradients, expected, strict=True):
            near(g[row], e)
        fresh = copy.deepcopy(network)
        for tensor in (*fresh.parameters(), *fresh.buffers()):
            tensor.data.zero_()
        stacked.unload(row, fresh)
        for (name_, a), b in zip(fresh.state_dict().items(), network.state_dict().values(), strict=True):
            assert a.dtype == b.dtype, name_
            near(a.double(), b.double())


def test_evaluation_uses_each_networks_running_statistics():
    solo = networks("small")
    for network in solo:
        network(torch.randn(20, *SHAPE))
    x = torch.randn(6, *SHAPE)
    logits = StackedNetwork(solo).eval()(stack_images([x] * 3))
    for row, network in enumerate(solo):
        near(logits[row], network.eval()(x))


def test_what_is_not_a_number_in_one_network_stays_there():
    solo = networks("small")
    stacked = StackedNetwork(solo).train()
    x = [torch.randn(6, *SHAPE) for _ in solo]
    clean = stacked(stack_images(x))
    x[1] = x[1] * torch.nan
    logits = StackedNetwork(solo).train()(stack_images(x))
    gradients = torch.autograd.grad(logits.sum(), list(stacked.parameters()), allow_unused=True)
    assert logits[1].isnan().all() and all(g is None or g[[0, 2]].isfinite().all() for g in gradients)
    assert torch.equal(logits[[0, 2]], clean[[0, 2]])


def test_networks_that_draw_random_numbers_differ_or_share_weights_are_refused():
    dropping = [nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 5)) for _ in range(2)]
    with pytest.raises(RuntimeError, match="random"):
        StackedNetwork(dropping).train()(torch.randn(2, 6, *SHAPE))
    with pytest.raises(ValueError, match="different makes"):
        StackedNetwork([*networks("small", 1), *networks("resnet8", 1)])
    tied = [nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(2)]
    for network in tied:
        network[1].weight = network[0].weight
    with pytest.raises(ValueError, match="shares a parameter"):
        StackedNetwork(tied)


def weight_nets():
    return [WeightNet(shape) for shape in ("1-7-1", "1-3-5-1", "1-10-10-10-1", "1-20-1")]


def test_weight_nets_of_any_shapes_make_one_stack():
    nets = weight_nets()
    stacked, losses = StackedWeightNet(nets), torch.rand(4, 9) * 5
    values, pull = stacked(losses), torch.randn(4, 9)
    gradients = torch.autograd.grad((values * pull).sum(), list(stacked.parameters()))
    for row, net in enumerate(nets):
        near(values[row], net(losses[row]))
        expected = torch.autograd.grad((net(losses[row]) * pull[row]).sum(), list(net.parameters()))
        for g, e in zip(stacked.views(row, gradients), expected, strict=True):
            near(g, e)
    assert sum(int(mask.sum()) for mask in stacked.masks) == sum(p.numel() for net in nets for p in net.parameters())


def test_weight_nets_that_see_classes_make_one_stack():
    nets = [ClassWeightNet("1-4-1", 3), ClassWeightNet("1-6-2-1", 3)]
    losses, classes = torch.rand(2, 9), torch.randint(3, (2, 9))
    values = StackedWeightNet(nets)(losses, classes)
    for row, net in enumerate(nets):
        near(values[row], net(losses[row], classes[row]))


RATES = [0.1, 0.02, 0.3, 0.005]


@pytest.mark.parametrize("kind", ["sgd", "nesterov", "adam", "adamw"])
def test_a_stacked_optimiser_takes_each_nets_steps_and_hands_its_state_on(kind):
    nets = weight_nets()
    optimizers = [make(kind, net, row) for row, net in enumerate(nets)]
    x = torch.rand(4, 9)
    for net, optimizer in zip(nets, optimizers, strict=True):
        move(net, optimizer, x[0])  # so that there is state to take over
    twins = [copy.deepcopy(net) for net in nets]
    stacked = StackedWeightNet(nets)
    together = stacked_optimizer(list(stacked.parameters()), optimizers, stacked.views, stacked.masks)
    for number in range(6):
        chosen = [row % 2 == number % 2 or number > 3 for row in range(4)]
        together.select(chosen)
        together.zero_grad()
        stacked(x).pow(2).sum().backward()
        together.step()
        for row, net in enumerate(nets):
            if chosen[row]:
                move(net, optimizers[row], x[row])
        if number == 2:
            optimizers[1].param_groups[0]["lr"] = 0.5
            together.set_rates(optimizers)
    for row, (net, twin) in enumerate(zip(nets, twins, strict=True)):
        stacked.unload(row, twin)
        for a, b in zip(twin.parameters(), net.parameters(), strict=True):
            near(a, b)
        fresh = make(kind, net, row)
        together.unload(row, fresh)
        for p in net.parameters():
            held, expected = fresh.state[p], optimizers[row].state[p]
            assert held.keys() == expected.keys() or kind == "sgd"
            for name in held:
                near(held[name].double(), expected[name].double(), 1e-7)


def make(kind, net, row):
    if kind in ("adam", "adamw"):
        adam = torch.optim.Adam if kind == "adam" else torch.optim.AdamW
        return adam(net.parameters(), RATES[row], weight_decay=0.1 * row)
    return torch.optim.SGD(net.parameters(), RATES[row], 0.3 * row or 0.1, weight_decay=1e-3, nesterov=kind != "sgd")


def move(net, optimizer, x):
    optimizer.zero_grad()
    net(x).pow(2).sum().backward()
    optimizer.step()

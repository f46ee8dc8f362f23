"""One Meta-Weight-Net iteration, in several ways: plain training, ours, and double backward written by hand.

All of them take one step on the same batches from the same weights, with the paper's Eq. 40 weights and its SGD
look-ahead, and leave the weight net's gradient of that step in `.grad`, so that it can be compared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from mwray import MetaWeightNet
from mwray.meta.forward_mode import ForwardMode
from mwray.models.registry import MODELS
from mwray.models.weight_net import WeightNet

Step = Callable[[], object]


class SmallTransformer(nn.Module):
    """Four encoder layers of width 128 over the 4x4 patches of a 32x32 image; mean over tokens."""

    def __init__(self, num_classes: int, width: int = 128, depth: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.position = nn.Parameter(torch.randn(1, 64, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 32, 32] to [B, num_classes]."""
        return self.head(self.layers(self.patches(x).flatten(2).transpose(1, 2) + self.position).mean(1))


def network(name: str) -> nn.Module:
    """A network of mwray by name, or "transformer"; for ten classes of 32x32 images."""
    return SmallTransformer(10) if name == "transformer" else MODELS[name](10, (3, 32, 32))


@dataclass(frozen=True)
class Task:
    """What a contender is given: its own copies of networks and optimisers, and the batches that all share."""

    model: nn.Module
    weight_net: nn.Module
    batch: tuple[Tensor, Tensor]
    meta: tuple[Tensor, Tensor]
    lr: float = 0.1
    sgd: dict[str, Any] = field(default_factory=dict)  # how PyTorch runs the classifier's optimiser: fused, foreach

    @classmethod
    def of(cls, name: str, batch: int, meta: int, device: str, channels_last: bool, **sgd: Any) -> Task:
        """Random images and labels, networks at their initial weights, all from one seed."""
        torch.manual_seed(0)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        model = network(name).to(device, memory_format=layout).train()
        pairs = [
            (torch.randn(n, 3, 32, 32, device=device).to(memory_format=layout), torch.randint(10, (n,), device=device))
            for n in (batch, meta)
        ]
        return cls(model, WeightNet("1-100-1").to(device), *pairs, sgd=sgd)

    def own(self) -> Task:
        """The same with networks of one's own."""
        return Task(copy.deepcopy(self.model), copy.deepcopy(self.weight_net), self.batch, self.meta, self.lr, self.sgd)

    def optimizer(self) -> torch.optim.Optimizer:
        """The paper's, for the classifier."""
        return torch.optim.SGD(self.model.parameters(), self.lr, momentum=0.9, weight_decay=5e-4, **self.sgd)

    def weight_optimizer(self) -> torch.optim.Optimizer:
        """The released code's, for the weight net."""
        return torch.optim.SGD(self.weight_net.parameters(), 1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def weighted_loss(self, losses: Tensor) -> Tensor:
        """Eq. 3 with the weights of Eq. 40, differentiable in the weight net."""
        values = self.weight_net(losses.detach())
        return (values / values.sum() * losses).sum()


def losses_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each sample, in float32 at least."""
    return F.cross_entropy(outputs.float() if outputs.dtype == torch.bfloat16 else outputs, targets, reduction="none")


@dataclass(frozen=True)
class Contender:
    """A way to take the step: `prepare(task)` gives the step; one call of it takes `steps` iterations."""

    name: str
    prepare: Callable[[Task], Step]
    steps: int = 1
    note: str = ""
    surroundings: Callable[[], AbstractContextManager[object]] = nullcontext


def math_attention() -> AbstractContextManager[object]:
    """Fused attention kernels have no second derivative."""
    return sdpa_kernel(SDPBackend.MATH)


def plain(task: Task) -> Step:
    """Training on the mean loss, one forward and one backward, PyTorch's own optimiser."""
    optimizer = task.optimizer()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        losses_of(task.model(task.batch[0]), task.batch[1]).mean().backward()
        optimizer.step()

    return step


def ours(**choices: Any) -> Callable[[Task], Step]:
    """`MetaWeightNet.step` with these choices; with `every` one call takes so many steps."""

    def prepare(task: Task) -> Step:
        learner = MetaWeightNet(
            task.model,
            task.optimizer(),
            task.weight_net,
            weight_optimizer=lambda parameters: task.weight_optimizer(),
            **choices,
        )

        def step() -> None:
            for _ in range(learner.every):
                learner.step(task.batch, task.meta)

        return step

    return prepare


def on_dual_numbers(task: Task) -> Step:
    """Ours with the general tangent pass, which computes the forward once more."""
    step = ours()(task)

    def patched() -> None:
        with mock.patch("mwray.meta.algorithm.record", lambda model, x, recompute: ForwardMode(model, x)):
            step()

    return patched


def double_backward(task: Task) -> Step:
    """As the authors' code does it, without its waste: gradients are taken for the weight net alone."""
    optimizer, weight_optimizer = task.optimizer(), task.weight_optimizer()
    theta = list(task.weight_net.parameters())
    parameters = dict(task.model.named_parameters())

    def meta_loss() -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in task.model.named_buffers()}
        losses = losses_of(functional_call(task.model, {**parameters, **buffers}, (task.batch[0],)), task.batch[1])
        slopes = torch.autograd.grad(task.weighted_loss(losses), list(parameters.values()), create_graph=True)
        ahead = {name: p - task.lr * g for (name, p), g in zip(parameters.items(), slopes, strict=True)}
        outputs = functional_call(task.model, {**ahead, **buffers}, (task.meta[0],))
        return losses_of(outputs, task.meta[1]).mean()

    def step() -> None:
        for parameter, slope in zip(theta, torch.autograd.grad(meta_loss(), theta), strict=True):
            parameter.grad = slope
        weight_optimizer.step()
        actual_step(task, optimizer)

    return step


def actual_step(task: Task, optimizer: torch.optim.Optimizer) -> None:
    """Eq. 5: a training step with the weight net as it now is, its gradient left alone."""
    losses = losses_of(task.model(task.batch[0]), task.batch[1])
    with torch.no_grad():
        values = task.weight_net(losses)
        eta = values / values.sum()
    optimizer.zero_grad(set_to_none=True)
    (eta * losses).sum().backward()
    optimizer.step()


CHEAP_ONE = {"every": 10, "order": "lagged", "layers": "top"}
CONTENDERS = [
    Contender("plain training", plain),
    Contender("mwray, exact", ours()),
    Contender("mwray, exact, all computed again", ours(recompute="all"), note="least memory"),
    Contender("mwray, exact, nothing computed again", ours(recompute="nothing"), note="two graphs at a time"),
    Contender("mwray, every=10", ours(every=10), 10, "the weight net moves in every tenth step"),
    Contender("mwray, lagged", ours(order="lagged"), note="the look-ahead is the real step"),
    Contender("mwray, top", ours(layers="top"), note="the virtual step moves the last stage alone"),
    Contender("mwray, lagged, top", ours(order="lagged", layers="top")),
    Contender("mwray, every=10, lagged, top", ours(**CHEAP_ONE), 10),
    Contender("mwray on dual numbers", on_dual_numbers, note="the fallback for models that the tape cannot follow"),
    Contender("double backward", double_backward, note="the oracle of the tests", surroundings=math_attention),
]

"""The optimisation steps of K methods as one computation: plain training, and Meta-Weight-Net by `mwray.meta` itself.

A stack holds copies of the trials' state, stacked. While it is at work, what the methods themselves hold is out of
date; `unload` brings it up to date, at the end of an epoch or when a trial leaves.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from mwray.data.loader import Batch
from mwray.meta.algorithm import MetaStep, State, iterate
from mwray.meta.gradient import cross_entropy
from mwray.methods.base import Method, Step
from mwray.methods.base_model import BaseModel
from mwray.methods.classifier import Classifier
from mwray.methods.mwnet import MWNet
from mwray.pack.network import StackedNetwork, stack_images
from mwray.pack.optim import stacked
from mwray.pack.weight_net import StackedWeightNet

Pair = tuple[Batch, Batch | None]


class Stack(Protocol):
    """K methods that step together; pairs and steps come in their order."""

    def __len__(self) -> int:
        """K."""

    def update(self, pairs: Sequence[Pair]) -> list[Step]:
        """Take one step of every method, each on its own batches."""

    def refresh(self) -> None:
        """Take over the learning rates that the methods have set."""

    def unload(self, row: int) -> None:
        """Bring the state of method `row` up to date."""


def kind(method: Method) -> Hashable | None:
    """Methods of equal kinds, on equal networks and batch sizes, can be stacked; None: this one's step cannot.

    It can change from epoch to epoch: Meta-Weight-Net's warm-up is plain training.
    """
    if isinstance(method, BaseModel) or (isinstance(method, MWNet) and method.warming):
        return ("plain", *_optimizer(method.classifier.optimizer))
    if not isinstance(method, MWNet):
        return None
    meta = method.meta
    return (
        "weighted",
        meta.rule,
        meta.state.aligned,
        *_optimizer(method.classifier.optimizer),
        *_optimizer(meta.weight_optimizer),
    )


def phase(method: Method) -> tuple[int, int] | None:
    """Steps from one move of the weight net to the next, and how many of them are behind; None: nothing to wait for."""
    if not isinstance(method, MWNet) or method.warming or method.meta.every == 1:
        return None
    return method.meta.every, method.meta.steps % method.meta.every


def stack(methods: Sequence[Method]) -> Stack:
    """Put methods of one `kind` together.

    Raises:
        ValueError: their networks are of different makes.
    """
    if isinstance(methods[0], MWNet) and not methods[0].warming:
        return WeightedStack([cast(MWNet, method) for method in methods])
    return PlainStack([cast(BaseModel | MWNet, method).classifier for method in methods])


def _optimizer(optimizer: torch.optim.Optimizer) -> tuple[Any, ...]:
    """What has to be alike in the optimisers of one stack: everything but the rates."""
    group = optimizer.param_groups[0]
    return type(optimizer), *(group.get(name) for name in ("nesterov", "betas", "eps"))


class PlainStack:
    """BaseModel's step: along the gradient of the mean cross-entropy."""

    def __init__(self, classifiers: Sequence[Classifier]) -> None:
        self._classifiers = classifiers
        self.network = StackedNetwork([classifier.network for classifier in classifiers])
        self._parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = stacked(self._parameters, [classifier.optimizer for classifier in classifiers])

    def __len__(self) -> int:
        return len(self._classifiers)

    def update(self, pairs: Sequence[Pair]) -> list[Step]:
        """Take one step of every network."""
        x, y = _together([batch for batch, _ in pairs])
        logits = self.network.train()(x)
        losses = losses_of(logits, y)
        gradients = torch.autograd.grad(
            losses.mean(1).sum(), self._parameters, allow_unused=True, materialize_grads=True
        )
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        return [Step(*shown) for shown in zip(logits.detach(), losses.detach(), strict=True)]

    def refresh(self) -> None:
        """Take over the learning rates."""
        self.optimizer.set_rates([classifier.optimizer for classifier in self._classifiers])

    def unload(self, row: int) -> None:
        """Bring network and momentum of classifier `row` up to date."""
        self.network.unload(row, self._classifiers[row].network)
        self.optimizer.unload(row, self._classifiers[row].optimizer)


class WeightedStack:
    """Meta-Weight-Net's step: `mwray.meta.algorithm.iterate` on losses [K, n].

    Where some of the methods move their weight net in a step and others do not (`meta.every`), all pay for it.
    """

    def __init__(self, methods: Sequence[MWNet]) -> None:
        self._methods = methods
        classifiers = [method.classifier for method in methods]
        self.network = StackedNetwork([classifier.network for classifier in classifiers])
        trained = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        self.optimizer = stacked(list(trained.values()), [classifier.optimizer for classifier in classifiers])
        self.weight_net = StackedWeightNet([cast(Any, method.meta.weight_net) for method in methods])
        self.weight_optimizer = stacked(
            list(self.weight_net.parameters()),
            [method.meta.weight_optimizer for method in methods],
            self.weight_net.views,
            self.weight_net.masks,
        )
        first = methods[0].meta
        self.state = State(
            self.network,
            self.optimizer,
            self.weight_net,
            self.weight_optimizer,
            trained,
            tuple(f"held.{name}" for name in first.state.aligned),
            torch.stack([method.meta.state.meta_loss for method in methods]),
        )
        self.rule = replace(first.rule, criterion=losses_of)
        self._worker = first.worker

    def __len__(self) -> int:
        return len(self._methods)

    def update(self, pairs: Sequence[Pair]) -> list[Step]:
        """Take one step of every method."""
        learning = [method.meta.learns for method in self._methods]
        meta = _together([cast(Batch, meta) for _, meta in pairs]) if any(learning) else None
        before = self.state.meta_loss.clone()
        self.weight_optimizer.select(learning)
        step = iterate(self.state, self.rule, _together([batch for batch, _ in pairs]), meta, self._worker)
        if not all(learning):
            mask = torch.tensor(learning, device=before.device)
            self.state.meta_loss.copy_(torch.where(mask, self.state.meta_loss, before))
        shown = []
        for row, method in enumerate(self._methods):
            method.meta.steps += 1
            shown.append(method.show(self._of(step, row, learning[row])))
        return shown

    def refresh(self) -> None:
        """Take over the learning rates."""
        self.optimizer.set_rates([method.classifier.optimizer for method in self._methods])
        self.weight_optimizer.set_rates([method.meta.weight_optimizer for method in self._methods])

    def unload(self, row: int) -> None:
        """Bring networks and optimisers of method `row` up to date."""
        method = self._methods[row]
        self.network.unload(row, method.classifier.network)
        self.optimizer.unload(row, method.classifier.optimizer)
        self.weight_net.unload(row, method.meta.weight_net)
        self.weight_optimizer.unload(row, method.meta.weight_optimizer)
        method.meta.state.meta_loss.copy_(self.state.meta_loss[row])

    def _of(self, step: MetaStep, row: int, learnt: bool) -> MetaStep:
        """Trial `row`'s part of what K trials saw."""
        return MetaStep(
            step.logits[row],
            step.losses[row],
            step.values[row],
            step.weights[row],
            self.state.meta_loss[row].clone(),
            None if step.alignment is None or not learnt else step.alignment[row],
        )


def losses_of(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy [K, n] of logits [K, n, C] against classes [K, n]."""
    return cross_entropy(logits.flatten(0, 1), y.flatten()).view(y.shape)


def _together(batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """Images [K, n, C, H, W] and labels [K, n]."""
    return stack_images([batch.x for batch in batches]), torch.stack([batch.y for batch in batches])

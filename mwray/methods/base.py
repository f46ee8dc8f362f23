"""The contract of a method: two verbs, `update` and `predict`; the training loop knows nothing else of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mwray.data.loader import Batch
from mwray.data.splits import Splits
from mwray.worker import Worker


@dataclass(frozen=True)
class Setup:
    """What a method is given to build itself from."""

    splits: Splits
    worker: Worker
    epochs: int
    steps_per_epoch: int
    seed: int
    make_model: Callable[[str], nn.Module]
    """A fresh network on the training device; same name, same initial weights ("init" for the first one)."""
    make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    learning_rate: Callable[[int], float]
    """Learning rate of the classifier during an epoch (counted from 0)."""
    on_device: bool | None = None
    """Whether optimisers of the method's own keep all that changes on the device (`mwray.optim.sgd`)."""


@dataclass(frozen=True)
class Step:
    """What one optimisation step shows: tensors on the training device, detached, never synchronised here."""

    logits: Tensor  # [B, C] of the training batch, before the step
    losses: Tensor  # [B] cross-entropy (or the method's own loss) of each training sample, before the step
    weights: Tensor | None = None  # [B] each sample's weight in the step, any scale; None: the method does not weight
    scalars: Mapping[str, Tensor] = field(default_factory=dict)  # further [] values, averaged over the epoch


class Method(ABC):
    """A way of training on biased labels. Abstract or final: nobody subclasses a concrete method."""

    needs_meta: bool = False
    """Whether `update` needs a meta batch: the loop refuses an experiment without meta images before it starts."""

    @abstractmethod
    def update(self, batch: Batch, meta: Batch | None) -> Step:
        """Take one optimisation step on this worker's share of a training batch (and of a meta batch)."""

    @abstractmethod
    def predict(self, x: Tensor) -> Tensor:
        """Logits [B, C] of images [B, C, H, W] in evaluation mode."""

    def epoch_start(self, epoch: int) -> None:  # noqa: B027 - most methods need nothing here
        """Called before the first step of `epoch` (counted from 0): schedules, changes of phase."""

    def capture_key(self) -> Hashable | None:
        """Which computation the next `update` is; None, the default: one that must be run from Python.

        Updates of equal keys promise to queue the same work in the same memory, whatever the batch holds, so that a
        captured CUDA graph of one of them serves for all: state is changed in place (`self.t.copy_(x)`, not `self.t =
        x`), nothing is read from the device or made from numbers of the host (`torch.tensor`), and numbers of the host
        that enter the computation are part of the key. Optimisers come from `mwray.optim`, rates by its `set_rate`.
        """
        return None

    def replayed(self) -> None:  # noqa: B027
        """Called after an update that a graph took: what `update` would have counted on the host."""

    def moving(self) -> Any:
        """The part of `state` that `update` reads or writes, in place: graphs of memory that was left are dropped."""
        return self.state()

    def epoch_end(self, epoch: int) -> None:  # noqa: B027
        """Called after the last step of `epoch`, before it is evaluated and saved."""

    def findings(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """What only this method knows, asked once per epoch after `epoch_end`: numbers and arrays by name.

        Numbers are recorded as "method.<name>" and drawn over epochs in method.png: one whose name ends in "_epoch" is
        an epoch at which something happened (0: not yet), drawn as a line, and so is a rise of "phase". Arrays go to
        the sinks as "method.<name>" (a [C, C] array whose name begins with "transition" is drawn as a transition
        matrix, true classes in rows).
        """
        return {}, {}

    def curve(self) -> Callable[[Tensor], Tensor] | None:
        """The weight of a loss, [N] -> [N], where the method has such a function; it is drawn every epoch."""
        return None

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Everything that a resume needs, as tensors, numbers, strings and nested dicts and lists of them."""

    @classmethod
    def predicting(cls, state: Mapping[str, Any]) -> dict[str, Tensor]:
        """Of what `state` returned, parameters and buffers of the network that `predict` asks.

        By default those of `classifier`; a method that keeps them elsewhere says where.
        """
        network: dict[str, Tensor] = state.get("classifier", state)["network"]
        return network

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""

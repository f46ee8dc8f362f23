"""A frozen weight net: training with weights that were learned on other data (Shu et al. 2019, section 4.4)."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from mwray.config import ConfigError
from mwray.data.loader import Batch
from mwray.meta.gradient import cross_entropy
from mwray.meta.weights import weigh
from mwray.methods.base import Method, Setup, Step
from mwray.methods.classifier import Classifier
from mwray.methods.learned_weight_net import LearnedWeightNet, WeightNetError
from mwray.methods.settings import FrozenSettings
from mwray.models.class_weight_net import ClassWeightNet


@final
class Frozen(Method):
    """Steps along sum_i eta_i L_i with eta from a weight net that does not move; no clean image is used.

    Losses go in as they are, although more classes mean larger ones (ln C at the start): the paper scales nothing. The
    share of losses above all that the weight net was learned on is recorded as "method.share_above_range".

    Raises:
        ConfigError: the file is missing, damaged or something else, or it has changed since the run began.
    """

    def __init__(self, settings: FrozenSettings, setup: Setup) -> None:
        self.settings, self.setup = settings, setup
        self.classifier = Classifier(setup)
        self.learned = _learned(settings)
        if self.learned.classes not in (None, setup.splits.num_classes):
            raise ConfigError(
                f"method.file: {settings.file} tells {self.learned.classes} classes apart, and the data has "
                f"{setup.splits.num_classes}; take a weight net that was learned with "
                "method.weight_net.conditioning=none, which sees losses alone"
            )
        self.weight_net = self._weight_net(0)

    def epoch_start(self, epoch: int) -> None:
        """Set the learning rate; with use="trajectory", take the weight net of as far through the source's run."""
        self.classifier.start_epoch(epoch)
        self.weight_net.load_state_dict(self._weight_net(epoch).state_dict())

    def update(self, batch: Batch, meta: Batch | None) -> Step:
        """The actual step of Algorithm 1 alone."""
        logits = self.classifier.forward(batch.x)
        losses = cross_entropy(logits, batch.y)
        settings = self.settings
        weights = weigh(self._weights(losses.detach(), batch.y), settings.weight_map, settings.tau, self.setup.worker)
        weighted = (weights.eta * losses).sum()
        self.classifier.descend(weighted)
        scalars = {"weighted_loss": weighted.detach()}
        if self.learned.loss_range is not None:
            above = losses.detach() > self.learned.loss_range[1]
            scalars["method.share_above_range"] = above.float().mean()
        return Step(logits.detach(), losses.detach(), weights.values, scalars)

    def capture_key(self) -> Hashable:
        """Always the same step: the weight net of an epoch takes the place of the last one."""
        return "step"

    def epoch_end(self, epoch: int) -> None:
        """Agree on running statistics."""
        self.classifier.agree()

    def predict(self, x: Tensor) -> Tensor:
        """Logits [B, C]."""
        return self.classifier.predict(x)

    def curve(self) -> Callable[[Tensor], Tensor]:
        """The weight function in use; of one that tells classes apart, the mean over classes."""
        net = self.weight_net
        if isinstance(net, ClassWeightNet):
            return lambda losses: net.all_classes(losses).mean(1)
        return net

    def state(self) -> dict[str, Any]:
        """Network and optimiser, and the weight net to know it again."""
        return {"classifier": self.classifier.state(), "weight_net": self.learned.parameters}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        if not torch.equal(state["weight_net"].cpu(), self.learned.parameters):
            raise ConfigError(
                f"method.file: {self.settings.file} holds another weight net than when this run began; bring the "
                "former back, or start a run with a file of another name"
            )
        self.classifier.restore(state["classifier"])

    def _weight_net(self, epoch: int) -> torch.nn.Module:
        progress = epoch / self.setup.epochs if self.settings.use == "trajectory" else None
        try:
            return self.learned.build(progress).to(self.setup.worker.device)
        except WeightNetError as error:
            raise ConfigError(f"method.use: 'trajectory' cannot be had from {self.settings.file}: {error}") from error

    def _weights(self, losses: Tensor, classes: Tensor) -> Tensor:
        net = self.weight_net
        return net(losses, classes) if isinstance(net, ClassWeightNet) else net(losses)


def _learned(settings: FrozenSettings) -> LearnedWeightNet:
    if settings.file is None:
        assert settings.shape is not None and settings.parameters is not None
        try:
            return LearnedWeightNet(settings.shape, torch.tensor(settings.parameters, dtype=torch.float32))
        except ValueError as error:
            raise ConfigError(f"method.parameters or method.shape: {error}") from error
    try:
        return LearnedWeightNet.from_text(_find(settings.file).read_text())
    except (WeightNetError, ConfigError, OSError, UnicodeDecodeError) as error:
        why = (isinstance(error, OSError) and error.strerror) or error  # the rest would name the file again
        raise ConfigError(f"method.file: {settings.file} cannot be used: {why}") from error


def _find(file: str) -> Path:
    """The file as it is named, or of that name in a folder of $MWRAY_WEIGHT_NETS.

    So an experiment that names a file by its content alone is the same one on every machine.
    """
    folders = [part for part in os.environ.get("MWRAY_WEIGHT_NETS", "").split(os.pathsep) if part]
    return next((path for path in (Path(folder) / file for folder in folders) if path.exists()), Path(file))

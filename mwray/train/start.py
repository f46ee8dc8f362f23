"""Where a training starts: fresh networks, or weights learned elsewhere and images normalised as those want it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mwray.config import ConfigError
from mwray.data.splits import Splits
from mwray.errors import UserError
from mwray.experiment import Experiment
from mwray.methods.registry import METHODS
from mwray.models import libraries, registry, weights
from mwray.models.half import Bfloat16
from mwray.models.settings import Model
from mwray.models.sync_batch_norm import synchronized
from mwray.seeding import key
from mwray.train import checkpoint
from mwray.train.classifier import newest, run_in
from mwray.worker import Worker

logger = logging.getLogger("mwray")

PRETRAINED = "pretrained"
FIRST = "init"
"""Name of the network that every method starts from (`Classifier`)."""


@dataclass(frozen=True)
class Given:
    """Weights learned elsewhere."""

    state: dict[str, Tensor]  # on the CPU
    origin: str  # in words
    statistics: libraries.Statistics | None  # mean and deviation of the images that they were learned on, if known
    missing: ConfigError | None = None
    """Why there is no `state`: a run goes on from its checkpoint without, as long as no network starts anew."""


def given(model: Model, folder: Path) -> Given | None:
    """The weights that `model.weights` names, or None where networks start fresh.

    Once the run in `folder` has a checkpoint they need not be there any more.

    Raises:
        ConfigError: they are not there, or cannot be used.
    """
    if model.weights is None:
        return None
    try:
        return _found(model, model.weights)
    except ConfigError as error:
        content = checkpoint.latest(folder, torch.device("cpu"))
        if content is None or "images" not in content:
            raise
        return Given({}, "the checkpoint", _statistics(content), error)


def _found(model: Model, name: str) -> Given:
    if name == PRETRAINED:
        return _published(model.name)
    path = Path(name).expanduser()
    if path.is_dir():
        return _of_run(path)
    if not path.is_file():
        raise ConfigError(
            f"model.weights: {name!r} is neither {PRETRAINED!r} nor a file or folder on this machine; give a "
            f"{' or '.join(weights.ENDINGS)} file with a state dict, or the folder of a run"
        )
    state = weights.read(path)
    if model.name.startswith("torchvision:"):
        state = libraries.modern(state)
    return Given(state, str(path), libraries.statistics(model.name))


def _published(name: str) -> Given:
    if not name.startswith(libraries.PREFIXES):
        raise ConfigError(
            f"model.weights: 'pretrained' are weights that torchvision or timm publish, and model.name is {name!r}; "
            "choose 'torchvision:NAME' or 'timm:NAME', or give a file or the folder of a run"
        )
    state = libraries.modern(libraries.published(name))
    return Given(state, f"the weights that {name.partition(':')[0]} publishes", libraries.statistics(name))


def _of_run(folder: Path) -> Given:
    try:
        experiment, content = newest(run_in(folder), torch.device("cpu"))
    except UserError as error:
        raise ConfigError(f"model.weights: {error}") from error
    state = METHODS[experiment.method.name].predicting(content["method"])
    known = _statistics(content) if "images" in content else None
    return Given(state, f"the run in {folder}, epoch {content['epoch']}", known)


def _statistics(content: dict[str, Any]) -> libraries.Statistics:
    return tuple(content["images"]["mean"]), tuple(content["images"]["std"])


def normalised(splits: Splits, normalization: str, start: Given | None) -> Splits:
    """`splits` with the mean and deviation that `data.normalization` asks for.

    Weights learned elsewhere know images normalised in their way. The first layers of a pretrained network would see
    other brightness and contrast than they were made for if the images were brought to the statistics of their own
    data, as all other images are here; fine-tuning takes that up, but at the cost of steps.

    Raises:
        ConfigError: ImageNet's are asked for, and the data are feature vectors.
    """
    if normalization == "imagenet" and len(splits.shape) == 1:
        raise ConfigError(
            "data.normalization: 'imagenet' is for images, and the data are feature vectors; choose 'data'"
        )
    wanted: libraries.Statistics | None = libraries.IMAGENET if normalization == "imagenet" else None
    if normalization == "auto" and start is not None:
        wanted = start.statistics
    if wanted is None or (len(splits.shape) == 1 and len(wanted[0]) != len(splits.mean)):
        return splits
    mean, std = (_channels(values, len(splits.mean)) for values in wanted)
    return replace(splits, mean=mean, std=std)


def _channels(values: Sequence[float], count: int) -> tuple[float, ...]:
    """Of three channels, for grey images, the mean; of one, for coloured ones, the same for each."""
    return tuple(values) if len(values) == count else (sum(values) / len(values),) * count


class Networks:
    """Makes the networks of a training: call it with a name, and equal names get equal initial weights."""

    def __init__(
        self, experiment: Experiment, splits: Splits, worker: Worker, layout: torch.memory_format, start: Given | None
    ) -> None:
        self.experiment, self.splits, self.worker, self.layout, self.start = experiment, splits, worker, layout, start
        self.said: str | None = None  # what became of the weights that were given
        self._made: set[str] = set()

    def __call__(self, name: str) -> nn.Module:
        """A network on the training device. What is fresh depends on seed and `name`, and is drawn on the CPU."""
        torch.manual_seed(key(self.experiment.seed, "network", name))
        model = self.experiment.model
        network = registry.build(model, self.splits.num_classes, self.splits.shape)
        if self.start is not None:
            self._begin(network, self.start, name)
        network = network.to(self.worker.device)
        if model.batch_norm == "synchronized":
            network = synchronized(network, self.worker)
        network = Bfloat16(network) if self.experiment.precision == "bf16" else network
        return network.to(memory_format=self.layout)

    def _begin(self, network: nn.Module, start: Given, name: str) -> None:
        if start.missing is not None:
            if name in self._made:  # a second phase
                raise start.missing
            self._made.add(name)
            return  # the checkpoint comes
        # Two networks that begin alike and see the same batches stay alike, and then teach each other nothing.
        said = weights.put(network, start.state, self.splits.num_classes, start.origin, head=name == FIRST)
        if self.said is None and self.worker.rank == 0:
            logger.info(said)
        self.said = self.said or said

"""A run's classifier for use: raw images or features in, logits out, with nothing of its training beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mwray.config import fingerprint, fingerprint_of, read
from mwray.data.loader import factors, normalised
from mwray.data.splits import Splits, split
from mwray.errors import UserError
from mwray.experiment import Experiment
from mwray.methods.registry import METHODS
from mwray.models.half import Bfloat16
from mwray.models.registry import build
from mwray.records import RecordError, Run
from mwray.train import checkpoint
from mwray.train.execution import Execution, precision, random_state_of_caller
from mwray.worker import usable


class InputError(UserError, ValueError):
    """Images or feature vectors that a classifier does not take."""


class TrainedClassifier(nn.Module):
    """The network by which a run's method predicts, on images or feature vectors as data sets hold them.

    As `load` gives it, it is in evaluation mode and its parameters take no gradient, so no call keeps a graph.
    """

    classes: tuple[str, ...]
    """Names of the C classes, in the order of the logits."""
    shape: tuple[int, ...]
    """Channels, height and width of an image, or the number D of features of a vector."""
    epoch: int
    """Epochs of training that it has seen."""
    first: Tensor
    second: Tensor
    """What the normalisation computes with (`mwray.data.loader.factors`)."""

    def __init__(self, network: nn.Module, images: Mapping[str, Any], epoch: int, multiply: str = "fp32") -> None:
        """Put the normalisation that `images` holds (as `described` gives it) before `network`.

        `multiply` is the experiment's precision.
        """
        super().__init__()
        self.classes, self.shape, self.epoch = tuple(images["classes"]), tuple(images["shape"]), epoch
        self.network, self.multiply = network, multiply
        self.layout = Execution.from_environment().layout(self.shape)
        first, second = factors(images["mean"], images["std"], self.shape)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)

    @property
    def takes(self) -> str:
        """What it is called with, in words: type and shape."""
        if len(self.shape) == 1:
            return f"float32 (or float16, float64) [N, {self.shape[0]}], not normalised"
        return f"uint8 [N, {', '.join(map(str, self.shape))}], pixels from 0 to 255"

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """The types that it takes."""
        return (torch.float32, torch.float16, torch.float64) if len(self.shape) == 1 else (torch.uint8,)

    def forward(self, images: Any) -> Tensor:
        """Logits [N, C], on the classifier's device, of images uint8 [N, channels, height, width], pixels 0 to 255.

        Of a classifier of feature vectors: of features float32 [N, D] as they were given to the training, not
        normalised; float16 and float64 are rounded to float32, as they were there.

        They are a tensor on any device, or an array. All are computed at once: of many, give some hundreds at a time.

        Raises:
            InputError: they are of another type or shape.
        """
        given = torch.as_tensor(images)
        if given.dtype not in self.dtypes or tuple(given.shape[1:]) != self.shape:
            kind = "features" if len(self.shape) == 1 else "images"
            found = f"{str(given.dtype).removeprefix('torch.')} {list(given.shape)}"
            raise InputError(f"{kind} are {found}; this classifier takes {self.takes}")
        given = given.to(self.first.device)
        if len(self.shape) == 1:
            given = given.float()
        with precision(self.multiply):
            logits: Tensor = self.network(normalised(given, self.first, self.second, self.layout))
        return logits


def load(folder: Path | str, device: torch.device | str | None = None) -> TrainedClassifier:
    """The classifier of the run in `folder`, finished or not, from its newest whole checkpoint, in evaluation mode.

    It gives the very logits of the run's own evaluations: of a method of several networks those of the one that it
    predicts with. The data set is not needed, except by checkpoints of before there was `load`.

    Args:
        folder: of a run, or of a search: its best trial.
        device: where to compute; default: the GPU if there is one.

    Raises:
        RecordError: the folder holds no run, or no whole checkpoint of it, or its network has changed since.
        ConfigError: a network of your own (`model.name`) cannot be imported.
        DeviceError: there is no such device.
    """
    folder, place = run_in(Path(folder)), usable(device)
    experiment, state = newest(folder, place)
    images = state.get("images") or described(split(experiment.data, experiment.seed))
    with random_state_of_caller(place):
        network = build(experiment.model, len(images["classes"]), tuple(images["shape"]))
    if experiment.precision == "bf16":
        network = Bfloat16(network)
    try:
        network.load_state_dict(METHODS[experiment.method.name].predicting(state["method"]))
    except RuntimeError as error:
        raise RecordError(
            f"{folder}: its checkpoint does not fit the network {experiment.model.name!r}, which has changed since "
            f"({' '.join(str(error).split())[:200]})"
        ) from None
    classifier = TrainedClassifier(network, images, int(state["epoch"]), experiment.precision)
    classifier = classifier.to(place).eval().requires_grad_(False)
    network.to(memory_format=classifier.layout)
    return classifier


def run_in(folder: Path) -> Path:
    """`folder`, or where a search has its best trial if `folder` is that of a search.

    Raises:
        RecordError: the search's best.json is not readable.
    """
    best = folder / "best.json"
    if (folder / "experiment.json").exists() or not best.exists():
        return folder
    try:
        return folder / str(json.loads(best.read_text())["folder"])
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{best}: names no trial's folder ({error!r})") from None


def newest(folder: Path, device: torch.device) -> tuple[Experiment, dict[str, Any]]:
    """The experiment of the run in `folder`, and the content of its newest whole checkpoint, on `device`.

    Raises:
        RecordError: the folder holds no run, or no checkpoint of it.
    """
    stored = Run(folder).experiment()
    experiment = read(Experiment, stored)
    state = checkpoint.latest(folder, device)
    if state is None or state["experiment"] not in (fingerprint_of(stored), fingerprint(experiment)):
        raise RecordError(f"{folder}: no whole checkpoint of this run is there; train it again to get one")
    return experiment, state


def described(splits: Splits) -> dict[str, Sequence[Any]]:
    """What a classifier has to know of its images or vectors, in plain values: kept in every checkpoint."""
    return {
        "classes": list(splits.class_names),
        "shape": list(splits.shape),
        "mean": list(splits.mean),
        "std": list(splits.std),
    }

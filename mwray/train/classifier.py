"""A run's classifier for use: raw images in, logits out, with nothing of its training beside it."""

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


class ImageError(UserError, ValueError):
    """Images that a classifier does not take."""


class TrainedClassifier(nn.Module):
    """The network by which a run's method predicts, on images as data sets hold them.

    As `load` gives it, it is in evaluation mode and its parameters take no gradient, so no call keeps a graph.
    """

    classes: tuple[str, ...]
    """Names of the C classes, in the order of the logits."""
    shape: tuple[int, int, int]
    """Channels, height and width of an image."""
    epoch: int
    """Epochs of training that it has seen."""
    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, images: Mapping[str, Any], epoch: int, multiply: str = "fp32") -> None:
        """Put the normalisation that `images` holds (as `described` gives it) before `network`.

        `multiply` is the experiment's precision.
        """
        super().__init__()
        channels, height, width = images["shape"]
        self.classes, self.shape, self.epoch = tuple(images["classes"]), (channels, height, width), epoch
        self.network, self.multiply = network, multiply
        self.layout = Execution.from_environment().layout()
        scale, shift = factors(images["mean"], images["std"])
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, images: Any) -> Tensor:
        """Logits [N, C], on the classifier's device, of images uint8 [N, channels, height, width], pixels 0 to 255.

        Images are a tensor on any device, or an array. All are computed at once: of many, give some hundreds at a time.

        Raises:
            ImageError: they are of another type or shape.
        """
        pixels = torch.as_tensor(images)
        if pixels.dtype != torch.uint8 or pixels.dim() != 4 or tuple(pixels.shape[1:]) != self.shape:
            given = f"{str(pixels.dtype).removeprefix('torch.')} {list(pixels.shape)}"
            wanted = ", ".join(map(str, self.shape))
            raise ImageError(f"images are {given}; this classifier takes uint8 [N, {wanted}], pixels from 0 to 255")
        with precision(self.multiply):
            logits: Tensor = self.network(normalised(pixels.to(self.scale.device), self.scale, self.shift, self.layout))
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
    """What a classifier has to know of its images, in plain values: kept in every checkpoint."""
    return {
        "classes": list(splits.class_names),
        "shape": list(splits.shape),
        "mean": list(splits.mean),
        "std": list(splits.std),
    }

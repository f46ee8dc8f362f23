"""Trials on random images: methods and batches as the loop has them, without data sets to download."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mwray.config import override
from mwray.data.loader import Batch, Loader
from mwray.data.splits import Splits, Subset
from mwray.experiment import Experiment
from mwray.methods import registry
from mwray.methods.base import Method, Setup
from mwray.models.registry import build as build_model
from mwray.seeding import key, rng
from mwray.worker import LocalWorker

CLASSES = 10
META = 1000
"""Images of the meta set."""


@dataclass(frozen=True)
class Trial:
    """A method at the start of an epoch, and endless batches for it."""

    method: Method
    batches: Iterator[tuple[Batch, Batch]]
    splits: Splits


def random_splits(shape: tuple[int, int, int], size: int, seed: int) -> Splits:
    """`size` training images and `META` meta images of noise."""
    sets = [_noise(shape, count, rng(seed, "noise", count)) for count in (size, META, 1, 1)]
    channels = shape[0]
    return Splits(
        *sets,
        class_names=tuple(map(str, range(CLASSES))),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        transition=torch.eye(CLASSES, dtype=torch.float64),
        augmentable=channels == 3,
    )


def trial(
    network: str,
    shape: tuple[int, int, int],
    *,
    seed: int = 0,
    method: str = "mwnet",
    batch: int = 100,
    meta_batch: int = 100,
    size: int = 2000,
    device: str = "cpu",
    **settings: object,
) -> Trial:
    """A trial of `method`; `settings` are further fields of the experiment by dotted name."""
    experiment = override(Experiment(), {"method.name": method, "model.name": network, **settings})
    splits, worker = random_splits(shape, size, seed), LocalWorker(device)

    def make_model(name: str) -> torch.nn.Module:
        torch.manual_seed(key(seed, "network", name))
        return build_model(experiment.model, CLASSES, shape).to(device)

    setup = Setup(
        splits=splits,
        worker=worker,
        epochs=experiment.epochs,
        steps_per_epoch=size // batch,
        seed=seed,
        make_model=make_model,
        make_optimizer=experiment.optimizer.build,
        learning_rate=experiment.learning_rate,
    )
    built = registry.build(experiment.method, setup)
    built.epoch_start(0)
    loaders = [Loader(subset, splits, worker.device, augment=True) for subset in (splits.train, splits.meta)]
    cycles = [
        loader.cycle(count, rng(seed, "order", count), rng(seed, "crop", device=worker.device))
        for loader, count in zip(loaders, (batch, meta_batch), strict=True)
    ]
    return Trial(built, zip(*cycles, strict=False), splits)


def _noise(shape: tuple[int, int, int], count: int, generator: torch.Generator) -> Subset:
    images = torch.randint(256, (count, *shape), generator=generator, dtype=torch.uint8)
    observed, true = torch.randint(CLASSES, (2, count), generator=generator)
    return Subset(images, observed, true, torch.arange(count))

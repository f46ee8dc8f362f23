"""What a method is built from, small: a few digits and a perceptron, without the loop."""

from __future__ import annotations

from functools import partial

import torch

from mwray.data.loader import Batch
from mwray.data.settings import Bias, Data
from mwray.data.splits import split
from mwray.methods import registry
from mwray.methods.base import Method, Setup
from mwray.methods.images import training_batches
from mwray.models.registry import build as build_model
from mwray.models.settings import Model
from mwray.optim import SGD
from mwray.seeding import key
from mwray.worker import LocalWorker


def make_setup(
    num_train: int | None = 200,
    noise: str = "uniform",
    rate: float = 0.4,
    imbalance: float = 1.0,
    model: str = "mlp",
    epochs: int = 4,
    seed: int = 0,
    worker: LocalWorker | None = None,
    **optimizer,
) -> Setup:
    """A setup as the loop makes it."""
    bias = Bias(noise=noise, rate=rate, imbalance=imbalance)
    splits = split(Data(source="digits", num_meta=50, num_train=num_train, num_test=100, bias=bias), seed)
    schedule = SGD(**{"lr": 0.1, **optimizer})

    def make_model(name: str) -> torch.nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(key(seed, "network", name))
            return build_model(Model(name=model), splits.num_classes, splits.shape)

    return Setup(
        splits=splits,
        worker=worker or LocalWorker("cpu"),
        epochs=epochs,
        steps_per_epoch=4,
        seed=seed,
        make_model=make_model,
        make_optimizer=schedule.build,
        learning_rate=partial(schedule.learning_rate, epochs=epochs),
    )


def batches(setup: Setup, size: int = 50, count: int = 4) -> list[Batch]:
    """The first images of the training set."""
    return list(training_batches(setup, torch.arange(size * count), size))


def started(settings, setup: Setup, epoch: int = 0) -> Method:
    """A method at the start of `epoch`."""
    method = registry.build(settings, setup)
    method.epoch_start(epoch)
    return method


def parameters(network: torch.nn.Module) -> torch.Tensor:
    """All parameters in one vector, detached."""
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def same(a: object, b: object) -> bool:
    """Whether two nested states hold the same bits (NaN, which marks what was not seen, equals NaN)."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    return a == b

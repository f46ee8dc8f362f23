"""One iteration of the loop, from the draw to what it showed: eagerly, or as a captured graph of its kind."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import torch
from torch import Tensor

from mwray.config import ConfigError
from mwray.data.loader import Batch, Loader, check_divides, check_shares_of_meta
from mwray.experiment import Experiment
from mwray.methods.base import Method
from mwray.methods.registry import METHODS
from mwray.seeding import rng
from mwray.train.execution import VARIABLE, Execution
from mwray.train.graphs import CudaCapture, Graphs
from mwray.train.tracker import Tracker
from mwray.worker import Worker

Draws = tuple[Tensor, ...]
"""What a training batch is drawn from, and its meta batch where the method learns from one (`Loader.draws`)."""
Pair = tuple[Batch, Batch | None]
"""A training batch, with its meta batch where the method learns from one."""


class Iteration:
    """Takes the batches, updates the method and tells the tracker: one piece of device work without a wait in it."""

    def __init__(self, train: Loader, meta: Loader, method: Method, tracker: Tracker, graphs: Graphs | None) -> None:
        self._train, self._meta, self._method, self._tracker = train, meta, method, tracker
        self.graphs = graphs
        self._names: dict[Hashable, list[str]] = {}  # of what each kind of iteration shows
        self._last: list[str] = []

    def start_epoch(self) -> None:
        """Drop the graphs of memory that the method has left: to be called after its `epoch_start`."""
        if self.graphs is not None:
            self.graphs.settle(self._method.moving)

    def take(self, draws: Draws) -> Pair:
        """The batches that `draws` say."""
        return self._train.take(draws[0]), self._meta.take(draws[1]) if len(draws) > 1 else None

    def __call__(self, draws: Draws) -> None:
        """Take one step."""
        key = None if self.graphs is None else self._method.capture_key()
        if self.graphs is None or key is None:
            self._work(*draws)
        elif self.graphs.run(key, self._work, draws):
            self._method.replayed()
            self._tracker.count(draws[0].shape[1], self._names[key])
        else:
            self._names[key] = self._last

    def _work(self, *draws: Tensor) -> None:
        batch, meta = self.take(draws)
        self._last = self._tracker.add(batch, self._method.update(batch, meta))


def check_shares(experiment: Experiment, size: int) -> None:
    """Refuse, with ConfigError, batches that `size` workers cannot share: before any of them has started."""
    check_divides("batch_size", experiment.batch_size, size)
    if METHODS[experiment.method.name].needs_meta:
        check_shares_of_meta(experiment.meta_batch_size, experiment.data.num_meta, size)


def draws_of(experiment: Experiment, worker: Worker, train: Loader, meta: Loader | None, epoch: int) -> Iterator[Draws]:
    """The draws of an epoch's iterations, with those of their meta batches if `meta` is given."""

    def generators(order: str, crop: str) -> tuple[torch.Generator, torch.Generator]:
        return rng(experiment.seed, order, epoch), rng(experiment.seed, crop, epoch, device=worker.device)

    rank, size = worker.rank, worker.size
    draws = train.draws(experiment.batch_size, *generators("order", "augment"), rank, size)
    if meta is None:
        return zip(draws, strict=True)
    metas = meta.cycle_draws(experiment.meta_batch_size, *generators("meta-order", "meta-augment"), rank, size)
    return zip(draws, metas, strict=False)


def graphs_for(execution: Execution, worker: Worker, on_device: bool = True) -> Graphs | None:
    """The graphs of a training, or None where it is to run eagerly, as with images that are not `on_device`.

    Raises:
        ConfigError: graphs are asked for where there can be none.
    """
    possible = worker.device.type == "cuda" and worker.size == 1
    if execution.graph == "on" and not possible:
        raise ConfigError(
            f"{VARIABLE}: graph=on needs a CUDA device and a single worker, and here {worker.size} on "
            f"{worker.device.type!r} would train; graph=auto captures where it can"
        )
    if execution.graph == "on" and not on_device:
        raise ConfigError(
            f"{VARIABLE}: graph=on needs all samples on the GPU, and they take more than half of what it has free; "
            "graph=auto brings each batch, or choose a smaller data.image_size"
        )
    if execution.graph == "off" or not possible or not on_device:
        return None
    return Graphs(CudaCapture(worker.device), strict=execution.graph == "on")

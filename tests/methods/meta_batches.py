"""Clean batches beside those of `setups`, for methods that take both."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import replace

import torch

from mwray.data.loader import Batch, Loader
from mwray.methods.base import Method, Setup
from tests.meta.team import together
from tests.methods.setups import batches, make_setup, parameters, same, started


def meta_batch(setup: Setup, count: int = 50) -> Batch:
    """The first `count` clean images."""
    loader = Loader(setup.splits.meta, setup.splits, setup.worker.device, augment=False)
    return next(loader.in_order(count))


def part(batch: Batch, rank: int, size: int) -> Batch:
    """A worker's share of a batch, as the loader gives it."""
    share = slice(rank * len(batch.y) // size, (rank + 1) * len(batch.y) // size)
    return Batch(x=batch.x[share], y=batch.y[share], index=batch.index[share])


def run(method: Method, setup: Setup, epochs: int, first: int = 0) -> Method:
    """Train on this worker's share of a few batches per epoch, as the loop would, without evaluation."""
    worker = setup.worker
    clean = part(meta_batch(setup), worker.rank, worker.size)
    for epoch in range(first, epochs):
        method.epoch_start(epoch)
        for batch in batches(setup):
            method.update(part(batch, worker.rank, worker.size), clean if method.needs_meta else None)
        method.epoch_end(epoch)
    return method


def ends(build: Callable[[Setup], Method], size: int, epochs: int, **options) -> list[torch.Tensor]:
    """Parameters in the end of each of `size` workers that train one method together."""
    lock = threading.RLock()  # the workers are threads here, and initial weights come from the process's one generator

    def work(worker):
        setup = make_setup(worker=worker, epochs=epochs, **options)
        make_model = setup.make_model

        def one_at_a_time(name: str) -> torch.nn.Module:
            with lock:  # a second phase may start from the beginning
                return make_model(name)

        average = worker.average

        def averaged(tensors):
            lock.release()  # whoever asks the others, in the middle of a build, lets them build too
            try:
                return average(tensors)
            finally:
                lock.acquire()

        with lock:
            worker.average = averaged
            method = build(replace(setup, make_model=one_at_a_time))
            worker.average = average
        return parameters(run(method, setup, epochs).classifier.network)

    return together(size, work)


def check_resume(settings, stop: int) -> None:
    """Three epochs end with the same bits after a resume at epoch `stop`."""
    setup = make_setup(epochs=3)
    whole = run(started(settings, setup), setup, 3)
    saved = copy.deepcopy(run(started(settings, setup), setup, stop).state())
    again = started(settings, setup)
    again.restore(saved)
    run(again, setup, 3, first=stop)
    assert same(whole.state(), again.state())


def check_two_workers(settings, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Two workers are one, on a net without batch norm: with it each worker has its own batch statistics."""

    def build(setup: Setup) -> Method:
        return started(settings, setup)

    (alone,) = ends(build, 1, epochs=2)
    for other in ends(build, 2, epochs=2):
        torch.testing.assert_close(other, alone, rtol=rtol, atol=atol)

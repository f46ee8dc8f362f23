"""What several workers tell one another beyond gradients, made of averages alone: a worker can do nothing else."""

from __future__ import annotations

from torch import Tensor

from mwray.worker import Worker


def gather(values: Tensor, worker: Worker) -> Tensor:
    """The values [W * n, ...] of all W workers in order of rank, from each one's [n, ...] (floating point).

    The parts of a batch are shared out in order of rank, so this is the batch as a single process would see it.
    """
    if worker.size == 1:
        return values
    everyone = values.new_zeros(worker.size, *values.shape)
    everyone[worker.rank] = values
    (mean,) = worker.average([everyone])
    return (mean * worker.size).flatten(0, 1)


def total(values: Tensor, worker: Worker) -> Tensor:
    """Sum over workers of each one's `values`, any shape (floating point)."""
    (mean,) = worker.average([values])
    return mean * worker.size

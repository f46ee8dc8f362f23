"""Several workers in one process: one thread each, averaging where they meet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from mwray.worker import LocalWorker

T = TypeVar("T")


class TeamWorker(LocalWorker):
    """One of `size` workers; `average` waits for all of them."""

    def __init__(self, rank: int, size: int, desk: list, barrier: threading.Barrier) -> None:
        super().__init__("cpu")
        self.rank, self.size, self.desk, self.barrier = rank, size, desk, barrier

    def average(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        self.desk[self.rank] = [tensor.detach().clone() for tensor in tensors]
        self.barrier.wait(60)
        means = [torch.stack(parts).mean(0) for parts in zip(*self.desk, strict=True)]
        self.barrier.wait(60)
        return means


def together(size: int, work: Callable[[TeamWorker], T]) -> list[T]:
    """What `work` returns on each of `size` workers that run at the same time; raises what one of them raised."""
    desk: list = [None] * size
    barrier = threading.Barrier(size)

    def guarded(rank: int) -> T:
        try:
            return work(TeamWorker(rank, size, desk, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(guarded, rank) for rank in range(size)]
        errors = [future.exception() for future in futures]
        broken = [e for e in errors if e is not None and not isinstance(e, threading.BrokenBarrierError)]
        if broken:
            raise broken[0]
        return [future.result() for future in futures]

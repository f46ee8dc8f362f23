"""Several workers in one process that take turns: each runs until it needs an average, then the next one does.

One thread at a time, so the global random state and everything else that threads share is as in separate processes
that never meet but where they average.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from mwray.worker import LocalWorker

T = TypeVar("T")
PATIENCE = 60  # seconds until a worker that waits for one that never averages gives up


class Turns:
    """Whose turn it is, and what each worker has put down for the average under way."""

    def __init__(self, size: int) -> None:
        self.size, self.turn, self.failed = size, 0, False
        self.rounds: dict[int, list[list[Tensor]]] = {}
        self.changed = threading.Condition()

    def wait(self, rank: int) -> None:
        with self.changed:
            if not self.changed.wait_for(lambda: self.turn == rank or self.failed, PATIENCE) or self.failed:
                raise RuntimeError("another worker failed, or averages less often than this one")

    def pass_on(self, rank: int) -> None:
        with self.changed:
            self.turn = (rank + 1) % self.size
            self.changed.notify_all()

    def fail(self) -> None:
        with self.changed:
            self.failed = True
            self.changed.notify_all()


class LockstepWorker(LocalWorker):
    """One of `turns.size` workers."""

    def __init__(self, rank: int, turns: Turns) -> None:
        super().__init__("cpu")
        self.rank, self.size, self.turns, self.round = rank, turns.size, turns, 0

    def average(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        laid = self.turns.rounds.setdefault(self.round, [])
        laid.append([tensor.detach().clone() for tensor in tensors])
        self.turns.pass_on(self.rank)
        self.turns.wait(self.rank)
        assert len(laid) == self.size, "a worker averages less often than this one"
        self.round += 1
        return [torch.stack(parts).mean(0) for parts in zip(*laid, strict=True)]


def together(size: int, work: Callable[[LockstepWorker], T]) -> list[T]:
    """What `work` returns on each of `size` workers; raises what one of them raised."""
    turns = Turns(size)

    def guarded(rank: int) -> T:
        try:
            turns.wait(rank)
            result = work(LockstepWorker(rank, turns))
            turns.pass_on(rank)
            return result
        except BaseException:
            turns.fail()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(guarded, rank) for rank in range(size)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda e: "another worker failed" in str(e)):
        raise error
    return [future.result() for future in futures]

"""What a search asks of the machines, and what one of its processes gets of them."""

from __future__ import annotations

from dataclasses import dataclass

from mwray.cluster import probe
from mwray.cluster.connect import Allotment, allot, nodes
from mwray.cluster.log import Logged
from mwray.config import ConfigError
from mwray.space import Space


@dataclass(frozen=True)
class Demand:
    """How a search is to use the machines, as its caller asked (`search`)."""

    joined: bool
    """Whether it runs on a cluster that others started, and that may grow."""
    concurrency: int | None
    gpus_per_trial: float | str | None
    workers: int
    pack: int

    def __post_init__(self) -> None:
        if self.pack < 1 or (self.pack > 1 and self.workers > 1):
            raise ConfigError(
                f"--pack {self.pack}, --workers-per-trial {self.workers}: trials that share a process (1 or more of "
                "them) cannot be spread over several; give one of the two"
            )

    @property
    def packed(self) -> int:
        """Trials in one process: no more than are wanted at once."""
        return min(self.pack, self.concurrency or self.pack)

    @property
    def processes(self) -> int | None:
        """Processes at once, at most; None: as many as fit."""
        return None if self.concurrency is None else -(-self.concurrency // self.packed)

    def allot(self, space: Space, screen: Logged) -> Allotment:
        """What one process gets of the machines that are there now."""
        share: float | None = None
        if self.pack == 1 or self.gpus_per_trial is not None:  # many have a whole GPU unless told otherwise
            share = probe.gpus_per_trial(
                space, self.gpus_per_trial, self.workers, nodes, self.joined, probe.on_a_gpu, screen.note
            )
        if share is not None and self.packed > 1:
            share = min(1.0, share * self.packed)
        return allot(nodes(), self.workers, self.processes, share)

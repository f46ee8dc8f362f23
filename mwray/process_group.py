"""Several processes that train one model: what they exchange, what that costs, and a worker that needs no Ray.

torchrun --nproc-per-node 4 launch/train.py cifar10-flip
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from mwray.overlap import Overlapped, backward
from mwray.worker import DeviceError, gradients_first, usable

PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others in one exchange: the first of them may still be reading data."""

OVERLAP = "MWRAY_OVERLAP"
"""Environment variable: 1 sends gradients during the backward pass. Over gloo on a CPU that gains nothing (RESULTS.md,
"Many workers"), and over NCCL it has not been measured, so it is not the default."""


class PeerLost(ConnectionError):
    """Another worker of this run has died: no fault of this one's, and worth another start."""


class Exchange:
    """Means over the processes of the default group of `torch.distributed`, and a count of what they cost.

    Tensors travel as one flat buffer for each type of number, so an exchange costs one latency, whatever the network.
    Time is the host's; on a GPU, where calls return before they are carried out, it is that of events in the stream.
    """

    def __init__(self, rank: int, size: int, device: torch.device, overlap: bool | None = None) -> None:
        """Among `size` processes; `overlap` sends gradients during the backward pass (default: as `OVERLAP` says)."""
        self.rank, self.size, self.device = rank, size, device
        self.overlap = os.environ.get(OVERLAP) == "1" if overlap is None else overlap
        self.calls, self.bytes, self.seconds = 0, 0, 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def average(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Mean over workers of each tensor, where that tensor is; all travel by the device, for NCCL takes no others.

        Raises:
            PeerLost: another worker is gone.
        """
        means: list[Tensor] = list(tensors)
        if self.size == 1:
            return means
        for dtype in dict.fromkeys(t.dtype for t in tensors):
            places = [place for place, t in enumerate(tensors) if t.dtype == dtype]
            flat = torch.cat([tensors[place].detach().reshape(-1).to(self.device) for place in places])
            self._sum(flat)
            parts = flat.div_(self.size).split([tensors[place].numel() for place in places])
            for place, part in zip(places, parts, strict=True):
                means[place] = part.view(tensors[place].shape).to(tensors[place].device)
        return means

    def gradients(
        self, outputs: Tensor, parameters: Sequence[Tensor], weights: Tensor | None = None, retain_graph: bool = False
    ) -> list[Tensor]:
        """As `mwray.worker.Worker.gradients`; with `overlap` they travel while the backward pass still runs.

        What is counted as time of the exchange is then the wait at its end.

        Raises:
            PeerLost: another worker is gone.
        """
        if self.size == 1 or not self.overlap:
            return gradients_first(self, outputs, parameters, weights, retain_graph)
        sent = Overlapped(parameters, self._begin)
        backward(outputs, parameters, weights, retain_graph, sent)
        means: dict[int, Tensor] = {}
        for bucket in sent.buckets:
            self._timed(bucket.work.wait)
            means.update(zip(bucket.places, bucket.means(self.size), strict=True))
        return [means[place] for place in range(len(parameters))]

    def take(self) -> dict[str, float]:
        """Calls, bytes (of this worker's own buffers) and seconds since the last time this was asked."""
        if self._events:
            torch.cuda.synchronize(self.device)
            self.seconds += sum(begun.elapsed_time(ended) for begun, ended in self._events) / 1000
            self._events.clear()
        found = {"calls": float(self.calls), "bytes": float(self.bytes), "seconds": self.seconds}
        self.calls, self.bytes, self.seconds = 0, 0, 0.0
        return found

    def _begin(self, flat: Tensor) -> Any:
        """Begin to sum `flat` over all workers."""
        self.calls += 1
        self.bytes += flat.numel() * flat.element_size()
        try:
            return dist.all_reduce(flat, async_op=True)
        except RuntimeError as error:
            raise self._lost(error) from error

    def _sum(self, flat: Tensor) -> None:
        self.calls += 1
        self.bytes += flat.numel() * flat.element_size()
        self._timed(lambda: dist.all_reduce(flat))

    def _lost(self, error: RuntimeError) -> PeerLost:
        return PeerLost(f"rank {self.rank}: an exchange with the other workers failed: {error}")

    def _timed(self, act: Callable[[], object]) -> None:
        timed = self.device.type == "cuda" and not torch.cuda.is_current_stream_capturing()
        if timed:
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begun.record()
        started = time.perf_counter()
        try:
            act()
        except RuntimeError as error:  # gloo and NCCL raise it, or a subclass, when a peer's connection breaks
            raise self._lost(error) from error
        if timed:
            ended.record()
            self._events.append((begun, ended))
        else:
            self.seconds += time.perf_counter() - started


class ProcessGroupWorker:
    """One of the processes that a launcher such as torchrun started, named by RANK, WORLD_SIZE and MASTER_ADDR.

    Gradients go by NCCL where every process has a GPU of its own, else by gloo.
    """

    def __init__(self, device: torch.device | str | None = None, overlap: bool | None = None) -> None:
        """Join the group that the environment describes; waits until all have come.

        Args:
            device: "cuda" is the GPU of this process's number on its machine; default: that, or the CPU where there are
                fewer GPUs than processes.
            overlap: as `Exchange` takes it.

        Raises:
            DeviceError: some processes have a GPU and others do not.
        """
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.device = usable(torch.device(device)) if device and str(device) != "cuda" else _own_device(bool(device))
        if not dist.is_initialized():
            store, _, _ = next(rendezvous("env://", timeout=PATIENCE))
            backend = _agreed(store, self.rank, self.size, self.device)
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=PATIENCE)
        self._exchange = Exchange(self.rank, self.size, self.device, overlap)

    @staticmethod
    def launched() -> bool:
        """Whether this process is one of several that a launcher started."""
        return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ

    def average(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Mean over workers of each tensor, as `Exchange.average`."""
        return self._exchange.average(tensors)

    def gradients(
        self, outputs: Tensor, parameters: Sequence[Tensor], weights: Tensor | None = None, retain_graph: bool = False
    ) -> list[Tensor]:
        """Mean gradients over workers, as `Exchange.gradients`."""
        return self._exchange.gradients(outputs, parameters, weights, retain_graph)

    def exchanged(self) -> dict[str, float]:
        """Calls, bytes and seconds of exchange since the last time this was asked."""
        return self._exchange.take()

    def report(self, values: Mapping[str, float], checkpoint: Path | None) -> None:
        """Do nothing: rank 0's sinks tell the world."""

    def resume(self) -> Path | None:
        """Return None: the run's own folder, which all processes see, is the only place to resume from."""
        return None

    def close(self) -> None:
        """Leave the group."""
        if dist.is_initialized():
            dist.destroy_process_group()


def _own_device(asked: bool = False) -> torch.device:
    """GPUs where there are enough of them on this machine, else CPUs for all: a mixture would exchange nothing.

    Raises:
        DeviceError: GPUs are asked for, and they are too few.
    """
    place = int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count >= here:
        torch.cuda.set_device(place)
        return torch.device("cuda", place)
    if asked:
        raise DeviceError(
            f"--device cuda: {here} processes on {socket.gethostname()} need a GPU each, and it has {count}; start "
            "fewer, or give --device cpu"
        )
    return torch.device("cpu")


def _agreed(store: Store, rank: int, size: int, device: torch.device) -> str:
    """The backend that carries every process's tensors; a mixture is told here, where nobody waits in an exchange."""
    store.set(f"mwray/device/{rank}", f"{device.type} on {socket.gethostname()}")
    found = [store.get(f"mwray/device/{other}").decode() for other in range(size)]
    kinds = {each.split()[0] for each in found}
    if len(kinds) > 1:
        shown = ", ".join(f"rank {other}: {each}" for other, each in enumerate(found))
        raise DeviceError(
            f"the processes of one training need the same kind of device ({shown}); --device cpu, given to all, will do"
        )
    return "nccl" if kinds == {"cuda"} else "gloo"

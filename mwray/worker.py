"""What the training loop may know of the process it runs in: rank, size, device, averages, reports.

`LocalWorker` is the laptop, `mwray.process_group` any group of processes, and `mwray.cluster.worker` puts Ray Train or
Ray Tune behind the same members.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from mwray.errors import UserError


class DeviceError(UserError, ValueError):
    """A device that is not there."""


class Worker(Protocol):
    """One of `size` processes that train one model together."""

    rank: int
    size: int
    device: torch.device

    def average(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Mean over workers of each tensor (same shapes everywhere, called in the same order); identity for one."""

    def gradients(
        self, outputs: Tensor, parameters: Sequence[Tensor], weights: Tensor | None = None, retain_graph: bool = False
    ) -> list[Tensor]:
        """Gradient of sum_i weights_i outputs_i by each parameter, averaged over workers, zeros where there is none.

        Args:
            outputs: [] (weights None) or [n].
            parameters: leaves of its graph, the same everywhere.
            weights: [n].
            retain_graph: keep the graph for another pass.
        """

    def report(self, values: Mapping[str, float], checkpoint: Path | None) -> None:
        """Tell whoever started this process how far it is: called once per epoch by every worker."""

    def resume(self) -> Path | None:
        """A checkpoint that the starter holds for this run, or None."""

    def exchanged(self) -> Mapping[str, float]:
        """What `average` cost since this was last asked: "calls", "bytes" and "seconds"; empty for one worker."""


class Averages(Protocol):
    """Whoever averages over workers."""

    def average(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """As `Worker.average`."""


def gradients_first(
    worker: Averages,
    outputs: Tensor,
    parameters: Sequence[Tensor],
    weights: Tensor | None = None,
    retain_graph: bool = False,
) -> list[Tensor]:
    """`Worker.gradients` for whoever has nothing to gain from an overlap: all gradients, then one average."""
    found = torch.autograd.grad(
        outputs, list(parameters), weights, retain_graph=retain_graph, allow_unused=True, materialize_grads=True
    )
    return worker.average(found)


def usable(device: torch.device | str | None = None) -> torch.device:
    """`device`, tried; None: the GPU if there is one.

    Raises:
        DeviceError: it is no device, or this machine has not got it.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = ", ".join(["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))])
        reason = str(error).splitlines()[0]
        raise DeviceError(f"--device {device}: cannot be used ({reason}); this machine has {here}") from None


class LocalWorker:
    """A single process with nobody to report to."""

    def __init__(self, device: torch.device | str | None = None, saved: Callable[[], None] = lambda: None) -> None:
        """Compute on `device` (as `usable` takes it); `saved` is called when an epoch is written."""
        self._saved = saved
        self.rank = 0
        self.size = 1
        self.device = usable(device)

    def average(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return `tensors` as they are: the mean over one worker."""
        return list(tensors)

    gradients = gradients_first

    def report(self, values: Mapping[str, float], checkpoint: Path | None) -> None:
        """Pass on that an epoch is saved."""
        self._saved()

    def resume(self) -> Path | None:
        """Return None: the run's own folder is the only place to resume from."""
        return None

    def exchanged(self) -> Mapping[str, float]:
        """Return nothing: one process exchanges nothing."""
        return {}

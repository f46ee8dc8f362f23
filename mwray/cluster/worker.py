"""The training loop's `Worker` over Ray: alone inside a Ray Tune trial, or one of several of a Ray Train run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.tune
import torch
from torch import Tensor

from mwray.process_group import Exchange
from mwray.records import Run
from mwray.worker import gradients_first


class Stopped(Exception):
    """The search has no more need of this training: every worker of its group leaves it after the same epoch."""


def progress(values: Mapping[str, Any], warnings: Sequence[str] = ()) -> dict[str, Any]:
    """An epoch's record as Ray is told it, with what else there is to say.

    `timesteps_total` is the step that Ray's own loggers would use.
    """
    told = {"warnings": list(warnings)} if warnings else {}
    return {"record": dict(values), "epoch": values["epoch"], "timesteps_total": values["epoch"], **told}


class TuneWorker:
    """The only process of a trial; reports each epoch to Ray Tune."""

    def __init__(
        self,
        device: torch.device | str,
        warnings: Callable[[], Sequence[str]] = tuple,
        saved: Callable[[], None] = lambda: None,
    ) -> None:
        """Train on `device`; `warnings` gives what else there is to say, `saved` is called before each report."""
        self._saved = saved
        self.rank = 0
        self.size = 1
        self.device = torch.device(device)
        self._warnings = warnings

    def average(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return `tensors` as they are: the mean over one worker."""
        return list(tensors)

    gradients = gradients_first

    def report(self, values: Mapping[str, float], checkpoint: Path | None) -> None:
        """Tell the search; the checkpoint stays in the run's folder, which outlives the trial's process."""
        self._saved()
        ray.tune.report(progress(values, self._warnings()))

    def resume(self) -> Path | None:
        """Return None: the run's own folder is where to resume from."""
        return None

    def exchanged(self) -> Mapping[str, float]:
        """Return nothing: one process exchanges nothing."""
        return {}


@dataclass(frozen=True)
class Place:
    """Which of the processes of a Ray Train run this one is."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def here(cls) -> Place:
        """To be asked inside a training function of Ray Train."""
        context = ray.train.get_context()
        return cls(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())


class Several:
    """What the workers of several processes have in common."""

    def __init__(
        self,
        place: Place,
        warnings: Callable[[], Sequence[str]] = tuple,
        saved: Callable[[], None] = lambda: None,
    ) -> None:
        """Join the others; `warnings` gives what else there is to say, `saved` is called before each report."""
        self.rank, self.size, self.device = place.rank, place.size, place.device
        self._warnings, self._saved = warnings, saved
        self._exchange = Exchange(self.rank, self.size, self.device)

    def average(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Mean over workers, exchanged as one flat buffer for each type of number.

        Raises:
            PeerLost: another worker is gone.
        """
        return self._exchange.average(tensors)

    def gradients(
        self, outputs: Tensor, parameters: Sequence[Tensor], weights: Tensor | None = None, retain_graph: bool = False
    ) -> list[Tensor]:
        """Mean gradients over workers, as `Exchange.gradients`."""
        return self._exchange.gradients(outputs, parameters, weights, retain_graph)

    def exchanged(self) -> Mapping[str, float]:
        """Calls, bytes and seconds of exchange since the last time this was asked."""
        return self._exchange.take()


class TrainWorker(Several):
    """One of the processes of a Ray Train run of one training; to be made inside its training function."""

    def __init__(self, warnings: Callable[[], Sequence[str]] = tuple, saved: Callable[[], None] = lambda: None) -> None:
        """Join the others, as `Several`."""
        super().__init__(Place.here(), warnings, saved)
        self._held = _download(ray.train.get_checkpoint())

    def report(self, values: Mapping[str, float], checkpoint: Path | None) -> None:
        """Tell Ray Train, with rank 0's checkpoint; waits for all workers."""
        self._saved()
        with tempfile.TemporaryDirectory() as folder:
            held = None
            if checkpoint is not None:
                _link(checkpoint, Path(folder) / checkpoint.name)
                held = ray.train.Checkpoint.from_directory(folder)
            name = f"checkpoint_{int(values['epoch']):06d}"
            ray.train.report(progress(values, self._warnings()), checkpoint=held, checkpoint_dir_name=name)

    def resume(self) -> Path | None:
        """The checkpoint that Ray Train holds: the run's folder has the same one, or a newer, unless it was lost."""
        return self._held

    def report_again(self, folder: Path) -> None:
        """After a restart, repeat the last record of the run in `folder`.

        What a dead controller had been told may never have reached the search, whose last word would then be an old
        epoch. Every worker calls this, since a report waits for all, and each finds the same answer: it rests on Ray
        Train's checkpoint.
        """
        if self._held is None:
            return
        records = Run(folder).records()
        if self.rank == 0 and records:
            ray.train.report(progress(records[-1]))
        else:
            ray.train.report({"epoch": 0})


def _download(checkpoint: Any) -> Path | None:
    if checkpoint is None:
        return None
    return next(Path(checkpoint.to_directory()).glob("checkpoint-*.pt"), None)


def _link(source: Path, target: Path) -> None:
    """Another name for the same file where the file system allows it, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        target.write_bytes(source.read_bytes())

"""What runs in the processes of a search: one training, alone or over several workers, and word of how it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray.tune
import torch
from ray.tune.trainable import wrap_function

from mwray.cluster import leave, warn
from mwray.cluster.bucket import at_hand
from mwray.cluster.device import device_of
from mwray.cluster.failure import clear_failure, clear_starts, count_start, failure_of, note_failure
from mwray.cluster.study import objective_of
from mwray.cluster.worker import Stopped, TuneWorker
from mwray.config import read, to_dict
from mwray.experiment import Experiment
from mwray.lock import LockedError
from mwray.process_group import PeerLost
from mwray.storage import StorageError, patiently
from mwray.train.loop import Left, train
from mwray.train.sinks import PicturesSink, Sink, TensorBoardSink
from mwray.train.sinks.arrays import ArraysSink
from mwray.worker import DeviceError, Worker


@dataclass(frozen=True)
class Job:
    """One training as it travels to another process: as text, in which Ray finds nothing to resolve or to flatten."""

    experiment: dict[str, Any]
    folder: str
    metric: str
    workers: int = 1
    cpus: int = 1
    gpus: float = 0.0
    driver: str = ""
    """Names this start of the search."""
    remote: str = ""
    """Address of the run's folder in object storage; `folder` is then the driver's copy of it."""

    @classmethod
    def of(cls, experiment: Experiment, folder: Path, metric: str, **resources: Any) -> Job:
        """Describe the training of `experiment` in `folder`."""
        return cls(experiment=to_dict(experiment), folder=str(folder), metric=metric, **resources)

    def config(self) -> dict[str, str]:
        """What Ray is given."""
        return {"job": json.dumps(asdict(self))}

    @classmethod
    def from_config(cls, config: Mapping[str, str]) -> Job:
        """What `config` gave to Ray."""
        return cls(**json.loads(config["job"]))

    def settings(self) -> Experiment:
        """The experiment, read strictly."""
        return read(Experiment, self.experiment)

    @property
    def path(self) -> Path:
        """The run's folder."""
        return Path(self.folder)

    def device(self) -> str:
        """Where its worker computes, as `device_of`."""
        return device_of(self.gpus)


def run_alone(config: Mapping[str, str]) -> None:
    """Ray Tune's function for a trial of one worker: train inside this process, which the next trial uses again."""
    torch.set_num_threads(Job.from_config(config).cpus)  # or as many as there are cores, for every trial at once
    with at_hand(Job.from_config(config)) as (job, push), warn.kept(job.path) as warnings:
        reason = begin(job) or ready(job) or train_noting(job, TuneWorker(job.device(), warnings.take, push))
        push()
        ray.tune.report({**outcome(job, reason), "warnings": warnings.take()})


class Alone(wrap_function(run_alone)):  # type: ignore[misc]
    """The same as Ray Tune's class, whose actor's main thread can take signals."""

    def setup(self, config: dict[str, Any], **others: Any) -> None:
        """Begin; runs once for each process."""
        leave.listen()
        super().setup(config, **others)


def begin(job: Job) -> str | None:
    """Forget an earlier failure; by whoever drives the training, before it begins.

    Returns:
        Why the trial has failed already: no storage.
    """
    try:
        _reach(job)
        patiently(lambda: clear_failure(job.path), job.path)
    except StorageError as error:
        return note_failure(job.path, error)
    return None


def ready(job: Job) -> str | None:
    """Look whether this process can train; by each that is about to.

    Returns:
        Why the trial has failed already: no storage here, or no device.
    """
    try:
        _reach(job)
        job.device()
    except DeviceError as error:
        with suppress(OSError):  # a first start has no folder yet, and to write in there would be waited for in vain
            job.path.mkdir(parents=True, exist_ok=True)
        return note_failure(job.path, error)
    except StorageError as error:
        return note_failure(job.path, error)
    return None


def _reach(job: Job) -> None:
    """Wait for the storage: a search's folder that is away must not be made anew."""
    patiently(job.path.parent.parent.stat, job.path)


def train_noting(job: Job, worker: Worker) -> str | None:
    """Train; an error of the training itself is written down, and raised no further than here.

    Returns:
        The error in a line, or None where all went well.

    Raises:
        Left, LockedError, PeerLost: no fault of this training's, and worth another start.
        Stopped: nobody needs it.
    """
    reason = None
    try:
        if worker.rank == 0:
            count_start(job.path, job.driver)
        train(job.settings(), job.path, worker=worker, sinks=sinks() if worker.rank == 0 else (), leave=leave.asked)
    except (Left, LockedError, PeerLost, Stopped):
        raise
    except Exception as error:  # whatever it is, it is this trial's end and no other's
        reason = note_failure(job.path, error)
    if worker.rank == 0:
        with suppress(OSError):
            clear_starts(job.path)
    return reason


def sinks() -> Sequence[Sink]:
    """What every training under Ray leaves behind beside its records."""
    return [TensorBoardSink(), PicturesSink(), ArraysSink()]


def outcome(job: Job, reason: str | None = None) -> dict[str, Any]:
    """The last thing that a trial reports: how it ended, and its objective.

    Args:
        job: the trial.
        reason: why it failed, where this process knows; else its folder is asked, if a worker noted something there.
    """
    if reason is None and (failure := failure_of(job.path)) is not None:
        reason = failure["reason"]
    if reason is not None:
        return {"outcome": "failed", "reason": reason}
    return {"outcome": "done", "value": objective_of(job.path, job.metric)}

"""What runs in the processes of a search: one training, alone or over several workers, and word of how it ended."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray.tune
import torch

from mwray.cluster.study import objective_of
from mwray.cluster.worker import TuneWorker
from mwray.config import read, to_dict
from mwray.experiment import Experiment
from mwray.records import write_atomically
from mwray.train.loop import train
from mwray.train.sinks import PicturesSink, Sink, TensorBoardSink
from mwray.train.sinks.arrays import ArraysSink

FAILURE = "failure.json"
"""In a run's folder: why it failed, with the whole traceback; gone again when it is started anew."""


@dataclass(frozen=True)
class Job:
    """One training as it travels to another process: as text, in which Ray finds nothing to resolve or to flatten."""

    experiment: dict[str, Any]
    folder: str
    metric: str
    workers: int = 1
    cpus: int = 1
    gpus: float = 0.0
    storage: str = ""
    """Where Ray Train keeps its own files (several workers only)."""

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
        """Where its worker computes: Ray shows a process only the GPUs that it was given."""
        return "cuda" if self.gpus and torch.cuda.is_available() else "cpu"


def run_alone(config: Mapping[str, str]) -> None:
    """Ray Tune's function for a trial of one worker: train inside this process, which the next trial uses again."""
    job = Job.from_config(config)
    torch.set_num_threads(job.cpus)  # or as many as there are cores, for every trial at once
    clear_failure(job.path)
    try:
        train(job.settings(), job.path, worker=TuneWorker(job.device()), sinks=sinks())
    except Exception as error:  # whatever it is, it is this trial's end and no other's
        note_failure(job.path, error)
    ray.tune.report(outcome(job))


def run_over_workers(config: Mapping[str, str]) -> None:
    """Ray Tune's function for a trial of several workers: drive a Ray Train run."""
    from ray.tune.integration.ray_train import TuneReportCallback

    from mwray.cluster.trainer import make_trainer

    job = Job.from_config(config)
    clear_failure(job.path)
    make_trainer(job, [TuneReportCallback()]).fit()
    ray.tune.report(outcome(job))


def sinks() -> Sequence[Sink]:
    """What every training under Ray leaves behind beside its records."""
    return [TensorBoardSink(), PicturesSink(), ArraysSink()]


def outcome(job: Job) -> dict[str, Any]:
    """The last thing that a trial reports: how it ended, and its objective."""
    failure = failure_of(job.path)
    if failure is not None:
        return {"outcome": "failed", "reason": failure["reason"]}
    return {"outcome": "done", "value": objective_of(job.path, job.metric)}


def clear_failure(folder: Path) -> None:
    """Forget why an earlier start failed."""
    (folder / FAILURE).unlink(missing_ok=True)


def note_failure(folder: Path, error: BaseException) -> None:
    """Write down why this training failed."""
    lines = str(error).splitlines() or [""]
    failure = {
        "reason": f"{type(error).__name__}: {lines[0]}",
        "traceback": "".join(traceback.format_exception(error)),
    }
    write_atomically(folder / FAILURE, (json.dumps(failure, indent=1) + "\n").encode())


def failure_of(folder: Path) -> dict[str, str] | None:
    """What `note_failure` wrote, or None."""
    try:
        return dict(json.loads((folder / FAILURE).read_text()))
    except FileNotFoundError:
        return None

"""Many trainings over Ray, each in a folder of its own: what is finished is skipped, what was cut short goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from rich.console import Console

from mwray.cluster import leave
from mwray.cluster.connect import Allotment, allot, connected, limit, nodes
from mwray.cluster.errors import in_a_line
from mwray.cluster.progress import Counted, Outlook, shown
from mwray.cluster.sight import Sight
from mwray.config import ConfigError, to_dict
from mwray.experiment import Experiment
from mwray.lock import LockedError
from mwray.records import Run

HEARTBEAT = 5.0
"""Seconds between two looks at what is in flight while nothing ends."""
RETRIES = 3
"""Times that Ray starts a training again whose process or machine died; it goes on from its checkpoint."""


@dataclass(frozen=True)
class Job:
    """One training."""

    name: str
    experiment: Experiment
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a summary, or the reason why there is none."""

    job: Job
    summary: Mapping[str, Any] | None
    error: str | None = None


def sweep(
    jobs: Sequence[Job],
    *,
    address: str | None = None,
    concurrency: int | None = None,
    gpus_per_trial: float | None = None,
    console: Console | None = None,
    outlook: Outlook | None = None,
) -> list[Outcome]:
    """Train all `jobs`, as many at once as fit; returns their outcomes in the same order.

    A job that fails is reported and does not stop the others. Ctrl-C ends all; the same call goes on from there.

    Args:
        jobs: no two with the same folder.
        address: a running cluster; None starts Ray here with all cores.
        concurrency: trainings at once; None: what fits.
        gpus_per_trial: below 1, trainings share a GPU; None: one each where there are any.
        console: where progress is shown.
        outlook: what is left of all that these jobs are part of; None: these jobs, all taken to be alike.

    Raises:
        ConfigError: nothing fits, or a machine of the cluster does not see the folders, also one that joins later.
    """
    assert len({job.folder for job in jobs}) == len(jobs), "two jobs share a folder"
    outcomes: dict[Path, Outcome] = {}
    for job in jobs:
        if (summary := Run(job.folder).summary_of(to_dict(job.experiment))) is not None:
            outcomes[job.folder] = Outcome(job, summary)
    missing = [job for job in jobs if job.folder not in outcomes]
    if missing:
        outlook = outlook or Counted(len(jobs), len(outcomes))
        place = missing[0].folder
        with connected(address), closing(Sight(place)) as sight, shown(console or Console(), outlook) as show:
            for job in missing:
                job.folder.mkdir(parents=True, exist_ok=True)
            sight.check()
            allotment = allot(nodes(), 1, concurrency, gpus_per_trial)
            for outcome, flying in _run(missing, allotment, concurrency, joined=address is not None):
                if outcome is not None:
                    outcomes[outcome.job.folder] = outcome
                show(outcome, flying)
                if why := sight.trouble():  # a machine that has joined would train for nothing
                    raise ConfigError(why)
    return [outcomes[job.folder] for job in jobs]


def _run(
    jobs: Sequence[Job], allotment: Allotment, concurrency: int | None, joined: bool
) -> Iterator[tuple[Outcome | None, int]]:
    """Keep as many in flight as fit, asked again after each: machines that join are used.

    Gives each outcome with the number of trainings in flight; now and then, while nothing ends, None with it.
    """
    from mwray.train.loop import Left

    task = ray.remote(_train).options(
        num_cpus=allotment.cpus, num_gpus=allotment.gpus, max_retries=RETRIES, retry_exceptions=[Left, LockedError]
    )
    waiting, flying = list(jobs), dict[Any, Job]()
    while waiting or flying:
        while waiting and len(flying) < limit(allotment, nodes(), concurrency, joined):
            job = waiting.pop(0)
            flying[task.remote(to_dict(job.experiment), str(job.folder), allotment.cpus, allotment.gpus)] = job
        found, _ = ray.wait(list(flying), num_returns=1, timeout=HEARTBEAT)
        if not found:
            yield None, len(flying)
            continue
        (ready,) = found
        job = flying.pop(ready)
        try:
            error = ray.get(ready)
        except RayError as lost:
            error = in_a_line(lost)
        yield Outcome(job, None if error else Run(job.folder).summary(), error), len(flying) + bool(waiting)


def _train(experiment: dict[str, Any], folder: str, cpus: int, gpus: float) -> str | None:
    """Run in a worker process; returns what went wrong, or None."""
    import torch

    from mwray.cluster.device import device_of
    from mwray.config import read
    from mwray.train.loop import Left, train
    from mwray.train.sinks import PicturesSink, Sink, TensorBoardSink
    from mwray.train.sinks.arrays import ArraysSink
    from mwray.worker import LocalWorker

    torch.set_num_threads(cpus)
    # Hundreds of short trainings would draw for a third of their time: a report draws what is looked at.
    sinks: list[Sink] = [TensorBoardSink(), PicturesSink(draw=False), ArraysSink()]
    try:
        worker = LocalWorker(device_of(gpus))
        train(read(Experiment, experiment), Path(folder), worker=worker, sinks=sinks, leave=leave.asked)
    except (Left, LockedError):  # its machine is about to go, or the last one has not gone yet: it is started again
        raise
    except Exception as error:
        logging.getLogger("mwray").exception("training in %s failed", folder)
        return f"{type(error).__name__}: {error}"
    return None

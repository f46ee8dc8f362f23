"""Many trainings over Ray, each in a folder of its own: what is finished is skipped, what was cut short goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mwray.cluster.connect import Allotment, allot, check_shared, connected, limit, nodes
from mwray.config import to_dict
from mwray.experiment import Experiment
from mwray.records import Run

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
) -> list[Outcome]:
    """Train all `jobs`, as many at once as fit; returns their outcomes in the same order.

    A job that fails is reported and does not stop the others. Ctrl-C ends all; the same call goes on from there.

    Args:
        jobs: no two with the same folder.
        address: a running cluster; None starts Ray here with all cores.
        concurrency: trainings at once; None: what fits.
        gpus_per_trial: below 1, trainings share a GPU; None: one each where there are any.
        console: where progress is shown.

    Raises:
        ConfigError: nothing fits, or a machine of the cluster does not see the folders.
    """
    assert len({job.folder for job in jobs}) == len(jobs), "two jobs share a folder"
    outcomes: dict[Path, Outcome] = {}
    for job in jobs:
        if Run(job.folder).state == "done" and Run(job.folder).experiment() == to_dict(job.experiment):
            outcomes[job.folder] = Outcome(job, Run(job.folder).summary())
    missing = [job for job in jobs if job.folder not in outcomes]
    if missing:
        with connected(address), _shown(console or Console(), len(jobs), len(outcomes)) as show:
            for job in missing:
                job.folder.mkdir(parents=True, exist_ok=True)
            check_shared(missing[0].folder)
            allotment = allot(nodes(), 1, concurrency, gpus_per_trial)
            for outcome in _run(missing, allotment, concurrency, joined=address is not None):
                outcomes[outcome.job.folder] = outcome
                show(outcome)
    return [outcomes[job.folder] for job in jobs]


def _run(jobs: Sequence[Job], allotment: Allotment, concurrency: int | None, joined: bool) -> Iterator[Outcome]:
    """Keep as many in flight as fit, asked again after each: machines that join are used."""
    task = ray.remote(_train).options(num_cpus=allotment.cpus, num_gpus=allotment.gpus, max_retries=RETRIES)
    waiting, flying = list(jobs), dict[Any, Job]()
    while waiting or flying:
        while waiting and len(flying) < limit(allotment, nodes(), concurrency, joined):
            job = waiting.pop(0)
            flying[task.remote(to_dict(job.experiment), str(job.folder), allotment.cpus)] = job
        (ready, *_), _ = ray.wait(list(flying), num_returns=1)
        job = flying.pop(ready)
        try:
            error = ray.get(ready)
        except RayError as lost:
            error = f"{type(lost).__name__}: {str(lost).splitlines()[0]}"
        yield Outcome(job, None if error else Run(job.folder).summary(), error)


def _train(experiment: dict[str, Any], folder: str, cpus: int) -> str | None:
    """Run in a worker process; returns what went wrong, or None."""
    import torch

    from mwray.cluster.trial import sinks
    from mwray.config import read
    from mwray.train.loop import train

    torch.set_num_threads(cpus)
    try:
        train(read(Experiment, experiment), Path(folder), sinks=sinks())
    except Exception as error:
        logging.getLogger("mwray").exception("training in %s failed", folder)
        return f"{type(error).__name__}: {error}"
    return None


@contextmanager
def _shown(console: Console, total: int, done: int) -> Iterator[Any]:
    """A bar with an ETA on a terminal; one line per finished training everywhere."""
    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        "ETA",
        TimeRemainingColumn(),
    )
    bar = Progress(
        *[TextColumn(column) if isinstance(column, str) else column for column in columns],
        console=console,
        disable=not console.is_terminal,
        speed_estimate_period=3600,
    )
    started, first = time.monotonic(), done
    if done:
        console.print(f"{done} of {total} trainings are finished already")
    with bar:
        task = bar.add_task("trainings", total=total, completed=done)

        def show(outcome: Outcome) -> None:
            nonlocal done
            done += 1
            left = (time.monotonic() - started) / (done - first) * (total - done)
            bar.advance(task)
            if outcome.error:
                console.print(f"[red]failed[/red] {outcome.job.name}: {outcome.error}")
            else:
                reached = 100 * (outcome.summary or {}).get("test.last", float("nan"))
                console.print(f"{done}/{total} {outcome.job.name}: {reached:.2f} % test, last epoch (ETA {left:.0f} s)")

        yield show

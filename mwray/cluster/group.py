"""Trials of several workers: a standing group of processes that is handed one trial after the other.

A group is one run of Ray Train, which starts its processes, joins them and replaces those that die; to start one takes
some fifteen seconds, which only a group's first trial pays. The process that Ray Tune has for a trial, and uses again,
drives it: it gives the trial to the group's desk (`mwray.cluster.desk`), where the workers (`mwray.cluster.member`)
take it, and passes on what they tell. Nothing of a trial is kept by Ray Train: the run's folder has it all.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Generator, Mapping
from contextlib import closing, suppress
from typing import Any

import ray
import ray.tune
from ray.tune.trainable import wrap_function
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mwray.cluster.bucket import at_hand
from mwray.cluster.connect import scratch
from mwray.cluster.desk import Desk
from mwray.cluster.errors import in_a_line
from mwray.cluster.member import Ask, serve
from mwray.cluster.trainer import make_trainer, run
from mwray.cluster.trial import Job, begin, outcome

CLOSE_SECONDS = 10.0
"""For the workers of a group to leave by themselves, before Ray ends them."""

_standing: Group | None = None
"""This process's group."""


class GroupLost(RuntimeError):
    """Ray Train gave the group up; the trial is worth another start, in another process."""


def hand(ask: Ask, text: str) -> Generator[dict[str, Any], None, dict[str, Any] | None]:
    """Have a group train a job: yields what Ray Tune is to be told, and lets the workers go on when asked for more.

    Args:
        ask: how to ask the group's desk.
        text: the job's.

    Returns:
        How the training ended; None: the group has gone, or it gave the job back, having waited too long.

    Raises:
        GroupLost: the group has gone, and not because it had nothing to do.
    """
    number = ask("give", text)
    if number == 0:
        return None
    try:
        while "end" not in (event := ask("hear")):
            if "lost" in event:
                raise GroupLost(event["lost"])
            yield event["report"]
            if not ask("answer", event["mark"]):
                return None
        return dict(event["end"])
    finally:
        ask("drop", number)


class Group:
    """A group as the process sees it that made it and drives it."""

    def __init__(self, job: Job) -> None:
        """Start a group for `job` and others like it; returns at once."""
        self.shape = _shape(job)
        # On this machine: if it is lost, so is the driver, and with it all that the driver has made.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._desk = ray.remote(num_cpus=0)(Desk).options(scheduling_strategy=here).remote()
        self._run = threading.Thread(target=self._stay, args=(job,), name="mwray-group", daemon=True)
        self._run.start()

    def ask(self, name: str, *given: Any) -> Any:
        """Call a method of the desk."""
        return ray.get(getattr(self._desk, name).remote(*given))

    def close(self) -> None:
        """Let the workers leave, after the epoch they are in; waits a while for that."""
        with suppress(ray.exceptions.RayError):
            self.ask("close")
        self._run.join(CLOSE_SECONDS)

    def _stay(self, job: Job) -> None:
        """Run Ray Train for as long as the group stands."""
        why = "the group of workers has left"
        try:
            run(make_trainer(serve, {"desk": self._desk}, job, f"group-{uuid.uuid4().hex[:12]}", scratch()))
        except Exception as error:  # whatever it is, the driver is to hear of it
            why = in_a_line(error)
        with suppress(ray.exceptions.RayError):
            self.ask("lose", why)


def run_over_workers(config: Mapping[str, str]) -> None:
    """Ray Tune's function for a trial of several workers: hand it to this process's group, and pass on its word."""
    given = Job.from_config(config)
    with at_hand(given) as (job, push):
        reason = begin(job)
        push()
        ended = None if reason is None else outcome(job, reason)
    if ended is not None:
        ray.tune.report(ended)
        return
    with closing(_train(given)) as told:  # a trial that Ray Tune stops ends in `report`, and the group is to know
        for values in told:
            ray.tune.report(values)


class OverWorkers(wrap_function(run_over_workers)):  # type: ignore[misc]
    """The same as Ray Tune's class, which lets the group go when the process is not needed any more."""

    def cleanup(self) -> None:
        """End; Ray Tune calls it before it ends the process."""
        try:
            super().cleanup()
        finally:
            if _standing is not None:
                _standing.close()


def _train(job: Job) -> Generator[dict[str, Any], None, None]:
    ended = None
    while ended is None:
        ended = yield from hand(_group_for(job).ask, job.config()["job"])
    yield ended


def _group_for(job: Job) -> Group:
    """This process's group; a new one where there is none any more, or one of another shape."""
    global _standing
    if _standing is not None and _standing.shape != _shape(job):
        _standing.close()
    if _standing is None or not _standing.ask("stands"):
        _standing = Group(job)
    return _standing


def _shape(job: Job) -> tuple[int, int, float]:
    return job.workers, job.cpus, job.gpus

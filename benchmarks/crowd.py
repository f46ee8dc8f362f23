"""Trials that only sleep, hundreds of them in one process: what is left of a search is the search loop itself.

Ray Tune gives each trial a process, and a machine with room for five hundred of those is not at hand. Here all trials
live in one Ray actor, which sleeps for each at once. Everything else is real: Ray Tune's loop, its placement groups and
futures, `mwray.cluster`'s session, the study and its journal.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import ray
import ray.actor
from ray.tune.execution import class_cache


class _Sleepers:
    """The actor in which all trials live."""

    def __init__(self, seconds: float, epochs: int) -> None:
        self.pause, self.epochs = seconds / epochs, epochs
        self.done: dict[int, int] = {}

    async def call(self, trial: int, method: str) -> Any:
        """What Ray Tune would call in the trial's own process."""
        if method == "reset":
            self.done[trial] = 0
        if method != "train":
            return True
        epoch = self.done[trial] = self.done.get(trial, 0) + 1
        if epoch > self.epochs:
            return {"outcome": "done", "value": random.random(), "done": True, "training_iteration": epoch}
        await asyncio.sleep(self.pause)
        record = {"epoch": epoch, "validation.accuracy": random.random(), "seconds": self.pause}
        return {"record": record, "epoch": epoch, "done": False, "training_iteration": epoch}


class _Handle:
    """One trial, as Ray Tune holds it: every method is passed on to the common actor."""

    def __init__(self, sleepers: Any, trial: int) -> None:
        self._sleepers, self._trial = sleepers, trial

    def __getattr__(self, method: str) -> Any:
        return _Method(self._sleepers, self._trial, method)


class _Method:
    def __init__(self, sleepers: Any, trial: int, name: str) -> None:
        self._sleepers, self._trial, self._name = sleepers, trial, name

    def remote(self, *arguments: Any, **named: Any) -> Any:
        return self._sleepers.call.remote(self._trial, self._name)


class _Class:
    """Stands in for the class of a trial's process."""

    def __init__(self, sleepers: Any) -> None:
        self._sleepers, self.made = sleepers, 0

    @property
    def __class__(self) -> Any:  # Ray Tune asks whether it is one
        return ray.actor.ActorClass

    def options(self, **options: Any) -> _Class:
        return self

    def remote(self, **arguments: Any) -> _Handle:
        self.made += 1
        return _Handle(self._sleepers, self.made)


@contextmanager
def crowd(size: int, seconds: float, epochs: int) -> Iterator[_Class]:
    """A local Ray with room for `size` trials, of which each sleeps `seconds` and reports `epochs` times.

    Args:
        size: cores that Ray is told there are: one for each trial.
        seconds: length of a trial.
        epochs: reports of a trial, evenly spaced.
    """
    quiet = {"prestart_worker_first_driver": False}  # or Ray starts a process for each core
    ray.init(
        address="local", num_cpus=size, object_store_memory=2**28, log_to_driver=False, logging_level="ERROR",
        _system_config=quiet,
    )  # fmt: skip
    try:
        actor = ray.remote(num_cpus=0, max_concurrency=4 * size)(_Sleepers)
        stand_in = _Class(actor.remote(seconds, epochs))
        with mock.patch.object(class_cache._ActorClassCache, "get", lambda self, trainable: stand_in):
            yield stand_in
    finally:
        ray.shutdown()

"""A process that hosts several trials of a search: `mwray.train.pack` behind a Ray actor."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mwray.cluster import leave
from mwray.cluster.bucket import at_hand
from mwray.cluster.failure import clear_starts, count_start, note_failure
from mwray.cluster.trial import Job, begin, outcome, ready, sinks
from mwray.cluster.worker import progress
from mwray.lock import LockedError
from mwray.train.loop import Left
from mwray.train.pack import Ended, Pack
from mwray.worker import gradients_first

PATIENCE = 1.0
"""Seconds after which a host answers at the latest, between two steps: Ctrl-C is noticed then."""

Event = tuple[str, dict[str, Any]]
"""The key of a trial, and what Ray Tune would have been told of it, or why it "left" this process, which is "going" or
not, and is to start again in another; the key "" comes with a "note" for the user."""


class HostWorker:
    """The loop's worker for one trial of a host."""

    def __init__(
        self, key: str, device: torch.device | str, events: list[Event], saved: Callable[[], None] = lambda: None
    ) -> None:
        """Train on `device`, `saved` being called before each report."""
        self.rank = 0
        self.size = 1
        self.device = torch.device(device)
        self._key, self._events, self._saved = key, events, saved

    def average(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return `tensors` as they are: the mean over one worker."""
        return list(tensors)

    gradients = gradients_first

    def report(self, values: Mapping[str, float], checkpoint: Path | None) -> None:
        """Pass on an epoch's record."""
        self._saved()
        self._events.append((self._key, progress(values)))

    def resume(self) -> Path | None:
        """Return None: the run's own folder is where to resume from."""
        return None

    def exchanged(self) -> Mapping[str, float]:
        """Return nothing: one process exchanges nothing."""
        return {}


class Notes(logging.Handler):
    """Passes on mwray's warnings: this process's output is watched by nobody."""

    def __init__(self, events: list[Event]) -> None:
        super().__init__(logging.WARNING)
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        """Make a note of it."""
        self._events.append(("", {"note": record.getMessage()}))


class Host:
    """Trains what it is given, side by side. Its methods are called by `mwray.cluster.packed`, one at a time."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        leave.listen()
        self._events: list[Event] = []
        logging.getLogger("mwray").addHandler(Notes(self._events))
        self._jobs: dict[str, tuple[Job, ExitStack]] = {}
        self._pack = Pack(lambda text: self._events.append(("", {"note": text})))

    def advance(self, begin: Mapping[str, Mapping[str, str]], drop: Sequence[str]) -> list[Event]:
        """Stop the trials `drop`, begin the jobs `begin`, and train until there is something to tell.

        Nothing goes on between two calls, so a trial that is to be stopped after an epoch takes no step more.
        """
        for key in drop:
            self._pack.drop(key)
            self._jobs.pop(key)[1].close()
        for key, config in begin.items():
            self._begin(key, Job.from_config(config))
        deadline = time.monotonic() + PATIENCE
        while self._pack.slots and not self._events and time.monotonic() < deadline:
            for key, ended in self._pack.round().items():
                self._end(key, ended)
        told = list(self._events)
        self._events.clear()
        return told

    def _begin(self, key: str, job: Job) -> None:
        stack = ExitStack()
        job, push = stack.enter_context(at_hand(job))
        self._jobs[key] = job, stack
        if (reason := begin(job) or ready(job)) is not None:
            self._told(key, outcome(job, reason))
            return
        worker = HostWorker(key, job.device(), self._events, push)
        try:
            count_start(job.path, job.driver)
            ended = self._pack.add(key, job.settings(), job.path, worker=worker, sinks=sinks(), leave=leave.asked)
        except Exception as error:  # whatever it is, it is this trial's end and no other's
            ended = Ended(None, error)
        if ended is not None:
            self._end(key, ended)

    def _end(self, key: str, ended: Ended) -> None:
        job, _ = self._jobs[key]
        if isinstance(ended.error, Left | LockedError):  # no fault of this training's, and worth another start
            self._told(key, {"left": str(ended.error), "going": isinstance(ended.error, Left)})
            return
        reason = None if ended.error is None else note_failure(job.path, ended.error)
        with suppress(OSError):
            clear_starts(job.path)
        self._told(key, outcome(job, reason))

    def _told(self, key: str, event: dict[str, Any]) -> None:
        """Tell how a trial left this process, once its folder is where it belongs."""
        self._jobs.pop(key)[1].close()
        self._events.append((key, event))

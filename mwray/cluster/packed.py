"""A search whose trials share processes (`--pack K`): what Ray Tune does for trials of a process each.

Ray Tune knows one trial a process. Here Ray's actors are used directly; the session of the search is asked and told the
same things at the same moments, so study, journal, stopping rule and leaderboard notice no difference.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.tune.search import Searcher

from mwray.cluster.errors import in_a_line
from mwray.cluster.host import Host
from mwray.cluster.session import Session
from mwray.storage import StorageError

WAIT_SECONDS = 1.0
CLOSE_SECONDS = 30.0
"""For a host to close the files of what it trains."""


@dataclass
class Process:
    """One host: its actor, what it trains, and the answer that is awaited from it."""

    actor: Any
    size: int
    live: dict[str, dict[str, str]] = field(default_factory=dict)
    begin: dict[str, dict[str, str]] = field(default_factory=dict)
    drop: list[str] = field(default_factory=list)
    answer: Any = None

    @property
    def room(self) -> int:
        """Trials that it could take."""
        return self.size - len(self.live)


class Packed:
    """Drives a session over hosts.

    Args:
        session: which trial is next, and what to do with one that has reported.
        size: trials in one host.
        hosts: how many hosts there may be now; asked again and again, so that machines that join are used.
        cpus, gpus: of each host.
    """

    def __init__(self, session: Session, size: int, hosts: Callable[[], int], cpus: int, gpus: float) -> None:
        self.session, self.size, self.hosts = session, size, hosts
        self.cpus, self.gpus = cpus, gpus
        self._processes: list[Process] = []
        self._count = 0
        self._again: list[tuple[str, dict[str, str]]] = []
        self._exhausted = False

    def run(self) -> None:
        """Train until the session has no more, or is to stop."""
        try:
            while not self.session.stopping:
                try:
                    self._fill()
                    if not any(process.live for process in self._processes) and self._exhausted and not self._again:
                        break
                    self._wait()
                except StorageError as error:  # nothing can be remembered any more
                    self.session.storage_lost(error)
            self._stop()
        finally:
            for process in self._processes:
                ray.kill(process.actor)

    def _fill(self) -> None:
        """Give trials to hosts that are waiting, the emptiest first, and set them to work."""
        while (process := self._open()) is not None and self._give(process):
            pass
        for process in self._processes:
            if process.answer is None and (process.live or process.drop):
                process.answer = process.actor.advance.remote(process.begin, process.drop)
                process.begin, process.drop = {}, []

    def _open(self) -> Process | None:
        """A host that can take a trial: a new one while there may be more."""
        if self._again or len(self._processes) < self.hosts():
            # A trial whose process died gets one to itself: if it is what kills processes, it kills no other trial.
            return Process(None, 1 if self._again else self.size)
        waiting = [process for process in self._processes if process.answer is None and process.room > 0]
        return max(waiting, key=lambda process: process.room, default=None)

    def _give(self, process: Process) -> bool:
        """Give it a trial; returns whether there was one."""
        if self._again:
            key, job = self._again.pop(0)
        else:
            key = f"trial-{self._count}"
            found = None if self._exhausted else self.session.next(key)
            if not isinstance(found, dict):
                self._exhausted = self._exhausted or found == Searcher.FINISHED
                return False
            job = found
            self._count += 1
        if process.actor is None:
            options = {"num_cpus": self.cpus, "num_gpus": self.gpus}
            process.actor = ray.remote(Host).options(**options).remote(self.cpus)
            self._processes.append(process)
        process.live[key] = process.begin[key] = job
        self.session.started(key)
        return True

    def _wait(self) -> None:
        """Hear those that have something to tell."""
        answers = {process.answer: process for process in self._processes if process.answer is not None}
        ready, _ = ray.wait(list(answers), timeout=WAIT_SECONDS) if answers else ([], [])
        for answer in ready:
            process = answers[answer]
            process.answer = None
            try:
                events = ray.get(answer)
            except ray.exceptions.RayError as error:
                self._died(process, in_a_line(error))
                continue
            for key, result in events:
                self._hear(process, key, result)
            if not process.live and process.size < self.size:  # it was there for one trial
                self._processes.remove(process)
                ray.kill(process.actor)

    def _hear(self, process: Process, key: str, result: dict[str, Any]) -> None:
        if not key:
            self.session.display.note(result["note"])
        elif "left" in result:
            if result["going"]:  # it takes no other, and ends once the last of its trials has left it
                process.size = 0
            self._again.append((key, process.live.pop(key)))
            self.session.recovered(key, result["left"])
        elif "outcome" in result:
            del process.live[key]
            self.session.ended(key, result)
        elif key in process.live and self.session.reported(key, result):
            del process.live[key]
            process.drop.append(key)
            self.session.ended(key, result)

    def _died(self, process: Process, reason: str) -> None:
        """Start the trials of a dead host again, from their checkpoints and each by itself."""
        self._processes.remove(process)
        ray.kill(process.actor)  # it lives where an error went through all that it trains
        for key, job in process.live.items():
            self._again.append((key, job))  # how often is bounded by `mwray.cluster.failure.count_start`
            self.session.recovered(key, reason)

    def _stop(self) -> None:
        """End what still trains, after the step it is at; each keeps its last checkpoint."""
        for process in self._processes:
            try:
                with suppress(ray.exceptions.RayError):
                    for key, result in ray.get(process.answer) if process.answer is not None else ():
                        self._hear(process, key, result)
                    drop = [*process.drop, *(key for key in process.live if key not in process.begin)]
                    ray.get(process.actor.advance.remote({}, drop), timeout=CLOSE_SECONDS)
            except StorageError as error:
                self.session.storage_lost(error)
            for key in process.live:
                self._leave(key)
        for key, _ in self._again:
            self._leave(key)

    def _leave(self, key: str) -> None:
        try:
            self.session.ended(key, {})
        except StorageError as error:
            self.session.storage_lost(error)
            self.session.ended(key, {})  # which tells the study nothing now

"""A standing group without Ray: a desk in one thread, and its workers in others."""

from __future__ import annotations

import asyncio
import threading

import torch

from mwray.cluster.desk import Desk
from mwray.cluster.member import attend
from mwray.cluster.worker import Place

WAIT = 60.0
"""For a thread to end, at most."""


class Office:
    """A desk, and whoever asks it from whatever thread."""

    def __init__(self):
        self.desk, self._loop = Desk(WAIT), asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.members = []

    def ask(self, name, *given):
        return asyncio.run_coroutine_threadsafe(getattr(self.desk, name)(*given), self._loop).result(WAIT)

    def hire(self, size=1, late=lambda: None):
        """Workers of a group, each in a thread; those of a group before must have ended."""
        self.members = [Member(self, rank, size, late) for rank in range(size)]

    def close(self):
        self.ask("close")
        for each in self.members:
            each.thread.join(WAIT)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT)


class Member:
    """One worker, and the error that it ended with."""

    def __init__(self, office, rank, size, late):
        self.error, self.place, self._office, self._late = None, Place(rank, size, torch.device("cpu")), office, late
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        if self.place.rank:
            self._late()
        try:
            attend(self.place, self._office.ask)
        except Exception as error:
            self.error = error

"""A training that is stopped: the same call goes on from there."""

from __future__ import annotations

from mwray.worker import LocalWorker


class Stopped(Exception):
    """Instead of a kill."""


class Stopping(LocalWorker):
    """A worker that is stopped after so many epochs."""

    def __init__(self, epochs: int, device: str = "cpu") -> None:
        super().__init__(device)
        self.left = epochs

    def report(self, values, checkpoint) -> None:
        self.left -= 1
        if self.left == 0:
            raise Stopped

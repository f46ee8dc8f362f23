"""How far a search is: every trial's row, and what is left."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mwray.cluster.leaderboard import Row

OVER = ("finished", "pruned", "failed")


class Board:
    """The state that is shown: every trial's row, and how far the whole search is."""

    def __init__(self, rows: Sequence[Row], target: int) -> None:
        self.rows = {row.key: row for row in rows}
        self.target = target
        self.since = {row.key: time.monotonic() for row in rows}
        self._began = time.monotonic()
        self._before = self._epochs()[0]

    def put(self, row: Row) -> str | None:
        """Take in a row; returns the state that it had before, or None if it is new."""
        before = self.rows.get(row.key)
        self.rows[row.key] = row
        if before is None or before.state != row.state:
            self.since[row.key] = time.monotonic()
        return before.state if before else None

    @property
    def ended(self) -> int:
        """Trials that are over."""
        return sum(row.state in OVER for row in list(self.rows.values()))

    def share(self) -> float:
        """How much of the search is done, 0..1, by epochs."""
        done, total = self._epochs()
        return done / total if total else 1.0

    def left(self) -> float | None:
        """Seconds to the end at the speed of this session so far; None before the first epoch."""
        done, total = self._epochs()
        if done == self._before:
            return None
        return (total - done) * (time.monotonic() - self._began) / (done - self._before)

    def elapsed(self) -> float:
        """Seconds of this session."""
        return time.monotonic() - self._began

    def _epochs(self) -> tuple[float, float]:
        """Epochs trained and epochs in all; a trial that ended early counts as a whole one."""
        rows = list(self.rows.values())
        per_trial = [row.experiment.epochs for row in rows]
        mean = sum(per_trial) / len(per_trial) if per_trial else 1.0
        done = sum(row.experiment.epochs if row.state in OVER else row.epoch for row in rows)
        return done, sum(per_trial) + mean * max(0, self.target - len(rows))

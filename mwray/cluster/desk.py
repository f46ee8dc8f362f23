"""Between a trial's driver and its group of workers: which training is next, and what there is to tell. Imports no Ray.

One desk for each group, in a process of its own. Its calls take turns in one event loop, so none needs a lock.

    driver      give, then hear and answer again and again, then give the next
    workers     take, then report again and again, end, then take the next
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

IDLE = 15.0
"""Seconds without work, or without an answer, after which a group goes: its machines may be what another waits for."""

Event = dict[str, Any]
"""{"report": what Ray Tune is to be told, "mark": to be answered}, {"end": the last it is told} or {"lost": why}."""


class Desk:
    """What the driver of a group and its workers may ask.

    A training has a number. It is over once it has ended, has been dropped, or nobody has answered its report for
    `idle` seconds; workers that come late or again are given it as long as it is not.
    """

    def __init__(self, idle: float = IDLE) -> None:
        self._idle = idle
        self._number, self._job, self._over = 0, "", True
        self._since = time.monotonic()
        self._open = True
        self._lost: str | None = None
        self._told: deque[Event] = deque()
        self._answered: dict[int, bool] = {}
        self._marks = 0
        self._changed = asyncio.Condition()

    # ----------------------------------------------------------------------------------------------------- the driver

    async def stands(self) -> bool:
        """Whether the group can be given something."""
        return self._open

    async def give(self, job: str) -> int:
        """The next training; returns its number, 0 where the group has gone."""
        if not self._open:
            return 0
        self._number, self._job, self._over = self._number + 1, job, False
        self._told.clear()
        await self._notify()
        return self._number

    async def hear(self) -> Event:
        """Wait for what the workers have to tell of the training that was given last."""
        await self._until(lambda: bool(self._told) or self._lost is not None)
        return self._told.popleft() if self._told else {"lost": self._lost}

    async def answer(self, mark: int) -> bool:
        """Let the workers go on after a report; returns False where they have given the training back since."""
        if mark not in self._answered:
            return bool(self._told) or self._lost is not None
        self._answered[mark] = True
        await self._notify()
        return True

    async def drop(self, number: int) -> None:
        """Nobody needs this training any more: the group leaves it after its epoch."""
        if self._current(number):
            self._finish()
            await self._notify()

    async def close(self) -> None:
        """The group is to leave after its epoch: nothing more is given."""
        self._open = False
        self._finish()
        await self._notify()

    async def lose(self, reason: str) -> None:
        """The group has gone; a training that it had is not over."""
        self._open, self._lost = False, reason
        await self._notify()

    # ---------------------------------------------------------------------------------------------------- the workers

    async def take(self, seen: int) -> tuple[int, str] | None:
        """Wait for a training with a higher number than `seen`; None: the group is to leave."""
        while not await self._until(lambda: not self._open or (not self._over and self._number > seen), self._idle):
            if self._over and time.monotonic() - self._since >= self._idle:  # else another worker is still busy
                await self.close()
        return (self._number, self._job) if self._open else None

    async def report(self, number: int, values: Event) -> bool:
        """Tell of an epoch, and wait until that is answered; returns whether to go on with this training."""
        if not self._current(number):
            return False
        self._marks += 1
        mark = self._marks
        self._answered[mark] = False
        self._told.append({"report": values, "mark": mark})
        await self._notify()
        await self._until(lambda: not self._current(number) or self._answered[mark], self._idle)
        if not self._answered.pop(mark):
            await self.drop(number)
        return self._current(number)

    async def end(self, number: int, outcome: Event) -> None:
        """This training is over, by itself; of several workers' words the first counts."""
        if self._current(number):
            self._finish()
            self._told.append({"end": outcome})
            await self._notify()

    # -----------------------------------------------------------------------------------------------------------------

    def _current(self, number: int) -> bool:
        return number == self._number and not self._over

    def _finish(self) -> None:
        self._over, self._since = True, time.monotonic()
        self._told.clear()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, true: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait for a condition; returns whether it came true in so many seconds."""
        async with self._changed:
            try:
                async with asyncio.timeout(seconds):
                    await self._changed.wait_for(true)
            except TimeoutError:
                return False
        return True

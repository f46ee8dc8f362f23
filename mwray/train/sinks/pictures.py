"""Pictures of a run as files in its folder: weights, confusion, curves, and what the method itself reports."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mwray.reports import draw, method_draw
from mwray.reports.picture_data import Samples
from mwray.train.sinks.base import RunInfo
from mwray.train.sinks.history import History

EVERY = 30.0
"""Seconds between two drawings: the three files take about 0.5 s on one core, so this keeps them below 2 %."""
SHARE = 0.05
"""Of the time at most, where drawing takes long because the machine is busy."""

logger = logging.getLogger("mwray")


class Pace:
    """Says when enough time has gone by to draw again; the first time is `seconds` after the start."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.clock = seconds, clock
        self.last, self.wait = clock(), seconds

    def due(self) -> bool:
        """Whether to draw now; if so, the next time is `seconds` from now, or later (`drawn`)."""
        if self.clock() - self.last < self.wait:
            return False
        self.last = self.clock()
        return True

    def drawn(self) -> None:
        """The drawing that was due is done: wait so long that drawing keeps to SHARE of the time (0 s: draw always)."""
        self.wait = max(self.seconds, (self.clock() - self.last) / SHARE) if self.seconds else 0.0


class PicturesSink:
    """Draws after an epoch, at most every `every` seconds, and once more at the end."""

    def __init__(self, every: float = EVERY, draw: bool = True) -> None:
        """Draw at most every `every` seconds; with draw=False keep curves.npz alone, which a report draws from."""
        self.every, self.draw = every, draw
        self.run: RunInfo | None = None
        self.arrays: Mapping[str, np.ndarray] | None = None  # of the newest epoch, until it is drawn

    def start(self, run: RunInfo) -> None:
        """Take up the curves of the epochs that are finished."""
        self.run = run
        self.history = History(run.folder / "curves.npz")
        self.history.load(run.first_epoch)
        self.pace = Pace(self.every)

    def step(self, epoch: int, step: int) -> None:
        """Do nothing."""

    def write(self, epoch: int, values: Mapping[str, float], arrays: Mapping[str, np.ndarray]) -> None:
        """Keep the epoch's numbers and curve in curves.npz; draw if it is time."""
        self.history.add(epoch, values, arrays)
        self.arrays = arrays
        if self.pace.due():
            self._draw()
            self.pace.drawn()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Draw the last epoch."""
        self._draw()

    def close(self) -> None:
        """Draw what a run that broke off has come to."""
        try:
            self._draw()
        except OSError as error:  # not raised: it would take the place of what broke the run off
            logger.warning("the last pictures of a run are missing (%s)", error)

    def _draw(self) -> None:
        if self.run is None or self.arrays is None or not self.draw:
            return
        folder, arrays, self.arrays = self.run.folder, self.arrays, None
        samples, curves = samples_of(arrays), self.history.curves()
        if curves is not None or (samples is not None and samples.weights is not None):
            draw.save(draw.weights(curves, samples), folder / "weights.png")
        if "confusion" in arrays:
            draw.save(draw.confusion(arrays["confusion"], self.run.class_names), folder / "confusion.png")
        if matrices := transitions_of(arrays):
            draw.save(draw.transitions(matrices, self.run.class_names), folder / "transition.png")
        columns = self.history.columns()
        if method_draw.reported(columns):
            draw.save(method_draw.method(columns), folder / "method.png")
        draw.save(draw.training(columns), folder / "curves.png")


def transitions_of(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The transition matrices that a method found, by the title that they are drawn under; {} where there are none."""
    prefix = "method.transition_"
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def samples_of(arrays: Mapping[str, np.ndarray]) -> Samples | None:
    """The per-sample arrays of an epoch, or None where there are none."""
    if "sample.loss" not in arrays:
        return None
    return Samples(arrays["sample.loss"], arrays.get("sample.clean"), arrays.get("sample.weight"))

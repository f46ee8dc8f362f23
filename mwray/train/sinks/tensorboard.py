"""TensorBoard: scalars that compare well between runs, pictures, and one row per run in the HParams table."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from mwray.reports import draw
from mwray.reports.loose import bias_text
from mwray.reports.picture_data import Curves
from mwray.storage import patiently
from mwray.train.sinks.base import RunInfo
from mwray.train.sinks.pictures import EVERY, Pace, samples_of, transitions_of

TAGS = {
    "test.accuracy": "accuracy/test",
    "validation.accuracy": "accuracy/validation",
    "train.accuracy_observed": "accuracy/train_observed",
    "train.accuracy_true": "accuracy/train_true",
    "test.loss": "loss/test",
    "validation.loss": "loss/validation",
    "train.loss": "loss/train",
    "train.weighted_loss": "loss/weighted",
    "train.meta_loss": "loss/meta",
    "train.weight_clean": "weights/clean",
    "train.weight_noisy": "weights/noisy",
    "train.weight_auc": "weights/auc",
    "lr": "schedule/learning_rate",
    "seconds": "speed/seconds_per_epoch",
    "images_per_second": "speed/images_per_second",
}
"""Which panel a number is drawn in. Any other name goes to a panel named by its first part."""

UNBIASED = {"imbalance": 1.0, "noise": "none", "rate": 0.0}

logger = logging.getLogger("mwray")


class TensorBoardSink:
    """Writes event files into the run's folder; a resumed run replaces the points that it trains again."""

    def __init__(self, every: float = EVERY) -> None:
        """Draw pictures at most every `every` seconds, and at the end."""
        self.every = every
        self.writer: SummaryWriter | None = None
        self.pending: tuple[int, Mapping[str, np.ndarray]] | None = None  # the newest epoch, until it is drawn

    def start(self, run: RunInfo) -> None:
        """Open the event file and write the settings, so that a running trial is in the table."""
        self.run, self.pace = run, Pace(self.every)
        # SummaryWriter.add_hparams would make a run of its own below this one: a second row. The summary of the whole
        # experiment (the first of three) is left out on purpose: TensorBoard takes the columns of all runs from the
        # first one that it meets, so trials of different methods would lose theirs; without it TensorBoard finds the
        # columns itself, those that differ between runs first.
        settings = {**said_first(run.experiment), **run.experiment}
        _, self.begin, self.end = hparams({name: plain(value) for name, value in settings.items()}, {})
        # Points are numbered by finished epochs: those of first_epoch + 1 on are about to be trained again.
        self._lasting(run.first_epoch + 1, lambda: None)

    def step(self, epoch: int, step: int) -> None:
        """Do nothing."""

    def write(self, epoch: int, values: Mapping[str, float], arrays: Mapping[str, np.ndarray]) -> None:
        """Write the numbers of an epoch; draw its pictures if it is time."""
        self._lasting(epoch, lambda: self._add(epoch, values))
        self.pending = (epoch, arrays)
        if self.pace.due():
            self._lasting(epoch, self._draw)
            self.pace.drawn()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the final numbers, as metrics of the HParams table, and mark the run as finished."""
        self._lasting(self.run.epochs, self._draw)
        self._lasting(self.run.epochs, lambda: self._end(summary))

    def close(self) -> None:
        """Draw what a run that broke off has come to, and close the file."""
        if self.writer is None:
            return
        try:
            self._draw()
        except OSError as error:  # not raised: it would take the place of what broke the run off
            logger.warning("%s: the last pictures are not in TensorBoard (%s)", self.run.folder, error)
        finally:
            self._abandon()

    def _lasting(self, epoch: int, action: Callable[[], None]) -> None:
        """Do `action` and bring it to the disk; where storage fails, wait for it and go on in a new event file.

        TensorBoard's writer does not outlive an error. The new file replaces the points from `epoch` on.
        """

        def attempt() -> None:
            try:
                if self.writer is None:
                    self.writer = SummaryWriter(str(self.run.folder), purge_step=epoch)
                    self._file().add_summary(self.begin)
                action()
                self.writer.flush()  # or a short trial would show nothing until it ends
            except OSError:
                self._abandon()
                raise

        patiently(attempt, self.run.folder)

    def _abandon(self) -> None:
        writer, self.writer = self.writer, None
        if writer is not None:
            with suppress(OSError):
                writer.close()

    def _add(self, epoch: int, values: Mapping[str, float]) -> None:
        assert self.writer is not None
        for name, value in values.items():
            if name != "epoch":
                self.writer.add_scalar(tag(name), value, epoch)

    def _end(self, summary: Mapping[str, Any]) -> None:
        assert self.writer is not None
        for name, value in summary.items():
            if "." in name:
                self.writer.add_scalar(f"final/{name.replace('.', '_')}", value, self.run.epochs)
        self._file().add_summary(self.end)

    def _file(self) -> Any:
        assert self.writer is not None
        return self.writer._get_file_writer()

    def _draw(self) -> None:
        if self.writer is None or self.pending is None:
            return
        (epoch, arrays), self.pending = self.pending, None
        samples = samples_of(arrays)
        if "curve.weight" in arrays:
            curves = Curves(np.array([epoch]), arrays["curve.loss"][None], arrays["curve.weight"][None])
            self._picture("weights/curve", draw.weight_curve(curves, samples), epoch)
        if samples is not None and samples.weights is not None:
            self._picture("weights/histogram", draw.weight_histogram(samples), epoch)
        if "confusion" in arrays:
            self._picture("confusion/test", draw.confusion(arrays["confusion"], self.run.class_names), epoch)

        if matrices := transitions_of(arrays):
            self._picture("transition", draw.transitions(matrices, self.run.class_names), epoch)

    def _picture(self, name: str, figure: Figure, epoch: int) -> None:
        assert self.writer is not None
        self.writer.add_image(name, draw.pixels(figure), epoch, dataformats="HWC")


def tag(name: str) -> str:
    """The TensorBoard tag of a record's number: "panel/line"."""
    return TAGS.get(name, name.replace(".", "/", 1))


def said_first(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader tells runs apart by, as columns of their own; {} where the settings do not say it.

    TensorBoard sorts columns by name, those that differ first, and shows the first five: capital letters come before
    the dotted names.
    """
    bias: dict[str, Any] = {name: experiment.get(f"data.bias.{name}") for name in ("imbalance", "noise", "rate")}
    found = {
        "Bias": None if None in bias.values() else "none" if bias == UNBIASED else bias_text(**bias),
        "Method": experiment.get("method.name"),
        "Network": experiment.get("model.name"),
        "Seed": experiment.get("seed"),
    }
    return {name: value for name, value in found.items() if value is not None}


def plain(value: Any) -> float | str:
    """A setting as the HParams table can hold it: numbers and text as they are, None, booleans and lists as text."""
    if isinstance(value, bool):
        return "true" if value else "false"  # torch would write 1.0, for bool is an int
    if value is None:
        return "none"
    return value if isinstance(value, (int, float, str)) else json.dumps(value)

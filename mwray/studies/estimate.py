"""How long a study may take: by its finished runs where there are some, else by a timed step of each network.

A run's cost is epochs x images x the method's seconds per image, and a third of plain training for every test image (a
forward is a third of forward and backward). It is a rough guide: the sweep corrects it by the pace that it sees.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mwray.config import read
from mwray.data.settings import Data
from mwray.data.sizes import epoch_images, evaluated_images
from mwray.experiment import Experiment
from mwray.records import Run, files_below

Kind = tuple[str, str]
"""Data set and network."""

COST: Mapping[str, float] = {
    "base": 1.0,
    "focal": 1.05,
    "class-balanced": 1.2,
    "reed": 1.2,
    "s-model": 1.4,
    "self-paced": 1.4,
    "co-teaching": 2.3,
    "d2l": 1.5,
    "forward": 1.6,
    "fine-tuning": 1.2,
    "meta-only": 1.1,
    "glc": 1.3,
    "mentornet": 1.7,
    "l2rw": 2.6,
    "mwnet": 3.3,
    "frozen": 1.2,
}
"""Time of an epoch over plain training's, as measured (RESULTS.md); for methods that have not finished a run yet."""
UNKNOWN_COST = 2.0


class Forecast:
    """The time that trainings still take, kept up to date as they finish."""

    def __init__(
        self,
        trainings: Mapping[Path, Experiment],
        others: Iterable[Experiment] = (),
        *,
        root: Path,
        probe: Callable[[Kind, int], float] | None = None,
    ) -> None:
        """Look at what has finished.

        Args:
            trainings: by folder.
            others: those that have no folder yet, as they wait for a weight net.
            root: finished runs below it say how fast this machine, or those before it, are.
            probe: seconds per image of plain training of a kind at a batch size; asked for kinds that have no run.
        """
        self.others = list(others)
        self.waiting = dict(trainings)
        self.total = len(self.waiting) + len(self.others)
        self.known: dict[tuple[Kind, str], list[float]] = {}
        self.probed: dict[Kind, float] = {}
        self.probe = probe
        for path in files_below(root, "done"):
            self.learn(path.parent)
        for folder in [folder for folder in self.waiting if Run(folder).state == "done"]:
            del self.waiting[folder]
        self.start = {folder: Run(folder).epochs() for folder in self.waiting}
        self.ended: dict[Path, Experiment] = {}

    @property
    def done(self) -> int:
        """Trainings that are finished."""
        return self.total - len(self.waiting) - len(self.others)

    def begun(self, folder: Path, experiment: Experiment) -> None:
        """One that had no folder has got it."""
        if self.others:
            self.others.pop()
        self.waiting[folder] = experiment

    def finished(self, folder: Path) -> None:
        """A training has ended, well or not."""
        if folder in self.waiting:
            self.ended[folder] = self.waiting.pop(folder)
        self.learn(folder)

    def learn(self, folder: Path) -> None:
        """Take up how fast a finished run was."""
        run = Run(folder)
        summary = run.summary()
        if summary is None or not summary.get("seconds") or not summary.get("epochs"):
            return
        experiment = run.experiment()
        images = _images(folder, experiment["data"])
        kind = experiment["data"]["source"], experiment["model"]["name"]
        if images:
            speed = summary["seconds"] / summary["epochs"] / images
            self.known.setdefault((kind, experiment["method"]["name"]), []).append(speed)

    def seconds(self, experiment: Experiment, epochs: int | None = None) -> float | None:
        """One training of so many epochs (None: its own), or None where nothing is known of its kind."""
        kind, method = (experiment.data.source, experiment.model.name), experiment.method.name
        plain = self._plain(kind, experiment.batch_size)
        if plain is None:
            return None
        own = self.known.get((kind, method))
        each = statistics.median(own) if own else plain * COST.get(method, UNKNOWN_COST)
        images = epoch_images(experiment.data) * each + evaluated_images(experiment.data) * plain / 3
        return images * (experiment.epochs if epochs is None else epochs)

    def left(self) -> float | None:
        """Seconds of training that are left, one after another; None where nothing is known of one of them."""
        parts = [self.seconds(e, e.epochs - Run(folder).epochs()) for folder, e in self.waiting.items()]
        parts += [self.seconds(experiment) for experiment in self.others]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    def worked(self) -> float | None:
        """Seconds of training that were done since this forecast began, judged as `left` judges what is left."""
        trained = {**self.waiting, **self.ended}
        parts = [self.seconds(e, max(Run(f).epochs() - self.start.get(f, 0), 0)) for f, e in trained.items()]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    def _plain(self, kind: Kind, batch_size: int) -> float | None:
        """Seconds per image of plain training."""
        if own := self.known.get((kind, "base")):
            return statistics.median(own)
        found = [s / COST.get(name, UNKNOWN_COST) for (k, name), many in self.known.items() if k == kind for s in many]
        if found:
            return statistics.median(found)
        if kind not in self.probed and self.probe is not None:
            self.probed[kind] = self.probe(kind, batch_size)
        return self.probed.get(kind)


def _images(folder: Path, data: Mapping[str, Any]) -> int:
    """Training images of a run: as it noted them, else by its settings."""
    try:
        return int(Run(folder).starts()[-1]["num_train"])
    except (OSError, ValueError, LookupError):
        return epoch_images(read(Data, data))

"""How long a study may still take, from how long its finished runs took."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from mwray.experiment import Experiment
from mwray.records import Run
from mwray.studies.plan import Training


def estimate(trainings: Sequence[Training], root: Path) -> float | None:
    """Seconds of training that are still to be done, one after the other; None while nothing comparable has finished.

    An epoch is taken to last as long as the median one of finished runs below `root` on that data set with that
    network and method, or with that network and any method. Long tails are shorter, so this is a rough guide.
    """
    known = _seconds_per_epoch(root)
    total = 0.0
    for training in trainings:
        if Run(training.folder).state == "done":
            continue
        source, network, method = _kind(training.experiment)
        like = known.get((source, network, method)) or [
            s for k, v in known.items() if k[:2] == (source, network) for s in v
        ]
        if not like:
            return None
        left = training.experiment.epochs - len(Run(training.folder).records())
        total += max(left, 0) * statistics.median(like)
    return total


def _seconds_per_epoch(root: Path) -> dict[tuple[str, str, str], list[float]]:
    known: dict[tuple[str, str, str], list[float]] = {}
    for path in root.rglob("done"):
        run = Run(path.parent)
        summary, settings = run.summary() or {}, run.experiment()
        key = (settings["data"]["source"], settings["model"]["name"], settings["method"]["name"])
        if summary.get("epochs"):
            known.setdefault(key, []).append(summary["seconds"] / summary["epochs"])
    return known


def _kind(experiment: Experiment) -> tuple[str, str, str]:
    return experiment.data.source, experiment.model.name, experiment.method.name

"""Running plans: first what can start, then what waited for a weight net."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from mwray.records import Run
from mwray.studies.estimate import Forecast
from mwray.studies.plan import Plan, Training, prepare

NETS = "weight-nets"
"""Folder of the weight nets that were carried, beside the runs."""

Train = Callable[[Sequence[Training]], int]
"""Trains all that are not finished, each in its folder, and returns how many failed."""


def run(plans: Sequence[Plan], train: Train, forecast: Forecast | None = None) -> int:
    """Train all of `plans`; returns how many trainings failed or could not be begun. Called again, it goes on.

    Runs that several plans share are trained once.
    """
    first = together(plans)
    prepare([training for plan in plans for training in plan.trainings])
    failed = train(first)
    ready = second_part(plans)
    if forecast is not None:
        for training in ready:
            forecast.begun(training.folder, training.experiment)
    prepare(ready)
    if ready:
        failed += train(_distinct(ready))
    return failed + sum(len(plan.pending) for plan in plans) - len(ready)


def together(plans: Sequence[Plan]) -> list[Training]:
    """The trainings that can start, each folder once."""
    return _distinct([training for plan in plans for training in plan.trainings])


def second_part(plans: Sequence[Plan]) -> list[Training]:
    """The trainings with a frozen weight net whose source has finished; the nets are kept beside the runs.

    Whoever trains finds them through MWRAY_WEIGHT_NETS, which is set here.
    """
    from mwray.transfer import from_run, keep  # loads torch

    ready = []
    for pending in [pending for plan in plans for pending in plan.pending]:
        if Run(pending.source.folder).state == "done":
            learned = from_run(pending.source.folder)
            file = keep(learned, pending.root / NETS)
            os.environ["MWRAY_WEIGHT_NETS"] = str(file.parent)
            ready.append(pending.training(learned.shape, learned.parameters.tolist(), file.name))
    return ready


def _distinct(trainings: Sequence[Training]) -> list[Training]:
    found: dict[Path, Training] = {}
    for training in trainings:
        found.setdefault(training.folder, training)
    return list(found.values())

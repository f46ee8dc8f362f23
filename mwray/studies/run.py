"""Running a plan: first what can start, then what waited for a weight net."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mwray.records import Run
from mwray.studies.plan import Plan, Training, prepare

Train = Callable[[Sequence[Training]], int]
"""Trains all that are not finished, each in its folder, and returns how many failed."""


def run(plan: Plan, train: Train) -> int:
    """Train all of `plan`; returns how many trainings failed or could not be begun. Called again, it goes on."""
    prepare(plan.trainings)
    failed = train(plan.trainings)
    if plan.pending:
        ready = second_part(plan)
        prepare(ready)
        failed += train(ready) + len(plan.pending) - len(ready)
    return failed


def second_part(plan: Plan) -> list[Training]:
    """The trainings with a frozen weight net whose source has finished."""
    from mwray.transfer import from_run  # loads torch

    ready = []
    for pending in plan.pending:
        if Run(pending.source.folder).state == "done":
            learned = from_run(pending.source.folder)
            ready.append(pending.training(learned.shape, learned.parameters.tolist()))
    return ready

"""Several seeds for each point of a search: which training comes next."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from mwray.space import Space


def repetition(space: Space, trials: Sequence[FrozenTrial]) -> dict[str, Any]:
    """What is known of the next trial: the first point that lacks a seed, at that seed; or the first seed of a new one.

    A point that failed or was stopped as hopeless is not repeated. {} where the space has one seed.
    """
    if space.seeds == 1:
        return {}
    points: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        point = {name: value for name, value in trial.params.items() if name != "seed"}
        points.setdefault(json.dumps(point, sort_keys=True), []).append(trial)
    seeds = space.ranges["seed"].grid()
    for found in points.values():
        missing = [seed for seed in seeds if seed not in {trial.params.get("seed") for trial in found}]
        if missing and all(trial.state in (TrialState.RUNNING, TrialState.COMPLETE) for trial in found):
            return {**found[0].params, "seed": missing[0]}
    return {"seed": seeds[0]}

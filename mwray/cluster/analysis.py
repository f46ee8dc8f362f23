"""What a search says about its fields: which mattered, which values were good. Numbers only; no drawing, no Ray.

Importances are Optuna's PED-ANOVA (Watanabe, Bansal and Hutter, IJCAI 2023): how much a field's values among the best
trials differ from those among all. It needs no model of the objective and takes fields that only some trials have.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState, create_trial
from scipy import stats  # type: ignore[import-untyped]

from mwray.cluster.names import heading, plain
from mwray.cluster.points import SEED
from mwray.cluster.study import Entry
from mwray.space import Choice, FloatRange, Space
from mwray.space.ranges import Range

FEWEST = 4
"""Finished trials below which no importance is computed: it compares the best trials with the rest."""
BEST_SHARE = 0.25
"""The best trials whose values are told: a quarter, two at least."""


@dataclass(frozen=True)
class Level:
    """One choice of a field and what the trials that had it came to."""

    value: str
    n: int
    mean: float
    spread: float | None
    best: float


@dataclass(frozen=True)
class Field:
    """A searched field over the finished trials that have it."""

    name: str
    """Dotted."""
    short: str
    """As pictures and tables call it."""
    importance: float | None
    """Share of all importances, 0..1; None: too few trials, or no difference between them."""
    trend: float | None
    """Numbers: Spearman's rank correlation with "better", -1..1."""
    good: str
    """Where the best trials lie."""
    levels: tuple[Level, ...] = ()
    """Choices, best mean first."""


def short_names(names: Sequence[str]) -> dict[str, str]:
    """A short name for each dotted one, all different: its heading, with more of the path where two are alike."""
    headings = [heading(name) for name in names]
    found = {
        name: ".".join(name.split(".")[-2:]) if headings.count(short) > 1 else short
        for name, short in zip(names, headings, strict=True)
    }
    return found if len(set(found.values())) == len(found) else {name: name for name in names}


def tidy(space: Space, entries: Sequence[Entry]) -> optuna.Study:
    """The search as an Optuna study in memory, with short names and choices as text: what its pictures are drawn from.

    Trials keep their numbers; those that did not finish are there as failed ones, without their values.
    """
    study = optuna.create_study(direction="maximize" if space.mode == "max" else "minimize")
    short = short_names(list(space.ranges))
    known = {entry.number: entry for entry in entries if entry.state == "complete"}
    for number in range(max(known, default=-1) + 1):
        entry = known.get(number)
        if entry is None:
            study.add_trial(create_trial(state=TrialState.FAIL))
            continue
        params = {short[name]: _text_or_number(space.ranges[name], value) for name, value in entry.values.items()}
        distributions = {short[name]: _distribution(space.ranges[name]) for name in entry.values}
        study.add_trial(create_trial(value=entry.value, params=params, distributions=distributions))
    return study


def averaged(space: Space, entries: Sequence[Entry]) -> tuple[Space, list[Entry]]:
    """A search over seeds as one over points: the space without the seed, each point with its mean objective.

    What makes the best trials of such a search is half of it luck; what makes the best means is the setting.
    """
    if space.seeds == 1:
        return space, list(entries)
    points: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.state == "complete" and entry.value is not None:
            point = {name: value for name, value in entry.values.items() if name != SEED}
            points.setdefault(json.dumps(point, sort_keys=True), []).append(entry)
    ranges = {name: range_ for name, range_ in space.ranges.items() if name != SEED}
    means = [
        replace(
            found[0],
            values={name: value for name, value in found[0].values.items() if name != SEED},
            value=statistics.fmean(entry.value or 0.0 for entry in found),
        )
        for found in points.values()
    ]
    return replace(space, ranges=ranges, seeds=1), means


def spreads(space: Space, entries: Sequence[Entry]) -> tuple[float, float] | None:
    """Over several seeds: standard deviation of the points' means, and of the seeds within a point (pooled)."""
    points: dict[str, list[float]] = {}
    for entry in entries:
        if entry.state == "complete" and entry.value is not None:
            point = {name: value for name, value in entry.values.items() if name != SEED}
            points.setdefault(json.dumps(point, sort_keys=True), []).append(entry.value)
    several = [statistics.variance(values) for values in points.values() if len(values) > 1]
    if space.seeds == 1 or len(points) < 2 or not several:
        return None
    return statistics.stdev(map(statistics.fmean, points.values())), math.sqrt(statistics.fmean(several))


def fields(space: Space, entries: Sequence[Entry]) -> tuple[Field, ...]:
    """Every searched field, the most important first."""
    done = [entry for entry in entries if entry.state == "complete" and entry.value is not None]
    weight = importances(tidy(space, entries))
    short = short_names(list(space.ranges))
    found = [_field(name, short[name], weight.get(short[name]), space, done) for name in space.ranges]
    return tuple(sorted(found, key=lambda field: -(field.importance or 0.0)))


def importances(study: optuna.Study) -> Mapping[str, float]:
    """Share of each field by its short name; {} where there are too few finished trials, or all came to the same."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < FEWEST or len({trial.value for trial in done}) < 2:
        return {}
    return optuna.importance.get_param_importances(study)


def best_of(entries: Sequence[Entry], mode: str) -> list[Entry]:
    """The best quarter of the finished trials, two at least, best first."""
    done = [entry for entry in entries if entry.value is not None]
    ranked = sorted(done, key=lambda entry: entry.value or 0.0, reverse=mode == "max")
    return ranked[: max(2, round(BEST_SHARE * len(ranked)))]


# ---------------------------------------------------------------------------------------------------------------------


def _field(name: str, short: str, importance: float | None, space: Space, done: Sequence[Entry]) -> Field:
    having = [entry for entry in done if name in entry.values]
    best = [entry.values[name] for entry in best_of(done, space.mode) if name in entry.values]
    if isinstance(space.ranges[name], Choice):
        return Field(name, short, importance, None, _counted(best), _levels(name, having, space.mode))
    return Field(name, short, importance, _trend(name, having, space.mode), _spanned(best))


def _levels(name: str, having: Sequence[Entry], mode: str) -> tuple[Level, ...]:
    values: dict[str, list[float]] = {}
    for entry in having:
        values.setdefault(plain(entry.values[name]), []).append(entry.value or 0.0)
    better = max if mode == "max" else min
    levels = [
        Level(
            value,
            len(found),
            statistics.fmean(found),
            statistics.stdev(found) if len(found) > 1 else None,
            better(found),
        )
        for value, found in values.items()
    ]
    return tuple(sorted(levels, key=lambda level: level.mean, reverse=mode == "max"))


def _trend(name: str, having: Sequence[Entry], mode: str) -> float | None:
    values = [float(entry.values[name]) for entry in having]
    objectives = [entry.value or 0.0 for entry in having]
    if len(having) < FEWEST or len(set(values)) < 2 or len(set(objectives)) < 2:
        return None
    trend = float(stats.spearmanr(values, objectives).statistic)
    return trend if mode == "max" else -trend


def _counted(best: Sequence[Any]) -> str:
    texts = [plain(value) for value in best]
    often = sorted(dict.fromkeys(texts), key=lambda text: -texts.count(text))
    return ", ".join(f"{text} ({texts.count(text)} of {len(texts)})" for text in often[:3])


def _spanned(best: Sequence[Any]) -> str:
    return f"{plain(min(best))} to {plain(max(best))}" if best else "-"


def _text_or_number(range_: Range, value: Any) -> Any:
    return plain(value) if isinstance(range_, Choice) else value


def _distribution(range_: Range) -> BaseDistribution:
    if isinstance(range_, Choice):
        return CategoricalDistribution([plain(value) for value in range_.choice])
    if isinstance(range_, FloatRange):
        return FloatDistribution(*range_.float, log=range_.log, step=range_.step)
    return IntDistribution(*range_.int, log=range_.log, step=range_.step)

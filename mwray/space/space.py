"""A search space: a recipe, what is fixed, what is searched; every value in it is tried on the settings beforehand.

recipe: digits
set: {data.bias.rate: 0.6}                     fixed fields, by dotted name
search:
  method.weight_net.shape: {choice: [1-50-1, 1-100-1]}
  optimizer.lr: {float: [0.03, 0.3], log: true}
  data.num_meta: {int: [20, 200], step: 20}
start: [{}]                                    points tried first; what they leave out is the recipe's own value
metric: validation.accuracy
trials: 12
seeds: 1                                       trainings of each point, at as many seeds
sampler: tpe                                   or random, grid
pruner: {asha: {grace_period: 13}}             or {median: {}}, none
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from mwray.config import ConfigError, leaves, names, nearest, override, parse, read, to_dict
from mwray.experiment import Experiment
from mwray.recipes import recipe
from mwray.space.ranges import KINDS, Choice, FloatRange, Range, same
from mwray.space.settings import METRICS, Pruner, SpaceFile

MOST_POINTS = 100_000
"""The largest grid: beyond it somebody mistyped an end."""


@dataclass(frozen=True)
class Space:
    """A checked search space."""

    source: str
    """The file it came from, for messages."""
    recipe: str
    base: Experiment
    """The recipe with the fixed fields set."""
    ranges: Mapping[str, Range]
    """By dotted name; a field comes after those that its `when` names."""
    starts: tuple[Mapping[str, Any], ...]
    metric: str
    mode: str
    trials: int
    seed: int
    sampler: str
    pruner: Pruner
    seeds: int = 1
    """Trainings of each point; above 1, `ranges` ends with the field `seed`."""

    @property
    def name(self) -> str:
        """The file's name without its ending; a folder is called by it, so it is never "" or ".."."""
        return Path(self.source).stem.strip(".") or "search"

    def active(self, name: str, values: Mapping[str, Any]) -> bool:
        """Whether `name` is searched, given the `values` of the fields before it."""
        when = self.ranges[name].when
        return all(
            other in values and any(same(values[other], value) for value in allowed) for other, allowed in when.items()
        )

    def experiment(self, values: Mapping[str, Any]) -> Experiment:
        """The experiment of one point.

        Raises:
            ConfigError: the point is impossible.
        """
        return override(self.base, values)

    def complete(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Fill a starting point with the recipe's own values, where they lie inside their range.

        What then is still missing is drawn by the sampler.
        """
        own = leaves(self.base)
        values: dict[str, Any] = {}
        for name, range_ in self.ranges.items():
            if not self.active(name, values):
                continue
            if name in point:
                values[name] = point[name]
            elif name in own and range_.contains(own[name]):
                values[name] = own[name]
        return values

    def grid(self) -> list[dict[str, Any]]:
        """Every point, each once, without the fields that are not searched there; the last field moves fastest."""
        points: list[dict[str, Any]] = [{}]
        for name, range_ in self.ranges.items():
            points = [
                {**point, **extra}
                for point in points
                for extra in ([{name: value} for value in range_.grid()] if self.active(name, point) else [{}])
            ]
        return points

    def first(self) -> list[dict[str, Any]]:
        """The points that are known before the search: the starting points, then the grid where it is one."""
        seeds = [{"seed": seed} for seed in self.ranges["seed"].grid()] if self.seeds > 1 else [{}]
        points = [{**self.complete(start), **seed} for start in self.starts for seed in seeds]
        if self.sampler == "grid":
            points += self.grid()
        unique = {json.dumps(point, sort_keys=True): point for point in points}
        return list(unique.values())

    def grace_period(self, given: int | None, epochs: int) -> int:
        """Epochs during which no trial is stopped.

        A third of the run by default: under label noise early ranks mislead. On digits with 40 % uniform noise (one
        search of 12 trials over 40 epochs) the rank correlation of validation accuracy with its last value was -0.3 to
        -0.2 over the first four epochs, 0.8 at a third and 0.9 at half.
        """
        return given if given is not None else max(1, epochs // 3)

    def description(self) -> dict[str, Any]:
        """All that makes two searches comparable, as plain data; the number of trials is not part of it."""
        return {
            "recipe": self.recipe,
            "base": to_dict(self.base),
            "search": {name: to_dict(range_) for name, range_ in self.ranges.items()},
            "start": [dict(start) for start in self.starts],
            "metric": self.metric,
            "mode": self.mode,
            "seed": self.seed,
            "sampler": self.sampler,
            "pruner": to_dict(self.pruner),
            **({"seeds": self.seeds} if self.seeds > 1 else {}),  # searches of before have no such entry
        }


def build(data: Mapping[str, Any], source: str, assignments: Sequence[str] = ()) -> Space:
    """Check a space given as plain data; `source` names it in messages. Arguments and errors as in `load`."""
    try:
        file = read(SpaceFile, {**data, "pruner": _pruner(data.get("pruner"))})
        base = recipe(file.recipe)
        fixed = {**file.set, **dict(parse(base, assignment) for assignment in assignments)}
        base = _fixed(base, fixed)
        ranges = _in_order({name: _range(name, given) for name, given in file.search.items()})
        for name in ranges:
            _check_name(name, ranges, fixed)
            _check_values(name, ranges, base)
        trials = _trials(file, ranges)
        ranges |= _seeds(file, ranges, base)
        space = Space(
            source=source,
            recipe=file.recipe,
            base=base,
            ranges=ranges,
            starts=file.start,
            metric=file.metric,
            mode=_mode(file),
            trials=trials,
            seed=file.seed,
            sampler=file.sampler,
            pruner=file.pruner,
            seeds=file.seeds,
        )
        _check_metric(space)
        _check_pruner(space)
        _check_starts(space)
    except ConfigError as error:
        raise ConfigError("\n".join(f"{source}: {line}" for line in str(error).splitlines())) from None
    return space


# ---------------------------------------------------------------------------------------------------------------------


def _pruner(given: Any) -> Any:
    """`none`, `asha` and `asha:` without a body are ways to write what is meant."""
    if given is None or given == "none":
        return {}
    if isinstance(given, str):
        if given not in ("asha", "median"):
            raise ConfigError(
                f"pruner: {given!r} is not one of asha, median, none.{nearest(given, ['asha', 'median'])}"
            )
        return {given: {}}
    if isinstance(given, Mapping):
        return {name: {} if body is None else body for name, body in given.items()}
    return given


def _fixed(base: Experiment, values: Mapping[str, Any]) -> Experiment:
    try:
        return override(base, values)
    except ConfigError as error:
        raise ConfigError("\n".join(f"set: {line}" for line in str(error).splitlines())) from None


def _range(name: str, given: Mapping[str, Any]) -> Range:
    kinds = [kind for kind in KINDS if kind in given]
    if len(kinds) != 1:
        what = f"keys {', '.join(map(str, given))}" if given else "nothing"
        hint = next((nearest(str(key), list(KINDS)) for key in given if nearest(str(key), list(KINDS))), "")
        raise ConfigError(f"search.{name}: has {what}; exactly one of choice, float, int is needed.{hint}")
    try:
        return read(KINDS[kinds[0]], given)
    except ConfigError as error:
        text = str(error).removeprefix(f"{KINDS[kinds[0]].__name__}: ")
        raise ConfigError(f"search.{name}: {text}") from None


def _in_order(ranges: dict[str, Range]) -> dict[str, Range]:
    """The same ranges, each after those that its `when` names."""
    ordered: dict[str, Range] = {}
    for name, range_ in ranges.items():
        for other, allowed in range_.when.items():
            _check_condition(name, other, allowed, ranges)
    while len(ordered) < len(ranges):
        ready = {n: r for n, r in ranges.items() if n not in ordered and all(other in ordered for other in r.when)}
        if not ready:
            circle = ", ".join(name for name in ranges if name not in ordered)
            raise ConfigError(f"search: the `when` of {circle} wait for one another")
        ordered |= ready
    return ordered


def _check_condition(name: str, other: str, allowed: Sequence[Any], ranges: Mapping[str, Range]) -> None:
    where = f"search.{name}.when"
    if other not in ranges:
        raise ConfigError(f"{where}: {other!r} is not searched.{nearest(other, list(ranges))}")
    if isinstance(ranges[other], FloatRange):
        raise ConfigError(f"{where}: {other!r} is a real number; a condition needs a choice or an int")
    for value in allowed:
        if not ranges[other].contains(value):
            raise ConfigError(f"{where}: {other} is never {value!r}: it is {ranges[other]}")


def _check_name(name: str, ranges: Mapping[str, Range], fixed: Mapping[str, Any]) -> None:
    known = names(Experiment)
    if name not in known:
        raise ConfigError(f"search.{name}: there is no such field.{nearest(name, known)}")
    if name in fixed:
        raise ConfigError(f"search.{name}: is fixed to {fixed[name]!r} under `set` as well; keep one of the two")


def _contexts(name: str, ranges: Mapping[str, Range]) -> Iterator[dict[str, Any]]:
    """Every setting of the searched fields that decide whether `name` exists: names of tagged sections, conditions."""
    when = ranges[name].when
    options: dict[str, list[Any]] = {}
    for other, range_ in ranges.items():
        if other in when:
            options[other] = list(when[other])
        elif other.endswith(".name") and other != name and isinstance(range_, Choice):
            options[other] = list(range_.choice)
    for values in itertools.product(*options.values()):
        yield dict(zip(options, values, strict=True))


def _check_values(name: str, ranges: Mapping[str, Range], base: Experiment) -> None:
    """Try every choice, and both ends of every interval, on the experiment."""
    for context in _contexts(name, ranges):
        here = override(base, context)
        if name not in leaves(here):
            _refuse_foreign(name, here, context, ranges)
        for value in ranges[name].edges():
            try:
                override(here, {name: value})
            except ConfigError as error:
                raise ConfigError(f"search.{name}: {str(error).removeprefix(f'{name}: ')}") from None


def _refuse_foreign(name: str, here: Experiment, context: Mapping[str, Any], ranges: Mapping[str, Range]) -> NoReturn:
    section = name.split(".")[0]
    given = leaves(here).get(f"{section}.name")
    cure = f"give it `when: {{{section}.name: [...]}}`" if f"{section}.name" in context else f"set {section}.name"
    raise ConfigError(f"search.{name}: {section} {given!r} has no such field; {cure}, or leave it out")


def _mode(file: SpaceFile) -> str:
    if file.metric not in METRICS:
        why = "; the test set is never used to choose anything" if file.metric.startswith("test") else ""
        hint = nearest(file.metric, list(METRICS))
        raise ConfigError(f"metric: {file.metric!r} is not one of {', '.join(METRICS)}{why}.{hint}")
    better = METRICS[file.metric]
    if file.mode not in (None, better):
        raise ConfigError(
            f"mode: {file.mode!r} looks for the worst {file.metric}; write mode: {better}, or leave it out"
        )
    return better


def _trials(file: SpaceFile, ranges: Mapping[str, Range]) -> int:
    if file.sampler == "grid":
        for name, range_ in ranges.items():
            if range_.count() is None:
                raise ConfigError(f"search.{name}: a grid needs a step, or a choice of values: {range_} has no end")
        size = math.prod(range_.count() or 1 for range_ in ranges.values())
        if size > MOST_POINTS:
            raise ConfigError(f"sampler: the grid has up to {size} points; {MOST_POINTS} is the most. Use sampler: tpe")
        return file.trials or size
    if file.trials is None:
        raise ConfigError(f"trials: a number is needed for sampler: {file.sampler}, for example trials: 20")
    return file.trials


def _seeds(file: SpaceFile, ranges: Mapping[str, Range], base: Experiment) -> dict[str, Range]:
    """The field that repeats each point; a searched one at the end, so that a grid has a point's seeds side by side."""
    if file.seeds > 1 and "seed" in ranges:
        raise ConfigError(f"seeds: {file.seeds} is given, and `seed` is searched as well; keep one of the two")
    return {"seed": Choice(choice=tuple(base.seed + k for k in range(file.seeds)))} if file.seeds > 1 else {}


def _check_metric(space: Space) -> None:
    if not space.metric.startswith("validation."):
        return
    range_ = space.ranges.get("data.num_validation")
    if min(range_.edges()) == 0 if range_ else space.base.data.num_validation == 0:
        raise ConfigError(
            f"metric: {space.metric} is measured on validation samples, and data.num_validation is 0; "
            "add `set: {data.num_validation: 200}` or more"
        )


def _check_pruner(space: Space) -> None:
    kind, settings = ("asha", space.pruner.asha) if space.pruner.asha else ("median", space.pruner.median)
    epochs = space.ranges["epochs"].edges() if "epochs" in space.ranges else [space.base.epochs]
    if settings and settings.grace_period is not None and settings.grace_period >= min(epochs):
        raise ConfigError(
            f"pruner.{kind}.grace_period: {settings.grace_period} epochs of {min(epochs)} leave nothing to save"
        )


def _check_starts(space: Space) -> None:
    for number, start in enumerate(space.starts, 1):
        where = f"start, point {number}"
        for name, value in start.items():
            if name not in space.ranges:
                raise ConfigError(f"{where}: {name!r} is not searched.{nearest(name, list(space.ranges))}")
            if not space.ranges[name].contains(value):
                raise ConfigError(f"{where}: {name} is {value!r}, and is searched over {space.ranges[name]}")
        point = space.complete(start)
        unused = [name for name in start if name not in point]
        if unused:
            raise ConfigError(f"{where}: {unused[0]} is given, and its `when` does not hold there")
        try:
            space.experiment(point)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

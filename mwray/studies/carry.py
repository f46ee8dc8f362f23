"""A weight net learned on one recipe, frozen, on another: beside it, training there without it (paper, section 4.4)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mwray.config import ConfigError, override, refuse_chosen
from mwray.data.sizes import CLASSES
from mwray.experiment import Experiment
from mwray.recipes import recipe
from mwray.records import Run
from mwray.reports.cells import Cell, find
from mwray.reports.published import TRANSFERRED
from mwray.reports.tables import tables
from mwray.reports.text import to_markdown
from mwray.studies.plan import SOURCE_SEED, Training, folder_name, plain, prepare, variant, with_values
from mwray.studies.run import NETS, Train
from mwray.studies.tables import ROWS

if TYPE_CHECKING:
    from mwray.methods.learned_weight_net import LearnedWeightNet


@dataclass(frozen=True)
class Outcome:
    """What a transfer came to."""

    text: str
    """The table, in Markdown, and where the weight nets are."""
    failed: int


def carry(
    source: str,
    target: str,
    root: Path,
    train: Train,
    *,
    seeds: int = 5,
    use: str = "final",
    scaled: bool = False,
    methods: Sequence[str] = ("base", "mwnet", "l2rw", "mentornet"),
    values: Mapping[str, Any] | None = None,
    file: Path | None = None,
) -> Outcome:
    """Learn on `source`, train on `target` with the learned net, and with `methods` that know nothing of it.

    Args:
        source, target: recipes; where both have one data set, the net is learned on another split and noise.
        root: the folder of the runs; the weight nets are kept in root/weight-nets.
        train: trains all that are not finished, and returns how many failed.
        seeds: seeds 0 .. seeds - 1.
        use: "final", the net as it was in the end; "trajectory", in each epoch the one of as far through its learning.
        scaled: multiply losses by ln(classes of source) / ln(classes of target), the ratio of losses at the start. The
            paper scales nothing.
        methods: to compare with on the target, under its own schedule (twice over for those with two phases).
        values: further settings of every experiment, by dotted name.
        file: a weight net that was kept: it takes the place of what would be learned on `source`, for every seed.

    Raises:
        ConfigError: a name is unknown or a setting impossible, before anything is started.
        WeightNetError: the file is not a weight net that can be used.
    """
    values = values or {}
    refuse_chosen(values, {"method.name": "--methods", "seed": "--seeds", "data.source": "--source and --target"})
    goal = recipe(target)
    given = None if file is None else _read(file)
    rivals = {name: _rival(goal, name, values) for name in methods}
    table = f"{plain(file.stem) if file else source} to {target}"
    place = {"table": table, "preset": variant("transfer", values), "dataset": goal.data.source, "bias": target}
    sources = [] if given else _sources(source, goal, root, seeds, values)
    beside = [
        _training(root, replace(experiment, seed=seed), Cell(row=row, seed=seed, **place))
        for row, experiment in rivals.values()
        for seed in range(seeds)
    ]
    failed = _train(train, [*sources, *beside])
    name = TRANSFERRED + (", trajectory" if use == "trajectory" else "") + (", losses scaled" if scaled else "")
    learned = [(seed, given) for seed in range(seeds)] if given else _learned(sources)
    carried = []
    for seed, net in learned:
        net = net.scaled(_ratio(net, goal)) if scaled else net
        frozen = _frozen(goal, net, _keep(net, root / NETS), use)
        experiment = with_values(frozen, {k: v for k, v in values.items() if k != "data.num_meta"})
        carried.append(_training(root, replace(experiment, seed=seed), Cell(row=name, seed=seed, **place)))
    failed += _train(train, carried) + seeds - len(carried)
    found = [one for one in tables(find(root)) if one.name == table]
    text = "\n".join(map(to_markdown, found))
    return Outcome(f"{text}\nThe weight nets are in {root / NETS}", failed)


def _train(train: Train, trainings: Sequence[Training]) -> int:
    prepare(trainings)
    return train(trainings) if trainings else 0


def _training(root: Path, experiment: Experiment, *cells: Cell) -> Training:
    return Training(experiment, root / folder_name(experiment), cells)


def _method(experiment: Experiment, name: str) -> Experiment:
    return experiment if experiment.method.name == name else override(experiment, {"method.name": name})


def _rival(goal: Experiment, name: str, values: Mapping[str, Any]) -> tuple[str, Experiment]:
    """A method on the target, by the name that tables give it, with the schedule that it has there."""
    experiment = with_values(_method(goal, name), values)
    row = ROWS.get(name)
    return (name, experiment) if row is None else (row.name, row.schedule(experiment))


def _sources(source: str, goal: Experiment, root: Path, seeds: int, values: Mapping[str, Any]) -> list[Training]:
    learner = with_values(_method(recipe(source), "mwnet"), values)
    shift = SOURCE_SEED if learner.data.source == goal.data.source else 0
    return [_training(root, replace(learner, seed=seed + shift)) for seed in range(seeds)]


def _ratio(learned: LearnedWeightNet, goal: Experiment) -> float:
    """Of the losses at the start: those of even guesses among the source's and the target's classes."""
    source = learned.source.get("data", {}).get("source")
    if source not in CLASSES:
        raise ConfigError(f"--losses scaled: the weight net does not say how many classes its source had ({source!r})")
    return math.log(CLASSES[source]) / math.log(CLASSES[goal.data.source])


def _read(file: Path) -> LearnedWeightNet:
    from mwray.transfer import load  # loads torch

    return load(file)


def _learned(sources: Sequence[Training]) -> Iterator[tuple[int, LearnedWeightNet]]:
    """The weight nets of the sources that have finished, with the positions of their sources."""
    from mwray.transfer import from_run  # loads torch

    for seed, source in enumerate(sources):
        if Run(source.folder).state == "done":
            yield seed, from_run(source.folder)


def _keep(net: LearnedWeightNet, folder: Path) -> str:
    """Write the net down where those that train find it; returns its name, which is made of its content."""
    from mwray.transfer import keep

    os.environ["MWRAY_WEIGHT_NETS"] = str(folder)
    return keep(net, folder).name


def _frozen(target: Experiment, net: LearnedWeightNet, file: str, use: str) -> Experiment:
    """The target with the frozen net and no meta images: theirs are trained on (paper, section 4.4).

    The final net is part of the experiment itself; a trajectory is too long for that and stays in its file.
    """
    values: dict[str, Any] = {"method.name": "frozen", "method.use": use, "data.num_meta": 0}
    if use == "trajectory" or net.classes is not None:
        return override(target, values | {"method.file": file})
    return override(target, values | {"method.shape": net.shape, "method.parameters": net.parameters.tolist()})

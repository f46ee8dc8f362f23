"""A weight net learned on one recipe, frozen, on another: beside it, training there without it (paper, section 4.4)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mwray.config import ConfigError, fingerprint, override
from mwray.data.sizes import CLASSES
from mwray.experiment import Experiment
from mwray.recipes import recipe
from mwray.records import Run
from mwray.reports.cells import Cell, find
from mwray.reports.published import TRANSFERRED
from mwray.reports.tables import tables
from mwray.reports.text import to_markdown
from mwray.studies.plan import SOURCE_SEED, Training, folder_name, prepare, variant, with_values
from mwray.studies.run import Train

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
        methods: to compare with on the target, under its own schedule.
        values: further settings of every experiment, by dotted name.

    Raises:
        ConfigError: a name is unknown or a setting impossible, before anything is started.
    """
    values = values or {}
    learner = with_values(_learner(recipe(source)), values)
    rivals = {name: with_values(_method(recipe(target), name), values) for name in methods}
    shift = SOURCE_SEED if learner.data.source == recipe(target).data.source else 0
    table, bias = f"{source} to {target}", target
    place = {"table": table, "preset": variant("transfer", values), "dataset": recipe(target).data.source, "bias": bias}
    sources = [_training(root, replace(learner, seed=seed + shift)) for seed in range(seeds)]
    beside = [
        _training(root, replace(experiment, seed=seed), Cell(row=name, seed=seed, **place))
        for name, experiment in rivals.items()
        for seed in range(seeds)
    ]
    failed = _train(train, [*sources, *beside])
    name = TRANSFERRED + (", trajectory" if use == "trajectory" else "") + (", losses scaled" if scaled else "")
    carried = []
    for seed, learned in _learned(sources, root, _ratio(learner, recipe(target)) if scaled else 1.0):
        experiment = with_values(
            _frozen(recipe(target), learned, use), {k: v for k, v in values.items() if k != "data.num_meta"}
        )
        carried.append(_training(root, replace(experiment, seed=seed), Cell(row=name, seed=seed, **place)))
    failed += _train(train, carried) + seeds - len(carried)
    found = [one for one in tables(find(root)) if one.name == table]
    text = "\n".join(map(to_markdown, found))
    return Outcome(f"{text}\nThe weight nets are in {root / 'weight-nets'}", failed)


def _train(train: Train, trainings: Sequence[Training]) -> int:
    prepare(trainings)
    return train(trainings) if trainings else 0


def _training(root: Path, experiment: Experiment, *cells: Cell) -> Training:
    return Training(experiment, root / folder_name(experiment), cells)


def _method(experiment: Experiment, name: str) -> Experiment:
    return experiment if experiment.method.name == name else override(experiment, {"method.name": name})


def _learner(experiment: Experiment) -> Experiment:
    return _method(experiment, "mwnet")


def _ratio(source: Experiment, target: Experiment) -> float:
    return math.log(CLASSES[source.data.source]) / math.log(CLASSES[target.data.source])


def _learned(
    sources: Sequence[Training], root: Path, factor: float
) -> Iterator[tuple[int, tuple[Path, LearnedWeightNet]]]:
    """The weight nets of the sources that have finished, kept as files, with the positions of their sources."""
    from mwray.transfer import from_run, save  # loads torch

    for seed, source in enumerate(sources):
        if Run(source.folder).state == "done":
            learned = rescaled(from_run(source.folder), factor)
            ending = "" if factor == 1 else f"-losses-x{factor:.4f}"
            path = root / "weight-nets" / f"{fingerprint(source.experiment)}{ending}.json"
            yield seed, (path if path.exists() else save(learned, path), learned)


def rescaled(learned: LearnedWeightNet, factor: float) -> LearnedWeightNet:
    """The weight net that gives to a loss what `learned` gives to `factor` times it.

    The first layer is linear in the loss: its weights, the first of the parameters, take the factor up.
    """
    if factor == 1:
        return learned
    if not factor > 0:
        raise ConfigError(f"losses cannot be scaled by {factor}: a positive factor is needed")
    width = int(learned.shape.split("-")[1])

    def scale(vectors: Any) -> Any:
        copy = vectors.clone()
        copy[..., :width] *= factor
        return copy

    low_high = learned.loss_range
    return replace(
        learned,
        parameters=scale(learned.parameters),
        trajectory=None if learned.trajectory is None else scale(learned.trajectory),
        loss_range=None if low_high is None else (low_high[0] / factor, low_high[1] / factor),
    )


def _frozen(target: Experiment, learned: tuple[Path, LearnedWeightNet], use: str) -> Experiment:
    """The target with the frozen net and no meta images: theirs are trained on (paper, section 4.4).

    The final net is part of the experiment itself; a trajectory is too long for that and stays in its file.
    """
    path, net = learned
    values: dict[str, Any] = {"method.name": "frozen", "method.use": use, "data.num_meta": 0}
    if use == "trajectory":
        return override(target, values | {"method.file": str(path)})
    return override(target, values | {"method.shape": net.shape, "method.parameters": net.parameters.tolist()})

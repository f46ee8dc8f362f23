"""What the cheaper steps cost in accuracy: every mode of Meta-Weight-Net against the exact one, over seeds.

    python -m benchmarks.modes                                  digits, uniform and flip noise, five seeds: minutes
    python -m benchmarks.modes --tasks cifar10-flip             2,000 images of CIFAR-10, ResNet-8: half an hour
    python -m benchmarks.modes --tasks cifar10-flip-reduced     the same, until wrong labels are known by heart: an hour

Started again it goes on where it was. "gradient" is the weight net's gradient of a mode beside the exact one's, at the
same states of an exact training: relative error, and the cosine between the two vectors of inner products u.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.timing import surroundings
from mwray.config import override
from mwray.data.loader import Loader
from mwray.data.splits import split
from mwray.experiment import Experiment
from mwray.meta.step import MetaWeightNet
from mwray.methods.mwnet import optimizer_of
from mwray.methods.settings import MWNetSettings
from mwray.models.registry import build
from mwray.recipes import recipe
from mwray.reports.published import CIFAR10
from mwray.seeding import rng
from mwray.studies.presets import PRESETS, Bias
from mwray.train.loop import train

MODES: dict[str, dict[str, Any]] = {
    "BaseModel": {"method.name": "base"},
    "exact": {},
    "every=10": {"method.meta.every": 10},
    "lagged": {"method.meta.order": "lagged"},
    "top": {"method.meta.layers": "top"},
    "lagged, top": {"method.meta.order": "lagged", "method.meta.layers": "top"},
    "every=10, lagged, top": {"method.meta.every": 10, "method.meta.order": "lagged", "method.meta.layers": "top"},
}
COST = {"BaseModel": 1.0, "exact": 10 / 3, "every=10": 1.23, "lagged": 8 / 3, "top": 2.0, "lagged, top": 16 / 9}
COST["every=10, lagged, top"] = 1.08
"""In forwards and backwards of plain training, at equal batch sizes, of a network whose last stage is a third."""
MARKS = (0, 10, 30, 60, 100)
"""Steps of an exact training at which gradients are compared."""

TASKS: dict[str, Callable[[], Experiment]] = {
    "digits": partial(recipe, "digits"),
    "digits-flip": partial(recipe, "digits-flip"),
    "cifar10-flip": lambda: override(recipe("cifar10-flip-small"), CUT),
    "cifar10-flip-reduced": lambda: override(
        PRESETS["reduced"].experiment(CIFAR10, Bias("flip", 0.4)), PRESETS["reduced"].mwnet
    ),
}
CUT = {"model.name": "resnet8", "data.num_train": 2000, "data.num_validation": 0, "data.num_test": 2000}


def main() -> None:
    """Train what is missing, compare gradients, print tables, write the numbers and a picture."""
    options = _options()
    logging.getLogger("mwray").setLevel(logging.WARNING)
    report = {"settings": vars(options) | {"out": str(options.out), "runs": str(options.runs)}}
    report["where"] = surroundings("cpu")
    accuracies = _accuracies(options)
    slopes = {task: gradients(task, options.gradient_seeds) for task in options.tasks}
    report["tasks"] = {task: _rows(accuracies[task], slopes[task]) for task in options.tasks}
    for task, rows in report["tasks"].items():
        _show(task, rows)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "modes.json").write_text(json.dumps(report, indent=1))
    draw(report["tasks"], options.out / "modes.png")
    print(f"numbers: {options.out / 'modes.json'}   picture: {options.out / 'modes.png'}")


def experiment(task: str, mode: str, seed: int) -> Experiment:
    """The task's recipe in that mode."""
    return override(TASKS[task](), {"seed": seed, **MODES[mode]})


def _accuracies(options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Per cent on the test set at the last epoch; seeds outermost, so that what is there when stopped is balanced."""
    found: dict[str, dict[str, list[float]]] = {task: {mode: [] for mode in options.modes} for task in options.tasks}
    runs = list(itertools.product(range(options.seeds), options.tasks, options.modes))
    started = time.monotonic()
    for number, (seed, task, mode) in enumerate(runs, 1):
        folder = options.runs / f"{task}-{mode.replace(', ', '-').replace('=', '')}-{seed}"
        summary = train(experiment(task, mode, seed), folder)
        found[task][mode].append(100 * summary["test.last"])
        left = (time.monotonic() - started) / number * (len(runs) - number)
        print(f"{number} of {len(runs)}: {task}, {mode}, seed {seed}; about {left / 60:.0f} min left", flush=True)
    return found


def gradients(task: str, seeds: int) -> dict[str, list[tuple[float, float]]]:
    """For each mode relative error of theta's gradient and cosine of u, at every mark of `seeds` exact trainings."""
    found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in ("lagged", "top", "lagged, top")}
    for seed in range(seeds):
        settings = experiment(task, "exact", seed)
        learner = _learner(settings)
        for step, (batch, meta) in enumerate(itertools.islice(_batches(settings), max(MARKS) + 1)):
            if step in MARKS:
                exact = _slopes(learner, settings, {}, batch, meta)
                for mode, pairs in found.items():
                    choice = {name.rsplit(".", 1)[1]: value for name, value in MODES[mode].items()}
                    theta, u = _slopes(learner, settings, choice, batch, meta)
                    error = float((theta - exact[0]).norm() / exact[0].norm())
                    pairs.append((error, float(torch.cosine_similarity(u, exact[1], 0))))
            learner.step(batch, meta)
    return found


def _learner(settings: Experiment) -> MetaWeightNet:
    assert isinstance(settings.method, MWNetSettings)
    torch.manual_seed(settings.seed)
    splits = split(settings.data, settings.seed)
    model = build(settings.model, splits.num_classes, splits.shape)
    optimizer = settings.optimizer.build(model.parameters())
    weight_optimizer = optimizer_of(settings.method.weight_net)
    return MetaWeightNet(model, optimizer, settings.method.weight_net.shape, weight_optimizer=weight_optimizer)


def _slopes(
    learner: MetaWeightNet, settings: Experiment, choice: dict[str, Any], batch: Any, meta: Any
) -> tuple[Tensor, Tensor]:
    """The gradient that `choice` would give the weight net in the learner's next step, and its u; nothing moves."""
    own = copy.deepcopy(learner)
    step = MetaWeightNet(own.model, own.optimizer, own.weight_net, **choice).step(batch, meta)
    assert step.alignment is not None
    return torch.cat([p.grad.flatten() for p in own.weight_net.parameters() if p.grad is not None]), step.alignment


def _batches(settings: Experiment) -> Iterator[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    splits, device, seed = split(settings.data, settings.seed), torch.device("cpu"), settings.seed
    train_set = Loader(splits.train, splits, device, settings.data.augment)
    meta_set = Loader(splits.meta, splits, device, settings.data.augment)
    for epoch in itertools.count():
        generators = [rng(seed, name, epoch) for name in ("order", "augment", "meta-order", "meta-augment")]
        batches = train_set.epoch(settings.batch_size, *generators[:2])
        for batch, meta in zip(batches, meta_set.cycle(settings.meta_batch_size, *generators[2:]), strict=False):
            yield (batch.x, batch.y), (meta.x, meta.y)


def _rows(accuracies: dict[str, list[float]], slopes: dict[str, list[tuple[float, float]]]) -> list[dict[str, Any]]:
    rows = []
    for mode, values in accuracies.items():
        pairs = slopes.get(mode, [])
        rows.append(
            {
                "mode": mode,
                "cost": COST[mode],
                "accuracies": values,
                "mean": statistics.mean(values),
                "sd": statistics.stdev(values) if len(values) > 1 else None,
                "gradient_errors": [error for error, _ in pairs],
                "cosines": [cosine for _, cosine in pairs],
            }
        )
    return rows


def _show(task: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=f"{task}: test accuracy at the last epoch; the weight net's gradient beside the exact one")
    for column in ("", "cost", "test %", "n", "gradient error, median (range)", "cosine of u, median (least)"):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows:
        spread = "" if row["sd"] is None else f" +- {row['sd']:.2f}"
        errors, cosines = sorted(row["gradient_errors"]), sorted(row["cosines"])
        error = f"{statistics.median(errors):.2f} ({errors[0]:.2f} to {errors[-1]:.2f})" if errors else ""
        cosine = f"{statistics.median(cosines):.3f} ({cosines[0]:.3f})" if cosines else ""
        accuracy = f"{row['mean']:.2f}{spread}"
        table.add_row(row["mode"], f"{row['cost']:.2f}", accuracy, str(len(row["accuracies"])), error, cosine)
    Console(width=110).print(table)


def draw(tasks: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Accuracy against cost, a panel for each task; bars are a standard deviation over seeds."""
    figure = Figure(figsize=(3.6 * len(tasks), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (task, rows) in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks.items(), strict=True):
        for row in rows:
            color = {"BaseModel": "#999999", "exact": "#D55E00"}.get(row["mode"], "#0072B2")
            axes.errorbar(row["cost"], row["mean"], yerr=row["sd"] or 0, fmt="o", color=color, capsize=3)
            beside = (5, -11 if row["mode"] in ("BaseModel", "top") else 4)  # their neighbours' names are above
            axes.annotate(row["mode"], (row["cost"], row["mean"]), beside, textcoords="offset points", fontsize=7)
        axes.set_title(task, fontsize=9, loc="left")
        axes.set_xlabel("operations of a step, plain training = 1", fontsize=8)
        axes.set_ylabel("test accuracy, %", fontsize=8)
        axes.set_xlim(0.8, 4.2)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.modes", description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=["digits", "digits-flip"])
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--gradient-seeds", type=int, default=2, help="exact trainings along which gradients are compared"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/modes"), help="folder of the runs' own folders")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="folder of modes.json and modes.png")
    return parser.parse_args()


if __name__ == "__main__":
    main()

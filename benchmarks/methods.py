"""What every method costs over a whole run, in units of plain training: processor time of training alone.

    python -m benchmarks.methods                                          digits, the small convolutional network
    python -m benchmarks.methods --recipe cifar10-flip-small --model resnet8 --rounds 3 --only base glc mwnet

A run has ten epochs of a few steps, so that phases, warm-ups and estimates between epochs take the share that their
defaults give them. Methods take turns, a run each in a round; the ratio is taken to BaseModel's run of the same round.
Processor time hardly sees what else a machine does; evaluation, checkpoints and pictures are left out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.timing import quartiles
from mwray.config import override
from mwray.experiment import Experiment
from mwray.methods.registry import METHODS
from mwray.recipes import RECIPES, recipe
from mwray.train.loop import Session
from mwray.worker import LocalWorker

EPOCHS = 10
BASE = "base"
NEEDED: dict[str, dict[str, Any]] = {
    "frozen": {"method.shape": "1-100-1", "method.parameters": [0.01] * 301},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "mentornet, predefined": {"method.name": "mentornet", "method.curriculum": "predefined"},
    "s-model, complex": {"method.name": "s-model", "method.form": "complex"},
    "mwnet, every=5": {"method.name": "mwnet", "method.meta.every": 5},
}
"""Forms that cost something else than their method's default."""


def main() -> None:
    """Measure and print a table."""
    options = _options()
    torch.set_num_threads(options.threads)
    cases = {name: {"method.name": name, **NEEDED.get(name, {})} for name in METHODS} | VARIANTS
    chosen = {name: case for name, case in cases.items() if not options.only or name in [BASE, *options.only]}
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    cost(experiment(options, cases[BASE]))  # whatever happens once in a process is not BaseModel's alone
    plan = [(name, case) for _ in range(options.rounds) for name, case in chosen.items()]
    for name, case in track(plan, "runs", console=Console(stderr=True)):
        seconds[name].append(cost(experiment(options, case)))
    _show(seconds, options)


def experiment(options: argparse.Namespace, case: dict[str, Any]) -> Experiment:
    """Ten epochs of `options.steps` steps of the recipe, with the method of `case`."""
    base = recipe(options.recipe)
    sizes = {"epochs": EPOCHS, "optimizer.milestones": [8], "data.num_train": options.steps * base.batch_size}
    model = {"model.name": options.model} if options.model else {}
    return override(base, {**sizes, **model, **case})


def cost(settings: Experiment) -> float:
    """Processor seconds of all epochs: steps and what the method does between them."""
    with tempfile.TemporaryDirectory() as folder:
        session = Session(settings, Path(folder), LocalWorker("cpu"), ())
        started = time.process_time()
        for epoch in range(settings.epochs):
            session.method.epoch_start(epoch)
            for batch, meta in session._batches(epoch):
                session.method.update(batch, meta)
            session.method.epoch_end(epoch)
        return time.process_time() - started


def _show(seconds: dict[str, list[float]], options: argparse.Namespace) -> None:
    title = f"{options.recipe}, {EPOCHS} epochs of {options.steps} steps, {options.rounds} rounds: cost in BaseModel's"
    table = Table(title=title)
    for column in ("method", "x plain", "quartiles", "seconds"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, own in seconds.items():
        low, middle, high = quartiles([mine / base for mine, base in zip(own, seconds[BASE], strict=True)])
        table.add_row(name, f"{middle:.2f}", f"{low:.2f} to {high:.2f}", f"{quartiles(own)[1]:.2f}")
    Console(width=100).print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="digits")
    parser.add_argument("--model", default="", help="a network of mwray.models; default: the recipe's")
    parser.add_argument("--steps", type=int, default=5, help="steps in an epoch")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved repeats")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these methods beside BaseModel")
    return parser.parse_args()


if __name__ == "__main__":
    main()

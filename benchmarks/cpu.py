"""What pays on a CPU: each way to run a step beside the way it is run by default, for plain training and for ours.

    python -m benchmarks.cpu                        ResNet-32, 100 + 100 images
    python -m benchmarks.cpu --compile              with torch.compile, which takes minutes and a C++ compiler

A ratio is the time of a step beside the default's in the same round: below 1 it pays.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.charts import bars, ratio_spread
from benchmarks.contenders import Task, ours, plain
from benchmarks.timing import interleaved, quartiles, surroundings
from mwray.train.memory import keep_freed_memory

DEFAULT = "default"


@dataclass(frozen=True)
class Way:
    """How a step is run."""

    name: str
    channels_last: bool = False
    sgd: dict[str, Any] = field(default_factory=dict)
    compiled: bool = False
    threads: int = 0  # 0: as many as there are
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext


WAYS = [
    Way(DEFAULT),
    Way("channels_last", channels_last=True),
    Way("SGD fused", sgd={"fused": True}),
    Way("SGD foreach", sgd={"foreach": True}),
    Way("bfloat16 (autocast)", precision=partial(torch.autocast, "cpu", torch.bfloat16)),
    Way("channels_last, bfloat16", channels_last=True, precision=partial(torch.autocast, "cpu", torch.bfloat16)),
    Way("one thread", threads=1),
]
COMPILED = [
    Way("torch.compile", compiled=True),
    Way("channels_last, torch.compile", channels_last=True, compiled=True),
]
"""Ours records its training forward eagerly whatever the model is: it can gain in the meta batch's passes alone."""


def main() -> None:
    """Measure, print, write the numbers and a picture."""
    options = _options()
    if options.keep_freed_memory:
        keep_freed_memory()
    threads = options.threads or torch.get_num_threads()
    ways = [way for way in [*WAYS, *(COMPILED if options.compile else [])] if way.threads != threads]
    rows = {kind: measure(kind, ways, threads, options) for kind in ("plain training", "mwray, exact")}
    report = {"settings": vars(options) | {"out": str(options.out)}, "where": surroundings("cpu"), "rows": rows}
    for kind, found in rows.items():
        _show(kind, found)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "cpu.json").write_text(json.dumps(report, indent=1))
    draw(rows, options.out / "cpu.png")
    print(f"numbers: {options.out / 'cpu.json'}   picture: {options.out / 'cpu.png'}")


def measure(kind: str, ways: list[Way], threads: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per way, in their order."""
    steps: dict[str, Callable[[], object]] = {}
    for way in ways:
        print(f"{kind}: first step with {way.name}", flush=True)
        steps[way.name] = _step(kind, way, threads, options)
        steps[way.name]()
    seconds = interleaved(steps, options.rounds, "cpu", options.clock)
    rows = []
    for way in ways:
        ratios = [mine / base for mine, base in zip(seconds[way.name], seconds[DEFAULT], strict=True)]
        low, middle, high = quartiles(ratios)
        milliseconds = 1e3 * quartiles(seconds[way.name])[1]
        rows.append({"name": way.name, "milliseconds": milliseconds, "ratio": middle, "ratio_quartiles": [low, high]})
    return rows


def _step(kind: str, way: Way, threads: int, options: argparse.Namespace) -> Callable[[], object]:
    task = Task.of(options.model, options.batch, options.meta_batch, "cpu", way.channels_last, **way.sgd)
    if way.compiled:
        task.model.compile()
    step = (plain if kind == "plain training" else ours())(task)

    def run() -> None:
        torch.set_num_threads(way.threads or threads)
        with way.precision():
            step()

    return run


def _show(kind: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=kind)
    for column in ("", "ms", "x default", "quartiles"):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows:
        low, high = row["ratio_quartiles"]
        table.add_row(row["name"], f"{row['milliseconds']:.0f}", f"{row['ratio']:.2f}", f"{low:.2f} to {high:.2f}")
    Console(width=100).print(table)


def draw(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Bars of the ratios with their quartiles; the line is the default."""
    figure = Figure(figsize=(7, 1.2 + 0.28 * sum(len(found) for found in rows.values())), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (kind, found) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
        ratios = [row["ratio"] for row in found]
        colors = ["#009E73" if ratio < 0.97 else "#D55E00" if ratio > 1.03 else "#999999" for ratio in ratios]
        title = f"{kind}: time of a step relative to the default"
        bars(axes, [row["name"] for row in found], ratios, colors, "{:.2f}", title, spread=ratio_spread(found))
        axes.axvline(1, color="#444444", linewidth=0.8)
    figure.savefig(path, dpi=150)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet32", help="a network of mwray.models, or transformer")
    parser.add_argument("--batch", type=int, default=100, help="training images in a step")
    parser.add_argument("--meta-batch", type=int, default=100, help="meta images in a step")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved repeats")
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall", help="processor: for a busy machine")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of the default (0: as PyTorch chooses)")
    parser.add_argument("--keep-freed-memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="folder of cpu.json and cpu.png")
    return parser.parse_args()


if __name__ == "__main__":
    main()

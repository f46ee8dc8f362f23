"""How the cost of a Meta-Weight-Net step grows with the batch, the meta batch, the weight net and the size of the data.

    python -m benchmarks.scaling                                 ResNet-8 on random 32x32 images, this machine's CPU
    python -m benchmarks.scaling --network resnet32 --device cuda --rounds 50
    python -m benchmarks.scaling --workers 1,2                   over several processes: see benchmarks.workers

One thing is varied at a time from 100 + 100 images, a weight net 1-100-1 and 2,000 training images. Each point is
measured beside plain training in the same rounds, batches from the loader included. On a CPU it is processor time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.timing import quartiles, surroundings
from benchmarks.trials import Trial, trial
from mwray.train.tracker import Tracker
from mwray.worker import LocalWorker

USUAL: dict[str, Any] = {"batch": 100, "meta_batch": 100, "weight_net": "1-100-1", "size": 2000}
AXES: dict[str, tuple[str, Sequence[Any]]] = {
    "batch": ("training images in a step", (25, 50, 100, 200, 400)),
    "meta_batch": ("meta images in a step", (10, 25, 50, 100, 200, 400)),
    "weight_net": ("weight net", ("1-10-1", "1-100-1", "1-1000-1", "1-100-100-1", "1-1000-1000-1")),
    "size": ("training images", (1000, 5000, 20000, 50000)),
}


def main() -> None:
    """Measure every axis, print a table, write the numbers and a picture."""
    if "--workers" in sys.argv:
        from benchmarks import workers

        workers.main()
        return
    options = _options()
    torch.set_num_threads(options.threads)
    report = {"settings": vars(options) | {"out": str(options.out)}, "where": surroundings(options.device)}
    report["axes"] = {axis: [point(axis, value, options) for value in AXES[axis][1]] for axis in options.axes}
    _show(report["axes"], options)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "scaling.json").write_text(json.dumps(report, indent=1))
    draw(report, options.out / "scaling.png")
    print(f"numbers: {options.out / 'scaling.json'}   picture: {options.out / 'scaling.png'}")


def point(axis: str, value: Any, options: argparse.Namespace) -> dict[str, Any]:
    """One setting: milliseconds of a plain step and of ours, and what an epoch costs beside its steps."""
    settings = {**USUAL, axis: value}
    steps = {method: _stepping(method, settings, options) for method in ("base", "mwnet")}
    for step, _ in steps.values():
        step()
    seconds: dict[str, list[float]] = {method: [] for method in steps}
    for _ in range(options.rounds):
        for method, (step, _) in steps.items():
            seconds[method].append(_timed(step, options.device))
    ratios = [mine / base for mine, base in zip(seconds["mwnet"], seconds["base"], strict=True)]
    low, middle, high = quartiles(ratios)
    return {
        "value": value,
        "plain_ms": 1e3 * quartiles(seconds["base"])[1],
        "ms": 1e3 * quartiles(seconds["mwnet"])[1],
        "ratio": middle,
        "ratio_quartiles": [low, high],
        "epoch_ms": 1e3 * steps["mwnet"][1](),
        "rounds": options.rounds,
    }


def _stepping(
    method: str, settings: dict[str, Any], options: argparse.Namespace
) -> tuple[Callable[[], object], Callable[[], float]]:
    """A step with its batches and its bookkeeping; and seconds that an epoch costs beside its steps."""
    own = {} if method == "base" else {"method.weight_net.shape": settings["weight_net"]}
    sizes = {name: settings[name] for name in ("batch", "meta_batch", "size")}
    one = trial(options.network, options.shape, method=method, device=options.device, **sizes, **own)
    tracker = Tracker(one.splits.train, LocalWorker(options.device))

    def step() -> None:
        batch, meta = next(one.batches)
        tracker.add(batch, one.method.update(batch, meta if one.method.needs_meta else None))

    return step, lambda: _timed(lambda: _turn(one, tracker), options.device)


def _turn(one: Trial, tracker: Tracker) -> None:
    """From one epoch to the next: what was seen, of every image, is read, and the order drawn anew."""
    tracker.losses.uniform_()
    tracker.weights.uniform_()
    tracker.read()
    tracker.reset()
    torch.randperm(len(one.splits.train))


def _timed(step: Callable[[], object], device: str) -> float:
    if device == "cpu":
        start = time.process_time()
        step()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def _show(axes: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    table = Table(title=f"{options.network}, {options.device}: a step, with its batches from the loader")
    for column in ("", "", "plain ms", "ours ms", "x plain", "quartiles", "epoch to epoch, ms"):
        table.add_column(column, justify="left" if not column else "right")
    for axis, points in axes.items():
        for row in points:
            low, high = row["ratio_quartiles"]
            numbers = (row["plain_ms"], row["ms"], row["ratio"], row["epoch_ms"])
            plain, ours, ratio, epoch = (f"{number:.2f}" for number in numbers)
            table.add_row(AXES[axis][0], str(row["value"]), plain, ours, ratio, f"{low:.2f} to {high:.2f}", epoch)
        table.add_section()
    Console(width=110).print(table)


def draw(report: dict[str, Any], path: Path) -> None:
    """A panel for each axis: milliseconds of both kinds of step, and their ratio above each point."""
    axes_of = report["axes"]
    figure = Figure(figsize=(3.1 * len(axes_of), 3), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, points) in zip(figure.subplots(1, len(axes_of), squeeze=False)[0], axes_of.items(), strict=True):
        places = range(len(points))
        for key, label, color in (("ms", "Meta-Weight-Net", "#E69F00"), ("plain_ms", "plain training", "#999999")):
            axes.plot(places, [row[key] for row in points], "o-", color=color, label=label, markersize=4)
        for place, row in zip(places, points, strict=True):
            axes.annotate(
                f"{row['ratio']:.1f}x", (place, row["ms"]), (0, 5), textcoords="offset points", fontsize=7, ha="center"
            )
        axes.set_xticks(places, [str(row["value"]) for row in points], fontsize=7, rotation=30 if name[0] == "w" else 0)
        axes.set_ylim(0, 1.15 * max(row["ms"] for row in points))
        axes.set_title(AXES[name][0], fontsize=9, loc="left")
        axes.tick_params(axis="y", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("milliseconds a step", fontsize=8)
    figure.axes[0].legend(fontsize=8, frameon=False, loc="upper left")
    figure.savefig(path, dpi=150)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet8", help="a network of mwray.models")
    parser.add_argument("--shape", type=_shape, default=(3, 32, 32), metavar="C,H,W", help="of an image")
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES), metavar="AXIS", help=", ".join(AXES))
    parser.add_argument("--rounds", type=int, default=7, help="interleaved repeats")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="folder of scaling.json and .png")
    return parser.parse_args()


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    main()

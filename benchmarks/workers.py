"""What a step costs over W workers: measured on this machine, and modelled for more GPUs than anybody has at hand.

    python -m benchmarks.workers                             ResNet-32 over 1 and 2 processes, 100 + 100 images in all
    python -m benchmarks.workers --model resnet32 wrn16-4 --workers 1 2 --overlap

Each W is a group of processes over gloo with one thread each. All W run in turn, several times over, and each ratio
is to the first W of the same round. "exchange" includes the wait for the slowest worker; "expected" is the share of
the images plus that exchange, so what is above it is what processes on one machine take from each other. The model of
more GPUs is `modelled`: exchange from counted bytes, compute from `--gpu`, or counted, with the assumptions it prints.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import multiprocessing

from benchmarks.scaling_model import ASSUMPTIONS, NETWORKS, modelled
from benchmarks.scaling_model import measured as measured_on_gpu
from benchmarks.timing import quartiles, surroundings
from mwray.meta.step import MetaWeightNet
from mwray.models.registry import build
from mwray.models.settings import Model
from mwray.models.sync_batch_norm import synchronized
from mwray.process_group import ProcessGroupWorker

FORMS = ("plain", "meta-weight-net", "meta-weight-net, synchronized")
OVERLAPPED = ("plain, overlapped", "meta-weight-net, overlapped")


def main() -> None:
    """Measure, model, print both, write numbers and a picture."""
    options = _options()
    measured = {name: measure(name, options) for name in options.model}
    seconds = None if options.gpu is None else measured_on_gpu(options.gpu)
    rows = [row for name in NETWORKS for row in modelled(name, seconds=seconds)]
    report = {
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()},
        "where": surroundings("cpu"),
        "measured": measured,
        "model": {"assumptions": ASSUMPTIONS, "rows": rows},
    }
    for name, found in measured.items():
        _show(name, found, options)
    _show_model(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "workers.json").write_text(json.dumps(report, indent=1))
    draw(report, options.out / "workers.png")
    print(f"numbers: {options.out / 'workers.json'}   picture: {options.out / 'workers.png'}")


def measure(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each form of step and number of workers: medians over rounds."""
    forms = [*FORMS, *(OVERLAPPED if options.overlap else [])]
    found: dict[tuple[str, int], list[dict[str, float]]] = {(f, w): [] for f in forms for w in options.workers}
    for _ in range(options.rounds):
        for size in options.workers:
            for form, values in _group(name, size, forms, options).items():
                found[form, size].append(values)
    rows = []
    for (form, size), rounds in found.items():
        base = [r["seconds"] for r in found[form, options.workers[0]]]
        ratios = [r["seconds"] / b for r, b in zip(rounds, base, strict=True)]
        row: dict[str, Any] = {"form": form, "workers": size, "ratio": quartiles(ratios)[1], "ratios": ratios}
        row |= {key: quartiles([r[key] for r in rounds])[1] for key in rounds[0]}
        share = options.workers[0] / size  # of the first one's images
        row["expected"] = share + row["exchange_seconds"] / quartiles(base)[1]
        rows.append(row)
    return rows


def _group(name: str, size: int, forms: list[str], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """What rank 0 of `size` processes measured of each form."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        path = Path(folder) / "found.json"
        multiprocessing.spawn(_process, (size, port, name, forms, options, path), size)
        return dict(json.loads(path.read_text()))


def _process(
    rank: int, size: int, port: int, name: str, forms: list[str], options: argparse.Namespace, path: Path
) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    workers = {overlap: ProcessGroupWorker("cpu", overlap) for overlap in (False, True)}  # of one group
    found = {form: _time(name, form, workers[form in OVERLAPPED], options) for form in forms}
    if rank == 0:
        path.write_text(json.dumps(found))
    workers[False].close()


def _time(name: str, form: str, worker: ProcessGroupWorker, options: argparse.Namespace) -> dict[str, float]:
    """Seconds, exchanged bytes and seconds of exchange per step, over a few steps after a first one."""
    step = _step(name, form, worker, options.batch // worker.size)
    step()
    worker.average([torch.zeros(1)])  # all begin together
    worker.exchanged()
    started = time.perf_counter()
    for _ in range(options.steps):
        step()
    seconds = time.perf_counter() - started
    cost = worker.exchanged()
    return {
        "seconds": seconds / options.steps,
        "exchange_seconds": cost["seconds"] / options.steps,
        "exchange_bytes": cost["bytes"] / options.steps,
        "exchange_calls": cost["calls"] / options.steps,
    }


def _step(name: str, form: str, worker: ProcessGroupWorker, images: int) -> Any:
    torch.manual_seed(0)
    model = build(Model(name=name), 10, (3, 32, 32)).train()
    if "synchronized" in form:
        model = synchronized(model, worker)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(worker.rank)
    x, y = torch.randn(images, 3, 32, 32, generator=generator), torch.randint(10, (images,), generator=generator)
    if form.startswith("meta"):
        weigher = MetaWeightNet(model, optimizer, worker=worker)
        return lambda: weigher.step((x, y), (x, y))
    parameters = list(model.parameters())

    def plain() -> None:
        loss = torch.nn.functional.cross_entropy(model(x), y)
        for parameter, gradient in zip(parameters, worker.gradients(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()

    return plain


def _show(name: str, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    table = Table(title=f"{name}: {options.batch} + {options.batch} images over W processes, {options.rounds} rounds")
    for column in ("step", "W", "ms", "ratio", "expected", "exchange ms", "exchange KiB", "calls"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for row in rows:
        cells = [f"{1e3 * row['seconds']:.0f}", f"{row['ratio']:.2f}", f"{row['expected']:.2f}"]
        cells.append(f"{1e3 * row['exchange_seconds']:.1f}")
        sizes = [f"{row['exchange_bytes'] / 1024:.0f}", f"{row['exchange_calls']:.0f}"]
        table.add_row(row["form"], str(row["workers"]), *cells, *sizes)
    Console(width=110).print(table)
    numbers = sum(p.numel() for p in build(Model(name=name), 10, (3, 32, 32)).parameters())
    print(f"  a gradient is {numbers / 256:.0f} KiB; the model counts one for a plain step, three for an exact one")


def _show_model(rows: list[dict[str, Any]]) -> None:
    table = Table(title="Model, not measurement: efficiency at a fixed batch per GPU")
    for column in ("network", "GPUs", "compute ms", "exchange ms", "efficiency", "plain training's"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in rows:
        how = "" if row["measured"] else " (counted)"
        times = [f"{1e3 * row['compute']:.1f}{how}", f"{1e3 * row['exchange']:.1f}"]
        table.add_row(
            row["network"], str(row["workers"]), *times, f"{row['efficiency']:.0%}", f"{row['plain_efficiency']:.0%}"
        )
    Console(width=110).print(table)
    for text in ASSUMPTIONS:
        print(f"  {text}")


def draw(report: dict[str, Any], path: Path) -> None:
    """Left: step time against W as measured; right: the model's efficiency against the number of GPUs."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    colors = ["#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7"]
    lines = [(name, form) for name in report["measured"] for form in {r["form"]: 0 for r in report["measured"][name]}]
    for color, (name, form) in zip(colors * 3, lines, strict=False):
        rows = [row for row in report["measured"][name] if row["form"] == form]
        left.plot([r["workers"] for r in rows], [r["ratio"] for r in rows], "o-", color=color, label=f"{name}, {form}")
    left.set(xlabel="processes W", ylabel="time of a step, relative to W = 1", ylim=(0, None))
    left.set_xticks(report["settings"]["workers"])
    for color, name in zip(colors, NETWORKS, strict=False):
        rows = [row for row in report["model"]["rows"] if row["network"] == name]
        right.plot([r["workers"] for r in rows], [r["efficiency"] for r in rows], "o-", color=color, label=name)
        right.plot([r["workers"] for r in rows], [r["plain_efficiency"] for r in rows], ":", color=color)
    right.set(xlabel="GPUs (model; dotted: plain training)", ylabel="efficiency", xscale="log", ylim=(0, 1.05))
    right.set_xticks([1, 8, 64, 512], ["1", "8", "64", "512"])
    for axes in (left, right):
        axes.legend(fontsize=7, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["resnet32"], help="networks of mwray.models")
    parser.add_argument(
        "--workers", type=_numbers, nargs="+", default=[[1, 2]], help="numbers of processes: 1 2, or 1,2"
    )
    parser.add_argument("--gpu", type=Path, help="gpu.json of benchmarks.gpu: its times instead of counted compute")
    parser.add_argument("--batch", type=int, default=100, help="training images, and meta images, over all workers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of each form in a round")
    parser.add_argument("--overlap", action="store_true", help="also with gradients exchanged during the backward pass")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="folder of numbers and picture")
    options = parser.parse_args()
    options.workers = sorted({number for numbers in options.workers for number in numbers})
    return options


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()

"""Iterations per second of the training loop: eager against CUDA graphs, in every precision, on both paper networks.

    python -m benchmarks.gpu                                    all of it, on a GPU: about five minutes
    python -m benchmarks.gpu --device cpu --model resnet8 --batch 10 --seconds 1    eager only, to try it out

What is timed is the loop's own iteration - crop, step, statistics - over batches of 100 + 100 images that lie on the
device. "cell" is how long the paper's run takes at that pace (ResNet-32: 60 epochs, WRN-28-10: 40, of 490 iterations),
without evaluation. Real CIFAR-10 is used where it is found, else noise; the time does not depend on it.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.charts import bars
from benchmarks.images import cifar10
from benchmarks.timing import surroundings
from mwray.config import override
from mwray.data.splits import split
from mwray.experiment import Experiment
from mwray.recipes import recipe
from mwray.train.execution import Execution
from mwray.train.execution import precision as computing_in
from mwray.train.loop import Session
from mwray.worker import LocalWorker

METHODS = {
    "plain": {"method.name": "base"},
    "mwnet": {"method.name": "mwnet"},
    "mwnet, every 10th": {"method.name": "mwnet", "method.meta.every": 10},
}
EPOCHS = {"resnet32": 60, "wrn28-10": 40}
STEPS = 490
PREPARING = 44
"""Iterations before the clock runs: where each tenth moves the weight net, the 31st is the one that is captured."""
COLORS = {"eager": "#999999", "graph": "#E69F00"}


@dataclass(frozen=True)
class Cell:
    """One training loop to be timed."""

    model: str
    precision: str
    method: str
    path: str


def main() -> None:
    """Measure each cell, say so at once, write the numbers and a picture."""
    options = _options()
    torch.backends.cudnn.benchmark = options.autotune
    source, what = cifar10()
    began, rows, why = time.perf_counter(), [], ""
    report = {
        "settings": vars(options) | {"out": str(options.out)},
        "images": what,
        "where": surroundings(options.device),
        "rows": rows,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    with mock.patch("mwray.train.loop.split", lambda data, seed: split(data, seed, source)):
        for cell in _cells(options):
            if time.perf_counter() - began > options.limit:
                why = why or "no time left"
            row = {**vars(cell), **({"skipped": why} if why else _measured(cell, options))}
            if "CUDA error" in row.get("error", ""):  # after which this process can use the device no more
                why = "the device failed before"
            rows.append(row)
            print(_line(row), flush=True)
            (options.out / "gpu.json").write_text(json.dumps(report, indent=1))  # whatever comes
    draw(rows, options.out / "gpu.png")
    print(f"numbers: {options.out / 'gpu.json'}   picture: {options.out / 'gpu.png'}")


def _cells(options: argparse.Namespace) -> list[Cell]:
    paths = ["eager", "graph"] if options.device == "cuda" else ["eager"]
    return [
        Cell(model, precision, method, path)
        for model in options.model
        for precision in options.precision
        for method in METHODS
        for path in paths
    ]


def _measured(cell: Cell, options: argparse.Namespace) -> dict[str, Any]:
    """Iterations per second and peak memory, or the error that came instead: one cell must not end the others."""
    gc.collect()
    if options.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = _timed(cell, options, Path(folder))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    if options.device == "cuda":
        found["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def _timed(cell: Cell, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    experiment = _experiment(cell, options.batch)
    switch = "graph=on" if cell.path == "graph" else "graph=off"
    with mock.patch.dict("os.environ", {"MWRAY_EXECUTION": switch}), computing_in(experiment.precision):
        assert Execution.from_environment().graph == switch.removeprefix("graph=")
        session = Session(experiment, folder, LocalWorker(options.device), ())
        session.method.epoch_start(0)
        session.iteration.start_epoch()
        draws = session._draws(0)
        start = time.perf_counter()
        for _ in range(PREPARING):
            session.iteration(next(draws))
        _wait(options.device)
        prepared = time.perf_counter() - start
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < options.seconds and steps < STEPS - PREPARING - 20:
            for _ in range(20):
                session.iteration(next(draws))
            steps += 20
            _wait(options.device)
        seconds = time.perf_counter() - start
    per_second = steps / seconds
    cell_minutes = EPOCHS.get(cell.model, 60) * STEPS / per_second / 60
    graphs = session.iteration.graphs
    return {
        "iterations_per_second": per_second,
        "milliseconds": 1e3 / per_second,
        "iterations": steps,
        "preparing_seconds": prepared,
        "captures": 0 if graphs is None else graphs.captures,
        "cell_minutes": cell_minutes,
    }


def _experiment(cell: Cell, batch: int) -> Experiment:
    values = {"model.name": cell.model, "precision": cell.precision, "batch_size": batch, "meta_batch_size": batch}
    return override(recipe("cifar10-flip"), METHODS[cell.method] | values)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _line(row: dict[str, Any]) -> str:
    name = f"{row['model']:9} {row['precision']:5} {row['method']:18} {row['path']:6}"
    if "iterations_per_second" not in row:
        return f"{name} {row.get('error', row.get('skipped'))}"
    return (
        f"{name} {row['iterations_per_second']:8.1f} it/s  {row['milliseconds']:8.2f} ms  "
        f"{row.get('peak_mib', float('nan')):8.0f} MiB  cell {row['cell_minutes']:7.1f} min"
    )


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Milliseconds of an iteration, one panel per network, eager beside graph."""
    timed = [row for row in rows if "milliseconds" in row]
    models = list(dict.fromkeys(row["model"] for row in timed))
    if not models:
        return
    most = max(sum(row["model"] == model for row in timed) for model in models)
    figure = Figure(figsize=(7, (0.7 + 0.24 * most) * len(models)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, model in zip(figure.subplots(len(models), 1, squeeze=False)[:, 0], models, strict=True):
        own = [row for row in timed if row["model"] == model]
        names = [f"{row['method']}, {row['precision']}, {row['path']}" for row in own]
        values = [row["milliseconds"] for row in own]
        colors = [COLORS[row["path"]] for row in own]
        bars(axes, names, values, colors, "{:.2f}", f"{model}: milliseconds of an iteration")
    figure.savefig(path, dpi=150)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["resnet32", "wrn28-10"])
    parser.add_argument("--precision", nargs="+", choices=["fp32", "tf32", "bf16"], default=["fp32", "tf32", "bf16"])
    parser.add_argument("--batch", type=int, default=100, help="training images in a step, and meta images")
    parser.add_argument("--seconds", type=float, default=3.0, help="for which each cell is timed, at most")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds after which the rest is skipped")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--autotune", action="store_true", help="let cuDNN try its algorithms (torch.backends.cudnn)")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="folder of gpu.json and gpu.png")
    return parser.parse_args()


if __name__ == "__main__":
    main()

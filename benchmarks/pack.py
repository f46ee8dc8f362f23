"""What it costs to train K trials on one device: one after another, stacked (`--pack K`), or in K processes.

    python -m benchmarks.pack                                     the small network on 8x8 images, this machine's CPU
    python -m benchmarks.pack --network resnet8 resnet32 --batch 50 --trials 1 2 4 --seconds 10
    python -m benchmarks.pack --device cuda --network resnet32 --trials 1 2 4 8 16

Every trial is Meta-Weight-Net with a seed, rates and a weight net of its own. Numbers are for one step of one trial.
On a CPU the processor time is the one to compare where other work runs on the machine; each process has one thread.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.timing import quartiles, surroundings
from benchmarks.trials import Trial, trial
from mwray.pack.stack import stack

SHAPES = {"small": (1, 8, 8), "mlp": (1, 8, 8)}
NETS = ("1-100-1", "1-50-1", "1-10-10-1", "1-200-1")
IN_TURN, STACKED, PROCESSES = "one after another", "stacked", "K processes"


def main() -> None:
    """Measure, print a table for each network, write the numbers and a picture."""
    options = _options()
    torch.set_num_threads(options.threads)
    report = {"settings": vars(options) | {"out": str(options.out)}, "where": surroundings(options.device)}
    report["networks"] = {
        name: [row for k in options.trials for row in measure(name, k, options)] for name in options.network
    }
    for name, rows in report["networks"].items():
        _show(name, rows, options)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "pack.json").write_text(json.dumps(report, indent=1))
    draw(report, options.out / "pack.png")
    print(f"numbers: {options.out / 'pack.json'}   picture: {options.out / 'pack.png'}")


def measure(name: str, count: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows for `count` trials of a network, the ways taken in turns so that a busy machine slows them alike."""
    steps = {IN_TURN: in_turn(_trials(name, count, options)), STACKED: stacked(_trials(name, count, options))}
    for step in steps.values():
        step()
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in steps}
    deadline = time.perf_counter() + options.seconds
    while time.perf_counter() < deadline or len(found[STACKED]) < 3:
        for way, step in steps.items():
            found[way].append(_timed(step, count, options.device))
    rows = [_row(way, count, times, found[IN_TURN]) for way, times in found.items()]
    if options.processes:
        rows.append(_row(PROCESSES, count, [over_processes(name, count, options)], found[IN_TURN]))
    return rows


def in_turn(trials: list[Trial]) -> Callable[[], object]:
    """A step of each, by the method itself."""

    def step() -> None:
        for one in trials:
            one.method.update(*next(one.batches))

    return step


def stacked(trials: list[Trial]) -> Callable[[], object]:
    """A step of all as one computation."""
    together = stack([one.method for one in trials])
    return lambda: together.update([next(one.batches) for one in trials])


def over_processes(name: str, count: int, options: argparse.Namespace) -> tuple[float, float]:
    """Wall and processor seconds of a trial's step where each of `count` trials has a process, all at once."""
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(count), context.Queue()
    processes = [context.Process(target=_one, args=(name, k, options, barrier, queue)) for k in range(count)]
    for process in processes:
        process.start()
    answers = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    return sum(wall for wall, _ in answers) / count**2, sum(cpu for _, cpu in answers) / count


def _one(name: str, number: int, options: argparse.Namespace, barrier: Any, queue: Any) -> None:
    torch.set_num_threads(options.threads)
    step = in_turn([_trial(name, number, options)])
    step()
    barrier.wait()
    times = []
    deadline = time.perf_counter() + options.seconds
    while time.perf_counter() < deadline or len(times) < 3:
        times.append(_timed(step, 1, options.device))
    queue.put(tuple(quartiles([pair[i] for pair in times])[1] for i in (0, 1)))


def _trials(name: str, count: int, options: argparse.Namespace) -> list[Trial]:
    return [_trial(name, number, options) for number in range(count)]


def _trial(name: str, number: int, options: argparse.Namespace) -> Trial:
    own = {"optimizer.lr": 0.1 / (1 + number), "method.weight_net.shape": NETS[number % len(NETS)]}
    sizes = {"batch": options.batch, "meta_batch": options.meta_batch, "device": options.device}
    return trial(name, SHAPES.get(name, (3, 32, 32)), seed=number, **sizes, **own)


def _timed(step: Callable[[], object], count: int, device: str) -> tuple[float, float]:
    """Wall and processor seconds of a step, for one of `count` trials."""
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    _wait(device)
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _row(way: str, count: int, times: list[tuple[float, float]], base: list[tuple[float, float]]) -> dict[str, Any]:
    walls, cpus = ([pair[i] for pair in times] for i in (0, 1))
    by_wall, by_cpu = (quartiles([pair[i] for pair in base])[1] for i in (0, 1))
    low, middle, high = quartiles(cpus)
    return {
        "way": way,
        "trials": count,
        "wall_ms": 1e3 * quartiles(walls)[1],
        "cpu_ms": 1e3 * middle,
        "cpu_ms_quartiles": [1e3 * low, 1e3 * high],
        "speed_by_wall": by_wall / quartiles(walls)[1],
        "speed_by_cpu": by_cpu / middle,
        "trials_per_hour": 3.6e6 / (1e3 * quartiles(walls)[1]) / 1000,
        "rounds": len(times),
    }


def _show(name: str, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    table = Table(title=f"{name}, {options.batch} + {options.meta_batch} images, {options.device}: a step of one trial")
    for column in ("K", "", "wall ms", "CPU ms", "quartiles", "speed", "by CPU", "trials/h of 1,000 steps"):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows:
        low, high = row["cpu_ms_quartiles"]
        table.add_row(
            str(row["trials"]),
            row["way"],
            f"{row['wall_ms']:.1f}",
            f"{row['cpu_ms']:.1f}",
            f"{low:.1f} to {high:.1f}",
            f"{row['speed_by_wall']:.2f}",
            f"{row['speed_by_cpu']:.2f}",
            f"{row['trials_per_hour']:.1f}",
        )
    Console(width=110).print(table)


def draw(report: dict[str, Any], path: Path) -> None:
    """Speed over the number of trials, one panel per network."""
    networks, on_cpu = report["networks"], report["settings"]["device"] == "cpu"
    figure = Figure(figsize=(3.4 * len(networks), 3), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, rows) in zip(figure.subplots(1, len(networks), squeeze=False)[0], networks.items(), strict=True):
        counts = sorted({row["trials"] for row in rows})
        for way, color in ((IN_TURN, "#999999"), (STACKED, "#E69F00")):
            speed = [r["speed_by_cpu" if on_cpu else "speed_by_wall"] for r in rows if r["way"] == way]
            axes.plot(counts, speed, "o-", color=color, label=way, markersize=4)
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("trials", fontsize=8)
        axes.set_title(name, fontsize=9, loc="left")
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("trial steps a second\n(one after another = 1)", fontsize=8)
    figure.axes[0].legend(fontsize=8, frameon=False, loc="lower left")
    figure.savefig(path, dpi=150)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pack", description=__doc__.splitlines()[0])
    parser.add_argument("--network", nargs="+", default=["small"], help="networks of mwray.models")
    parser.add_argument("--trials", nargs="+", type=int, default=[1, 2, 4, 8], metavar="K")
    parser.add_argument("--batch", type=int, default=100, help="training images in a step")
    parser.add_argument("--meta-batch", type=int, default=100, help="meta images in a step")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each K and network")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    parser.add_argument("--processes", action="store_true", help="also K processes at once")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="folder of pack.json and pack.png")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""What a search costs beside its trainings: time per trial, throughput of trials side by side, the loop at full load.

    python -m benchmarks.search overhead        no Ray, processes used again, new ones; the same for two workers
    python -m benchmarks.search throughput      one trial on all cores, one on one core, one on each core
    python -m benchmarks.search crowd           500 trials at once that only sleep

Each prints a table and writes build/benchmarks/search-NAME.json. On digits, with trials of a few seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import ray
import torch
from ray import tune
from rich.console import Console
from rich.table import Table

from benchmarks.crowd import crowd
from benchmarks.timing import surroundings
from mwray.cluster import display
from mwray.cluster.connect import connected
from mwray.cluster.leaderboard import Row, SearchResult
from mwray.cluster.search import search
from mwray.cluster.trial import sinks
from mwray.space import Space, build
from mwray.train.loop import train
from mwray.worker import LocalWorker

LONG = 30.0
"""Seconds of the trial that the overhead is compared to."""
CORES = os.cpu_count() or 1


class Clock(display.Silent):
    """A display that notes when each training began to run, and when it ended."""

    def __init__(self) -> None:
        self.made = time.perf_counter()
        self.running: dict[str, float] = {}
        self.ended: dict[str, float] = {}

    def changed(self, row: Row) -> None:
        """Note the moment."""
        if row.state == "running":
            self.running.setdefault(row.label, time.perf_counter())
        elif row.state in ("finished", "pruned", "failed"):
            self.ended[row.label] = time.perf_counter()


def main() -> None:
    """Measure, print a table, write the numbers."""
    options = _options()
    rows: list[dict[str, Any]] = []
    for row in options.measure(options):
        rows.append(row)
        _show(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"search-{options.verb}.json"
    path.write_text(json.dumps({"where": surroundings("cpu"), "cores": CORES, "rows": rows}, indent=1))
    print(f"numbers: {path}")


def overhead(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One trial after the other on one core: all of its time that is not training, with Ray and without.

    Evaluation, records, TensorBoard and pictures are not Ray's: the first row has them too, and is subtracted.
    """
    kinds: dict[str, Callable[[], list[float]]] = {
        "no Ray": lambda: _alone(options),
        "a process used again": lambda: _in_turn(options, 1, reuse=True),
        "a new process each": lambda: _in_turn(options, 1, reuse=False),
        "a group of two used again": lambda: _in_turn(options, 2, reuse=True),
        "a new group each": lambda: _in_turn(options, 2, reuse=False),
    }
    plain = 0.0
    for kind, measure in kinds.items():
        if options.only and kind not in ("no Ray", options.only):
            continue
        seconds = measure()
        middle = statistics.median(seconds)
        plain = middle if kind == "no Ray" else plain
        added = middle - plain
        yield {
            "trials": kind,
            "n": len(seconds),
            "s beside training": middle,
            "from": min(seconds),
            "to": max(seconds),
            "s added by the search": added,
            f"% of {LONG:g} s": 100 * added / LONG,
        }


def throughput(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Trainings an hour, on all cores."""
    reference = 0.0
    for kind, cores, at_once in (
        (f"one at a time, {CORES} threads", CORES, 1),
        ("one at a time, 1 thread", 1, 1),
        (f"{CORES} at a time, 1 thread each", CORES, None),
    ):
        with _ray(cores), tempfile.TemporaryDirectory() as folder:
            clock, result = _search(_space(options), Path(folder), concurrency=at_once)
        trained = [label for label in clock.ended if label != "BaseModel"]
        seconds = max(clock.ended.values()) - clock.ended["BaseModel"]  # from then on every process is warm
        hourly = 3600 * len(trained) / seconds
        reference = reference or hourly
        yield {"trials": kind, "n": len(trained), "an hour": hourly, "ratio": hourly / reference}
        assert result.finished


def full(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The loop with `--at-once` trials in flight that sleep `--seconds` and report `--epochs` times."""
    trials = options.trials or 2 * options.at_once
    with tempfile.TemporaryDirectory() as folder, crowd(options.at_once, options.seconds, options.epochs):
        before = time.process_time()
        clock, result = _search(_space(options, trials), Path(folder))
        busy = time.process_time() - before
    seconds = max(clock.ended.values()) - min(clock.running.values())
    slept = (trials + 1) * options.seconds
    yield {
        "trials": trials,
        "at once": options.at_once,
        "s of sleep each": options.seconds,
        "reports each": options.epochs,
        "s in all": seconds,
        "s with a loop that costs nothing": slept / options.at_once,
        "mean in flight": slept / seconds,
        "driver's CPU, s": busy,
        "ms for a report": 1000 * busy / (trials * (options.epochs + 1)),
    }
    assert result.finished and len(result.rows) == trials


# ---------------------------------------------------------------------------------------------------------------------


def _space(options: argparse.Namespace, trials: int | None = None) -> Space:
    search = {
        "optimizer.lr": {"float": [0.05, 0.1], "log": True},
        "method.weight_net.lr": {"float": [1e-3, 0.1], "log": True},
    }
    fixed = {"epochs": options.epochs, "optimizer.milestones": []}
    data = {"recipe": "digits", "set": fixed, "search": search, "trials": trials or options.trials or 6}
    return build(data, "benchmarks/search.py")


@contextmanager
def _ray(cores: int) -> Iterator[None]:
    """A local Ray that takes this machine for one with so many cores."""
    with mock.patch("ray.init", partial(ray.init, num_cpus=cores)), connected(None):
        yield


def _search(space: Space, folder: Path, **options: Any) -> tuple[Clock, SearchResult]:
    clock = Clock()
    with mock.patch("mwray.cluster.display.make", lambda console, shown: clock):
        return clock, search(space, folder, display=False, **options)


def _alone(options: argparse.Namespace) -> list[float]:
    """For each trial its seconds beside training, in this process."""
    space, found = _space(options), []
    torch.set_num_threads(1)
    for number in range(space.trials + 1):
        experiment = space.experiment({"optimizer.lr": 0.05 + 0.05 * number / space.trials})
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            train(experiment, Path(folder), worker=LocalWorker("cpu"), sinks=sinks())
            found.append(time.perf_counter() - began - _training(Path(folder)))
    return found[1:]  # the first imports, and warms up


def _in_turn(options: argparse.Namespace, workers: int, *, reuse: bool) -> list[float]:
    """The same in a search, from the end of one trial to the end of the next."""
    config = partial(_config, tune.TuneConfig, reuse)
    with _ray(workers), tempfile.TemporaryDirectory() as folder:
        with mock.patch("ray.tune.TuneConfig", config):
            clock, result = _search(_space(options), Path(folder), workers_per_trial=workers, concurrency=1)
        rows = {row.label: row for row in result.rows}
        ends = sorted((moment, label) for label, moment in clock.ended.items())
        return [
            moment - before - rows[label].seconds
            for (before, _), (moment, label) in zip(ends[:-1], ends[1:], strict=True)
        ]


def _config(original: Any, reuse: bool, **given: Any) -> Any:
    return original(**{**given, "reuse_actors": reuse})


def _training(folder: Path) -> float:
    """Seconds that the epochs of a run took, without evaluation."""
    lines = (folder / "records.jsonl").read_text().splitlines()
    return sum(float(json.loads(line)["seconds"]) for line in lines)


def _show(rows: list[dict[str, Any]]) -> None:
    """Print the newest row, under the headings if it is the first."""
    table = Table(*rows[0], show_header=len(rows) == 1)
    for heading in table.columns:
        heading.min_width = 12
    table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in rows[-1].values()))
    Console(width=140).print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a search costs beside its trainings.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, measure, epochs in (("overhead", overhead, 12), ("throughput", throughput, 20), ("crowd", full, 10)):
        verb = verbs.add_parser(name)
        verb.add_argument("--trials", type=int, help="default: 6; of a crowd twice as many as are at once")
        verb.add_argument("--epochs", type=int, default=epochs, help="of each trial (default: %(default)s)")
        verb.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="folder of the numbers")
        verb.set_defaults(measure=measure)
        if name == "overhead":
            verb.add_argument("--only", metavar="KIND", help="one row by its name, beside that without Ray")
        if name == "crowd":
            verb.add_argument("--at-once", type=int, default=500, help="trials (default: %(default)s)")
            verb.add_argument("--seconds", type=float, default=30.0, help="each sleeps (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()

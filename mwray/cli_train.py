"""One training in this process: with everything that shows and keeps it, in a local folder or in object storage."""

from __future__ import annotations

import argparse
import itertools
import logging
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mwray.config import ConfigError, to_dict
from mwray.experiment import Experiment
from mwray.records import Run
from mwray.remote import Mirror, Remote
from mwray.repeat import Repeat

if TYPE_CHECKING:
    from mwray.space import Space
    from mwray.worker import Worker


def train_in_storage(experiment: Experiment, remote: Remote, options: argparse.Namespace, again: Repeat | None) -> int:
    """Train in a local copy of a folder in object storage, which is brought there after every epoch."""
    if options.workers > 1:
        raise ConfigError("--workers: over several workers, --folder has to be a path that all of them see")
    mirror = Mirror(remote, remote.scratch)
    mirror.pull()
    if (summary := Run(remote.scratch).summary_of(to_dict(experiment))) is not None:
        print(f"Finished already:\n{describe(summary)}")
    else:
        try:
            train_here(experiment, remote.scratch, options, again, mirror.push)
        finally:
            mirror.push()
    print(f"Records, checkpoint and pictures: {remote.address}")
    return 0


def schedules(space: Space) -> list[Experiment]:
    """The base of a search with every schedule that is searched, and at both ends of a searched length."""
    names = ("epochs", "optimizer.name", "optimizer.schedule", "optimizer.milestones")
    edges = {name: space.ranges[name].edges() for name in names if name in space.ranges}
    found = []
    for values in itertools.product(*edges.values()):
        with suppress(ConfigError):  # milestones beside a cosine
            found.append(space.experiment(dict(zip(edges, values, strict=True))))
    return found


def train_here(
    experiment: Experiment,
    folder: Path,
    options: argparse.Namespace,
    again: Repeat | None,
    saved: Callable[[], None] = lambda: None,
) -> None:
    """Train in `folder`; `saved` is called whenever an epoch is on the disk."""
    import torch

    from mwray.process_group import ProcessGroupWorker
    from mwray.train.loop import Left
    from mwray.train.loop import train as train_loop
    from mwray.train.sinks import ConsoleSink, PicturesSink, Sink, TensorBoardSink
    from mwray.train.sinks.arrays import ArraysSink
    from mwray.worker import LocalWorker

    sinks: list[Sink] = [ConsoleSink(), TensorBoardSink(), PicturesSink(), ArraysSink()]
    asked: list[str] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append("SIGTERM"))
    with ExitStack() as stack:
        worker: Worker
        if ProcessGroupWorker.launched():  # by torchrun or the like: only rank 0 writes and speaks
            worker = group = ProcessGroupWorker(options.device)
            stack.callback(group.close)
        else:
            worker = LocalWorker(options.device, saved)
        if worker.rank == 0:  # decoding, downloads, what became of the initial weights: all before the first epoch
            logging.getLogger("mwray").setLevel(logging.INFO)
        if again is not None:
            if again.threads and worker.device.type == "cpu":
                torch.set_num_threads(again.threads)
            if why := again.differs(worker.size, worker.device.type):
                print(f"Note: {why}")
        try:
            train_loop(
                experiment,
                folder,
                worker=worker,
                sinks=sinks,
                checkpoint_every=options.checkpoint_every or 1,
                leave=lambda: asked[0] if asked else None,
            )
        except Left as why:
            print(f"\nmwray: {why}; the same command goes on from there.", file=sys.stderr)
            raise SystemExit(128 + signal.SIGTERM) from None


def describe(summary: dict[str, Any]) -> str:
    """A training's accuracies, each named."""
    named = (
        ("test.last", "test accuracy, last epoch"),
        ("test.last5", "test accuracy, mean of the last five epochs"),
        ("test.at_best_validation", "test accuracy, at the best validation epoch"),
        ("test.best", "test accuracy, best epoch on the test set (an oracle: do not select by it)"),
        ("validation.last", "validation accuracy, last epoch"),
    )
    short = {"test.last5"} if summary.get("epochs", 5) < 5 else set()
    shown = [(key, text) for key, text in named if key in summary and key not in short]
    return "\n".join(f"{100 * summary[key]:7.2f} %  {text}" for key, text in shown)

"""The training loop: the only one. It knows no method by name, no cluster, and prints nothing itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mwray.config import fingerprint, read, to_dict
from mwray.data.loader import Loader, at_once
from mwray.data.splits import Splits, split
from mwray.errors import UserError
from mwray.experiment import Experiment
from mwray.lock import NAME, locked
from mwray.methods import registry
from mwray.methods.base import Method, Setup, Step
from mwray.records import Run, environment
from mwray.seeding import key
from mwray.storage import patiently
from mwray.train import checkpoint
from mwray.train.classifier import described
from mwray.train.evaluate import draw_curve, evaluate, summarise
from mwray.train.execution import Execution, precision, random_state_of_caller
from mwray.train.graphs import Graphs
from mwray.train.iteration import Draws, Iteration, Pair, draws_of, graphs_for
from mwray.train.memory import keep_freed_memory
from mwray.train.sinks import RunInfo, Sink
from mwray.train.start import Networks, given, normalised
from mwray.train.tracker import Tracker
from mwray.worker import LocalWorker, Worker

CHECK_EVERY = 50
"""Steps between two looks at the loss: each look waits for the device."""

LET_GO = 90.0
"""Seconds to wait for a process that still trains in the folder: a host that is cut off gives up within a minute."""


class Left(Exception):
    """This process was asked to leave and did, after a checkpoint: the same call elsewhere goes on from there."""


def stay() -> str | None:
    """Never ask a training to leave."""
    return None


class NonFiniteLoss(UserError, FloatingPointError):
    """Training diverged: the loss is infinite or not a number."""


def train(
    experiment: Experiment,
    folder: Path | str,
    *,
    worker: Worker | None = None,
    sinks: Sequence[Sink] = (),
    checkpoint_every: int = 1,
    leave: Callable[[], str | None] = stay,
) -> dict[str, Any]:
    """Train `experiment` in `folder` and return its summary; go on from the newest checkpoint found there.

    A run that was stopped at any moment and started again ends with the same bits as one never stopped. A finished
    folder is not trained again: its summary is returned.

    Args:
        experiment: what to train; checked again here, since code can build settings that no reader has seen.
        folder: the run's own folder; made if it is not there.
        worker: this process among those that train together; default: alone, on the GPU if there is one.
        sinks: who is told; on several workers only rank 0's are.
        checkpoint_every: epochs between two checkpoints; the last epoch always has one.
        leave: asked after every step; a text (why) makes the training leave: at once where the last finished epoch has
            its checkpoint, else after this epoch's.

    Raises:
        ConfigError: the experiment cannot be run (the message names the field).
        Left: `leave` said so.
        LockedError: another process trains in `folder` and does not let go of it.
        StorageError: `folder` could not be written for longer than `mwray.storage.patience`.
        NonFiniteLoss: the loss is not finite; names epoch and step.
        RecordError: `folder` holds another experiment.
    """
    worker, folder = worker or LocalWorker(), Path(folder)
    experiment = read(Experiment, to_dict(experiment))
    run, values = Run(folder), to_dict(experiment)
    if (finished := run.summary_of(values)) is not None:
        return finished
    alone = hold(folder) if worker.rank == 0 else nullcontext()
    keep_freed_memory()
    with alone, random_state_of_caller(worker.device), precision(experiment.precision):
        worker.average([torch.zeros(1, device=worker.device)])  # nobody looks for the folder before rank 0 has made it
        if (finished := run.summary_of(values)) is not None:  # by the process that was waited for
            return finished
        session = Session(experiment, folder, worker, sinks if worker.rank == 0 else (), leave)
        try:
            return session.run(checkpoint_every)
        finally:
            session.close()


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the run's folder; one that was made for nothing, since the experiment was refused, is removed again."""
    there = folder.exists()
    try:
        with locked(folder, wait=LET_GO, take_over=True):
            yield
    finally:
        if not there and {path.name for path in folder.glob("*")} <= {NAME}:
            with suppress(OSError):
                (folder / NAME).unlink(missing_ok=True)
                folder.rmdir()


class Session:
    """One start of one run: built from the experiment, continued from the folder, closed at the end."""

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        worker: Worker,
        sinks: Sequence[Sink],
        leave: Callable[[], str | None] = stay,
        graphs: Graphs | None = None,
    ) -> None:
        """Build; `graphs` are those to replay the iterations from (default: as `MWRAY_EXECUTION` says)."""
        self.experiment, self.worker, self.sinks, self.leave = experiment, worker, list(sinks), leave
        self.record = Run(folder)
        self.execution = Execution.from_environment()
        start = given(experiment.model, folder)
        self.splits = normalised(split(experiment.data, experiment.seed), experiment.data.normalization, start)
        self.layout = self.execution.layout(self.splits.shape)
        self.networks = Networks(experiment, self.splits, worker, self.layout, start)
        self.train, self.meta = (self._loader(self.splits, name) for name in ("train", "meta"))
        self.validation, self.test = (self._loader(self.splits, name) for name in ("validation", "test"))
        self.dropped = self.train.dropped(experiment.batch_size)
        self.steps = (len(self.splits.train) - self.dropped) // experiment.batch_size
        on_device = worker.device.type == "cuda" or graphs is not None
        self.method: Method = registry.build(experiment.method, self._setup(on_device))
        self.tracker = Tracker(self.splits.train, worker)
        graphs = graphs or graphs_for(self.execution, worker, self.train.on_device and self.meta.on_device)
        self.iteration = Iteration(self.train, self.meta, self.method, self.tracker, graphs)
        self._draws(0)  # batches that cannot be drawn are refused here, before anything is written

    def run(self, checkpoint_every: int) -> dict[str, Any]:
        """Train the epochs that are missing; returns the summary."""
        work = self.iterations(checkpoint_every)
        try:
            while True:
                self.iteration(next(work))
        except StopIteration as end:
            return dict(end.value)

    def work(self, checkpoint_every: int) -> Generator[Pair, Step, dict[str, Any]]:
        """The same, the caller taking the steps: it yields the batches of each, and is sent what the step showed."""
        work = self.iterations(checkpoint_every)
        try:
            while True:
                batch, meta = self.iteration.take(next(work))
                self.tracker.add(batch, (yield batch, meta))
        except StopIteration as end:
            return dict(end.value)

    def iterations(self, checkpoint_every: int) -> Generator[Draws, None, dict[str, Any]]:
        """The same without the iterations: it yields what each is drawn from, and the caller makes it."""
        first = self.saved = self._resume()
        records = self._begin(first)
        for epoch in range(first, self.experiment.epochs):
            values, arrays = yield from self._epoch(epoch)
            why = self.leave()
            records.append(values)
            if self.worker.rank == 0:
                self.record.append(values)
            last = epoch + 1 == self.experiment.epochs
            saved = self._save(epoch + 1) if last or why or (epoch + 1) % checkpoint_every == 0 else None
            for sink in self.sinks:
                sink.write(epoch + 1, values, arrays)
            self.worker.report(values, saved)
            if why and not last:
                raise Left(f"{why}; epoch {epoch + 1} has its checkpoint")
        return self._finish(records)

    def close(self) -> None:
        """Close every sink, also after an error, and let go of captured graphs with their memory."""
        with ExitStack() as stack:  # one that fails to close must not keep the others open
            if self.iteration.graphs is not None:
                stack.callback(self.iteration.graphs.drop)
            for sink in self.sinks:
                stack.callback(sink.close)

    def _loader(self, splits: Splits, name: str) -> Loader:
        augment = self.experiment.data.augment and name in ("train", "meta")
        return Loader(getattr(splits, name), splits, self.worker.device, augment, self.layout)

    def _setup(self, on_device: bool) -> Setup:
        experiment = self.experiment
        return Setup(
            splits=self.splits,
            worker=self.worker,
            epochs=experiment.epochs,
            steps_per_epoch=self.steps,
            seed=experiment.seed,
            make_model=self.networks,
            make_optimizer=partial(experiment.optimizer.build, on_device=on_device),
            learning_rate=experiment.learning_rate,
            on_device=on_device,
        )

    def _resume(self) -> int:
        """Restore the newest state that the records reach; returns the number of finished epochs.

        A record is written before its checkpoint. A folder with fewer records than its checkpoint has epochs was put
        together from two machines' copies: going on from there would leave epochs out.
        """
        state = patiently(self._newest, self.record.folder)
        first = 0 if state is None else int(state["epoch"])
        mine = torch.tensor([float(first)], dtype=torch.float64, device=self.worker.device)
        if self.worker.average([mine])[0].item() != first:
            raise Left(f"rank {self.worker.rank} found a checkpoint of epoch {first}, others do not")
        if state is None:
            return 0
        if state["experiment"] != fingerprint(self.experiment):
            raise checkpoint.CheckpointError(
                f"{self.record.folder}: its checkpoint belongs to another experiment; give a folder of its own"
            )
        self.method.restore(state["method"])
        return first

    def _newest(self) -> dict[str, Any] | None:
        """The newest checkpoint; OSError where the folder is gone, so that its storage is waited for."""
        mark = self.record.folder / (NAME if self.worker.rank == 0 else "")
        os.stat(mark)  # a run must not begin anew because its storage is away
        known = len(self.record.records())
        state = checkpoint.latest(self.record.folder, self.worker.device, self.worker.resume(), upto=known)
        os.stat(mark)
        return state

    def _begin(self, first: int) -> list[dict[str, Any]]:
        if self.worker.rank == 0:
            self.record.start(to_dict(self.experiment), {**environment(), **self._sizes()}, first)
        names, noun = self.splits.class_names, self.splits.noun
        info = RunInfo.of(self.experiment, self.record.folder, self.steps, first, names, noun)
        for sink in self.sinks:
            sink.start(info)
        return [record for record in self.record.records() if record["epoch"] <= first]

    def _sizes(self) -> dict[str, Any]:
        return {
            "device": str(self.worker.device),
            "device_name": torch.cuda.get_device_name(self.worker.device) if self.worker.device.type == "cuda" else "",
            "threads": torch.get_num_threads(),
            "workers": self.worker.size,
            "graph": self.iteration.graphs is not None,
            "channels_last": self.layout == torch.channels_last,
            "initial_weights": self.networks.said,
            "num_train": len(self.splits.train),
            "num_meta": len(self.splits.meta),
            "num_validation": len(self.splits.validation),
            "num_test": len(self.splits.test),
            "dropped_per_epoch": self.dropped,
        }

    def _batches(self, epoch: int) -> Iterator[Pair]:
        """Training batches of `epoch`, each with its meta batch."""
        return map(self.iteration.take, self._draws(epoch))

    def _draws(self, epoch: int) -> Iterator[Draws]:
        """What those batches are made of; keyed by epoch, so no generator has to be saved."""
        meta = self.meta if self.method.needs_meta else None
        return draws_of(self.experiment, self.worker, self.train, meta, epoch)

    def _epoch(self, epoch: int) -> Generator[Draws, None, tuple[dict[str, Any], dict[str, np.ndarray]]]:
        started = time.perf_counter()
        torch.manual_seed(key(self.experiment.seed, "dropout", epoch, self.worker.rank))
        self.tracker.reset()
        self.worker.exchanged()  # neither a resume nor an evaluation is part of the epoch
        self.method.epoch_start(epoch)
        self.iteration.start_epoch()
        for number, draws in enumerate(self._draws(epoch), 1):
            yield draws
            if number % CHECK_EVERY == 0 or number == self.steps:
                self._check_finite(epoch, number)
            for sink in self.sinks:
                sink.step(epoch, number)
            if self.saved == epoch and (why := self.leave()):
                raise Left(f"{why}, in epoch {epoch + 1}; epoch {epoch} has its checkpoint")
        self.method.epoch_end(epoch)
        seconds = time.perf_counter() - started
        values, arrays = self.tracker.read()
        speed = self.tracker.seen * self.worker.size / seconds
        found, more = self.method.findings()
        values |= {f"method.{name}": value for name, value in found.items()}
        arrays |= {f"method.{name}": value.float().cpu().numpy() for name, value in more.items()}
        values |= {f"exchange.{name}_per_step": n / self.steps for name, n in self.worker.exchanged().items()}
        measured = {"lr": self.experiment.learning_rate(epoch), **values, **self._evaluate(arrays)}
        return {"epoch": epoch + 1, **measured, "seconds": seconds, "images_per_second": speed}, arrays

    def _check_finite(self, epoch: int, step: int) -> None:
        if not self.tracker.finite():
            kept = checkpoint.files(self.record.folder)  # none in the first epoch: a folder to look into would mislead
            raise NonFiniteLoss(
                f"epoch {epoch + 1}: the loss is not finite after step {step} of {self.steps} (looked at every "
                f"{CHECK_EVERY} steps). A smaller optimizer.lr than {self.experiment.optimizer.lr} is the usual cure"
                + (f"; the last good checkpoint is kept: {kept[0]}" if kept else "")
            )

    def _evaluate(self, arrays: dict[str, np.ndarray]) -> dict[str, float]:
        values: dict[str, float] = {}
        for name, loader in (("validation", self.validation), ("test", self.test)):
            if len(loader) == 0:
                continue
            result = evaluate(self.method.predict, loader, self.splits.num_classes, at_once(self.splits.shape))
            values |= {f"{name}.accuracy": result.accuracy, f"{name}.loss": result.loss}
            if name == "test":
                arrays["confusion"] = result.confusion
        draw_curve(self.method, self.worker.device, arrays)
        return values

    def _save(self, epoch: int) -> Path | None:
        self.saved = epoch
        if self.worker.rank != 0:
            return None
        made = {"experiment": fingerprint(self.experiment), "images": described(self.splits)}
        state = {**made, "method": self.method.state()}
        return checkpoint.save(self.record.folder, epoch, state)

    def _finish(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        summary = {**summarise(records), "dropped_per_epoch": self.dropped}
        for sink in self.sinks:
            sink.finish(summary)
        if self.worker.rank == 0:
            self.record.finish(summary)
        return summary

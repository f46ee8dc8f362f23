"""A training on storage that fails: a real small disk that fills up, a mount that goes away, a clock that jumps."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from mwray.config import override
from mwray.errors import UserError
from mwray.lock import LockedError, locked
from mwray.recipes import recipe
from mwray.records import Run
from mwray.storage import PATIENCE, StorageError
from mwray.train import checkpoint
from mwray.train.loop import Left, train
from mwray.train.sinks import PicturesSink, TensorBoardSink
from mwray.train.sinks.arrays import ArraysSink
from mwray.worker import LocalWorker

EPOCHS = 4


@pytest.fixture(scope="module")
def experiment():
    changes = {"epochs": EPOCHS, "optimizer.milestones": [], "data.num_train": 300, "data.num_test": 100}
    return override(recipe("digits"), {**changes, "method.name": "base"})


@pytest.fixture(scope="module")
def alone(experiment, tmp_path_factory):
    """The same training, left alone."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    train(experiment, folder, worker=LocalWorker("cpu"))
    return folder


class Doing(LocalWorker):
    """A worker that does something after a certain epoch."""

    def __init__(self, epoch, action):
        super().__init__("cpu")
        self.epoch, self.action = epoch, action

    def report(self, values, checkpoint):
        if values["epoch"] == self.epoch:
            self.action()


def same_bits(folder, alone):
    """Whether a run ended as the one left alone: the checkpoint's name carries its checksum."""
    assert checkpoint.files(folder)[0].name == checkpoint.files(alone)[0].name
    assert [record["epoch"] for record in Run(folder).records()] == list(range(1, EPOCHS + 1))
    assert not list(folder.glob(".*.part"))


@contextmanager
def mounted(where, *options):
    """Something mounted at `where`; skips where that is not allowed."""
    where.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(where)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting needs root: {done.stderr.strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=False)


def fill(folder):
    """Leave no byte free; returns the file that takes them."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(4096))
    return filler


def once_waited_for(caplog, action):
    """Do it as soon as the training says that it waits for its storage."""

    def look():
        deadline = time.monotonic() + 60
        while "trying again" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        action()

    threading.Thread(target=look).start()


def test_a_disk_that_fills_up_is_waited_for_and_the_run_has_the_same_bits(experiment, alone, tmp_path, caplog):
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=8m", "tmpfs") as disk:

        def full_for_a_while():
            filler = fill(disk)
            once_waited_for(caplog, filler.unlink)

        sinks = [TensorBoardSink(every=0), ArraysSink()]
        train(experiment, disk / "run", worker=Doing(2, full_for_a_while), sinks=sinks)
        same_bits(disk / "run", alone)
        assert "No space left on device; trying again" in caplog.text and "storage works again" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's, of its own thread
def test_a_disk_that_stays_full_ends_the_run_with_the_reason_and_the_same_call_goes_on(
    experiment, alone, tmp_path, monkeypatch
):
    monkeypatch.setenv(PATIENCE, "0.5")
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=8m", "tmpfs") as disk:
        kept = []
        sinks = [TensorBoardSink(), PicturesSink()]  # both draw when they are closed, and find the disk full as well
        with pytest.raises(StorageError, match=r"checkpoint.*No space left on device.*Make room there; the same"):
            train(experiment, disk / "run", worker=Doing(2, lambda: kept.append(fill(disk))), sinks=sinks)
        assert [record["epoch"] for record in Run(disk / "run").records()][:2] == [1, 2]
        assert checkpoint.latest(disk / "run")["epoch"] == 2
        kept[0].unlink()
        train(experiment, disk / "run", worker=LocalWorker("cpu"))
        same_bits(disk / "run", alone)


def test_a_mount_that_goes_away_is_waited_for_and_nothing_is_written_in_its_place(experiment, alone, tmp_path, caplog):
    disk, place = tmp_path / "disk", tmp_path / "place"
    disk.mkdir()
    with mounted(place, "--bind", str(disk)):

        def away_for_a_while():
            subprocess.run(["umount", "-l", str(place)], check=True)
            back = ["mount", "--bind", str(disk), str(place)]
            once_waited_for(caplog, lambda: subprocess.run(back, check=True))

        train(experiment, place / "run", worker=Doing(2, away_for_a_while), sinks=[TensorBoardSink(), ArraysSink()])
        same_bits(disk / "run", alone)
        assert "No such file or directory; trying again" in caplog.text
    assert list(place.iterdir()) == []


def test_a_mount_that_turns_read_only_is_waited_for(experiment, alone, tmp_path, caplog):
    disk, place = tmp_path / "disk", tmp_path / "place"
    disk.mkdir()

    def mount(*more):
        for command in (["umount", "-l"], ["mount", "--bind", str(disk)], *more):
            subprocess.run([*command, str(place)], check=True)

    with mounted(place, "--bind", str(disk)):

        def read_only_for_a_while():
            mount(["mount", "-o", "remount,bind,ro"])
            once_waited_for(caplog, mount)

        sinks = [TensorBoardSink(), ArraysSink()]
        train(experiment, place / "run", worker=Doing(2, read_only_for_a_while), sinks=sinks)
        same_bits(disk / "run", alone)
        assert "Read-only file system; trying again" in caplog.text and "storage works again" in caplog.text


def test_a_damaged_newest_checkpoint_costs_one_epoch_and_is_named(experiment, alone, tmp_path, caplog):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(experiment, tmp_path / "run", worker=Doing(3, stop))
    newest = checkpoint.files(tmp_path / "run")[0]
    data = bytearray(newest.read_bytes())
    data[len(data) // 3] ^= 4
    newest.write_bytes(data)
    train(experiment, tmp_path / "run", worker=LocalWorker("cpu"))
    same_bits(tmp_path / "run", alone)
    assert f"{newest.name}: damaged" in caplog.text


def test_a_clock_that_jumps_changes_no_bit(experiment, alone, tmp_path, monkeypatch):
    jumps = itertools.cycle([0.0, 4e9, 5.0, 1e6])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    train(experiment, tmp_path / "run", worker=LocalWorker("cpu"), sinks=[TensorBoardSink(), ArraysSink()])
    same_bits(tmp_path / "run", alone)


@pytest.mark.parametrize("every", [1, 3])
def test_a_run_asked_to_leave_has_the_last_epoch_s_checkpoint_and_goes_on(experiment, alone, tmp_path, every):
    steps = []

    def leave():
        steps.append(1)
        return "SIGTERM" if len(steps) == 5 + every else None  # three steps an epoch and one look after it

    with pytest.raises(Left, match="SIGTERM"):
        train(experiment, tmp_path / "run", worker=LocalWorker("cpu"), leave=leave, checkpoint_every=every)
    records = Run(tmp_path / "run").records()
    assert checkpoint.latest(tmp_path / "run")["epoch"] == records[-1]["epoch"]
    assert 1 <= len(records) < EPOCHS
    train(experiment, tmp_path / "run", worker=LocalWorker("cpu"), checkpoint_every=every)
    same_bits(tmp_path / "run", alone)


def test_two_processes_never_train_one_run_and_the_second_takes_over_what_the_first_finished(
    experiment, tmp_path, monkeypatch
):
    monkeypatch.setattr("mwray.train.loop.LET_GO", 0.3)
    folder = tmp_path / "run"
    with locked(folder), pytest.raises(LockedError, match=f"process {os.getpid()} on"):
        train(experiment, folder, worker=LocalWorker("cpu"))
    monkeypatch.setattr("mwray.train.loop.LET_GO", 60.0)
    done = []
    first = threading.Thread(target=lambda: done.append(train(experiment, folder, worker=LocalWorker("cpu"))))
    with locked(folder):
        first.start()
        time.sleep(0.2)
        assert not Run(folder).records()
    first.join(60)
    assert done == [Run(folder).summary()]


@pytest.mark.slow
def test_a_training_from_the_command_line_leaves_on_sigterm_and_goes_on(tmp_path):
    words = [sys.executable, "launch/train.py", "digits", "--set", "epochs=500", "--folder", str(tmp_path / "run")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while len(Run(tmp_path / "run").records()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "SIGTERM" in said and "has its checkpoint" in said and "same command" in said
    assert checkpoint.latest(tmp_path / "run")["epoch"] >= 2


def test_storage_errors_are_shown_as_a_line():
    assert issubclass(StorageError, UserError) and issubclass(LockedError, UserError)

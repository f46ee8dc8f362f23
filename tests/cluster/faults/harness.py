"""A real search as a command, killed again and again; and what must hold of its folder when it is through.

Everything that Ray starts for the search inherits a mark in its environment, by which its processes are found. The
driver is `launch/tune.py` as a user starts it; whatever happens, the same command is started again.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil

from mwray.cluster.connect import STARTS, _end_half_started
from mwray.records import Run

Started = TypeVar("Started")
ROOT = Path(__file__).parents[3]
MARK = "MWRAY_FAULTS"
STUCK = 600.0
"""Seconds without any progress after which a search counts as hanging, on a machine that does other things as well."""
SPACE = """
recipe: digits
set: {{epochs: {epochs}, data.num_meta: 50, data.num_train: 500, optimizer.milestones: [{milestone}]}}
search:
  optimizer.lr: {{float: [0.05, 0.2], log: true}}
  method.weight_net.lr: {{float: [1e-3, 0.1], log: true}}
trials: {trials}
seed: {seed}
"""


@dataclass(frozen=True)
class Seen:
    """A run's folder at one moment."""

    epoch: int
    starts: int
    done: bytes | None


@dataclass
class Tally:
    """What a campaign did and what it cost."""

    fault: str
    times: int = 0
    searches: int = 0
    epochs_again: int = 0
    """Epochs that were trained a second time, over all kills."""
    most_again: int = 0
    """Of one run at one kill."""
    waits: list[float] = field(default_factory=list)
    """Seconds until a driver ended by itself."""
    began: float = field(default_factory=time.monotonic)

    def row(self) -> dict[str, object]:
        """For the table."""
        return {
            "fault": self.fault,
            "times": self.times,
            "searches": self.searches,
            "epochs again": self.epochs_again,
            "most at once": self.most_again,
            "driver ended after, s": round(max(self.waits), 1) if self.waits else None,
            "minutes": round((time.monotonic() - self.began) / 60, 1),
        }


class Search:
    """One search folder, its command, and what was seen of it at each kill."""

    def __init__(self, folder: Path, *, trials: int, epochs: int, seed: int, arguments: Sequence[str] = ()) -> None:
        self.folder, self.epochs, self.trials = folder, epochs, trials
        self.mark = uuid.uuid4().hex
        self.log = folder.with_suffix(".out")
        self.kills: list[dict[Path, Seen]] = []
        self.warned: list[dict[Path, Seen]] = []
        """At the notice that came before a kill: what was trained then must not be trained again either."""
        self._space = folder.with_suffix(".yaml")
        self._space.write_text(SPACE.format(epochs=epochs, milestone=epochs - 2, trials=trials, seed=seed))
        self._arguments = list(arguments)
        self.driver: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        """Of the driver, and so of all that it starts."""
        return {
            **os.environ,
            MARK: self.mark,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "MWRAY_HEAD_PATIENCE": "5",
            "RAY_AUTH_MODE": "disabled",
            "RAY_worker_niceness": "0",  # or a busy machine hardly lets a trial begin
        }

    def start(self) -> None:
        """Start the command, the same each time."""
        words = [sys.executable, "launch/tune.py", "--space", str(self._space), "--folder", str(self.folder)]
        with self.log.open("ab") as out:
            self.driver = subprocess.Popen(
                [*words, *self._arguments], cwd=ROOT, env=self.environment(), stdout=out, stderr=subprocess.STDOUT
            )

    @property
    def code(self) -> int | None:
        """The driver's exit code; None while it runs."""
        assert self.driver is not None
        return self.driver.poll()

    def runs(self) -> list[Path]:
        """Folders of trials and of BaseModel."""
        return sorted(path.parent for path in self.folder.glob("*/*/experiment.json"))

    def look(self) -> dict[Path, Seen]:
        """Every run's folder now."""
        return {path: _seen(path) for path in self.runs()}

    def progress(self) -> int:
        """Epochs on the disk, over all runs."""
        return sum(seen.epoch for seen in self.look().values())

    def processes(self, title: str) -> list[psutil.Process]:
        """Processes of this search whose title begins so."""
        return [process for process in marked(self.mark) if _title(process).startswith(title)]

    def kill(self, victims: Sequence[psutil.Process]) -> None:
        """SIGKILL, having noted how far each run is; counts only if there is somebody left."""
        if victims:
            self.note()
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                victim.kill()

    def note(self) -> None:
        """Note a fault, and how far each run is."""
        self.kills.append(self.look())

    def end(self) -> None:
        """Leave no process behind."""
        for process in marked(self.mark):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if self.driver is not None:
            self.driver.wait(60)

    def tail(self) -> str:
        """The last of what the drivers printed, for a failing test."""
        return self.log.read_text()[-4000:] if self.log.exists() else ""


def moments(
    search: Search, chance: random.Random, victims: Callable[[], list[psutil.Process]], early: bool = True
) -> Iterator[None]:
    """Yield when to kill, until the search is through: a while after an epoch, or, one in four if `early`, in a start.

    Two kills during a start never follow one another, or a trial would rightly count as one that cannot be trained.
    """
    before, started = search.progress(), False
    while search.code is None:
        started = early and not started and chance.random() < 0.25
        deadline = time.monotonic() + STUCK
        while search.code is None and not (victims() and (started or search.progress() > before)):
            assert time.monotonic() < deadline, f"nothing goes on\n{search.tail()}"
            time.sleep(0.1)
        time.sleep(chance.uniform(0.0, 3.0))
        if search.code is not None:
            return
        before = search.progress()
        yield


def wait(search: Search, seconds: float = 900.0) -> None:
    """Until the driver has ended well."""
    assert search.driver is not None
    with suppress(subprocess.TimeoutExpired):
        search.driver.wait(seconds)
    assert search.code == 0, f"exit code {search.code}\n{search.tail()}"


def marked(mark: str) -> list[psutil.Process]:
    """Living processes with this mark in their environment, this one excepted."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
            if f"{MARK}={mark}".encode() in environment and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return [process for process in found if process.pid != os.getpid()]


def patiently_started(start: Callable[[], Started]) -> Started:
    """What `start` returns; once more where a node of Ray's came up too slowly for Ray's own 30 seconds."""
    for left in reversed(range(STARTS)):
        try:
            return start()
        except Exception as error:
            _end_half_started(error)
            if left == 0:
                raise
    raise AssertionError


def family(process: psutil.Process) -> list[psutil.Process]:
    """The process and all below it: with a raylet, its whole node."""
    with suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return []


def terminate(process: psutil.Process) -> None:
    """SIGTERM."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGTERM)


def starts(folder: Path) -> list[int]:
    """The epoch from which each start of a run went on."""
    try:
        return [entry["epoch"] for entry in json.loads((folder / "environment.json").read_text())]
    except FileNotFoundError:
        return []


def _seen(folder: Path) -> Seen:
    records = Run(folder).records()
    done = folder / "done"
    return Seen(
        epoch=int(records[-1]["epoch"]) if records else 0,
        starts=len(starts(folder)),
        done=done.read_bytes() if done.exists() else None,
    )


def _title(process: psutil.Process) -> str:
    try:
        words = process.cmdline()
    except psutil.Error:
        return ""
    return (
        f"{Path(words[0]).name} {' '.join(words[1:])}" if words and "/" in words[0].split(" ")[0] else " ".join(words)
    )

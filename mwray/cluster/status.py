"""`launch/tune.py --status FOLDER`: a search as its files tell it, from any machine that sees them.

Nothing is started, locked, mended or written, so it can be asked at any moment; neither Ray nor torch is loaded. Ages
are by this machine's clock against the driver's, or the object storage's.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.console import Console
from rich.table import Table

from mwray.cluster import claim, heartbeat
from mwray.cluster.failure import failure_of, has_failed
from mwray.cluster.journal import read_study
from mwray.cluster.names import clock, heading, percent, plain
from mwray.config import ConfigError
from mwray.lock import holder, lives
from mwray.records import Run
from mwray.remote import Remote

STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
COLORS = {"running": "cyan", "finished": "green", "pruned": "yellow", "failed": "red", "waiting": "dim"}


@dataclass(frozen=True)
class Place:
    """Where a search's files are: in a folder, or, copied into one, in object storage."""

    folder: Path
    remote: Remote | None = None
    claim: Mapping[str, Any] = field(default_factory=dict)
    """Who has claimed the place in object storage."""
    claim_age: float | None = None
    """Seconds since that was renewed."""

    def address(self, path: Path) -> str:
        """Where a file or folder of the search is to be found later on."""
        if self.remote is None:
            return str(path)
        return (self.remote / path.relative_to(self.folder).as_posix()).address

    def holder(self) -> dict[str, Any]:
        """Who drives the search, or drove it when it was killed."""
        return holder(self.folder) if self.remote is None else dict(self.claim)


@dataclass(frozen=True)
class Line:
    """One trial, or BaseModel (number None)."""

    number: int | None
    state: str
    """ "finished", "pruned", "failed", "running", or "waiting" for a driver."""
    values: Mapping[str, Any]
    folder: Path | None
    epoch: int
    epochs: int | None
    objective: float | None
    validation: float | None
    test: float | None
    seconds: float
    reason: str | None

    @property
    def label(self) -> str:
        """How a reader calls it."""
        return "BaseModel" if self.number is None else str(self.number)


@dataclass(frozen=True)
class Status:
    """All that is known of a search."""

    place: Place
    space: Mapping[str, Any]
    lines: Sequence[Line]
    beat: Mapping[str, Any]
    """The newest heartbeat; empty where there never was one."""
    holder: Mapping[str, Any]
    """Who holds the folder, or held it when it was killed."""
    age: float | None
    """Seconds since the newest heartbeat."""

    @property
    def alive(self) -> bool:
        """Whether a process drives the search."""
        if not self.holder:
            return False
        if self.holder.get("host") == socket.gethostname():
            return lives(self.holder)
        if self.place.remote is not None:
            return self.place.claim_age is not None and self.place.claim_age < claim.OLD
        return self.age is not None and self.age < heartbeat.OLD * float(self.beat.get("seconds", heartbeat.SECONDS))

    @property
    def best(self) -> Line | None:
        """The best trial that ran to its end."""
        sign = -1 if self.space.get("mode", "max") == "max" else 1
        done = [line for line in self.lines if line.state == "finished" and line.number is not None]
        ranked = [line for line in done if line.objective is not None]
        return min(ranked, key=lambda line: (sign * (line.objective or 0.0), line.number), default=None)


def read(where: Path | Place) -> Status:
    """What the files in a folder, or copied from object storage, say.

    Raises:
        ConfigError: there is no search in it.
    """
    place = where if isinstance(where, Place) else Place(where)
    folder = place.folder
    try:
        space = json.loads((folder / "space.json").read_text())
    except OSError:
        raise ConfigError(f"--status {place.address(folder)}: no search is there (it has no space.json)") from None
    except ValueError as error:
        raise ConfigError(f"--status {place.address(folder)}: its space.json is damaged ({error})") from None
    beat = heartbeat.read(folder)
    age = max(0.0, time.time() - beat["beat"]) if "beat" in beat else None
    status = Status(place, space, (), beat, place.holder(), age)
    study = read_study(folder)
    trials = study.get_trials(deepcopy=False) if study is not None else []
    lines = [_line(trial, trials, status) for trial in trials if _counts(trial, trials)]
    bases = [_base(path, status) for path in sorted(folder.glob("base/*/"), key=_seed)]
    return replace(status, lines=[*lines, *bases])


def show(where: Path | Place, console: Console | None = None) -> None:
    """Print it.

    Raises:
        ConfigError: there is no search in it.
    """
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=140)
    status = read(where if isinstance(where, Place) else where.resolve())
    for text in words(status):
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print(_table(status))


def words(status: Status) -> list[str]:
    """The status in sentences."""
    counts = {state: sum(line.state == state for line in status.lines) for state in COLORS}
    target = int(status.space.get("trials") or len(status.lines))
    begun = sum(line.number is not None for line in status.lines)
    parts = [f"{count} {state}" for state, count in counts.items() if count]
    parts += [f"{target - begun} to come"] if target > begun else []
    left = status.beat.get("left") if status.alive else None
    ahead = f"; about {clock(left)} left" if left is not None else ""
    lines = [
        f"{status.place.address(status.place.folder)}: {status.space.get('source', 'a search')}, {target} trials",
        _driver(status),
        f"{', '.join(parts) or 'nothing begun'}{ahead}",
    ]
    if (best := status.best) is not None and best.folder is not None:
        lines.append(
            f"best: trial {best.number}, validation {percent(best.validation)}, test, last epoch {percent(best.test)}, "
            f"in {status.place.address(best.folder)}"
        )
    if "spend" in status.beat:
        lines.append(f"spent: {heartbeat.hours(status.beat['spend'])}")
    lines += [f"{_who(line)} failed: {line.reason}" for line in status.lines if line.state == "failed"]
    return lines


def _driver(status: Status) -> str:
    ago = f"last heartbeat {clock(status.age)} ago" if status.age is not None else "no heartbeat yet"
    if not status.holder:
        state = status.beat.get("state", "ended")
        return f"nobody drives it; it {'is finished' if state == 'finished' else f'was left: {state}'}, {ago}"
    who = f"process {status.holder['pid']} on {status.holder['host']}, since {status.holder['since']}"
    if status.alive:
        where = f", on {status.beat['nodes']} machines" if status.beat.get("nodes", 1) != 1 else ""
        return f"driven by {who}{where}; {ago}"
    return f"was driven by {who}; {ago}: it was killed, or cannot reach this storage. The same command goes on"


def _counts(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Whether it is a trial and not a draw thrown away, a queued point, or a failure that was tried again."""
    if "same_as" in trial.user_attrs or trial.state == TrialState.WAITING:
        return False
    return not any(other.user_attrs.get("retry_of") == trial.number for other in trials)


def _line(trial: FrozenTrial, trials: Sequence[FrozenTrial], status: Status) -> Line:
    first = trial.number
    while (again := trials[first].user_attrs.get("retry_of")) is not None:
        first = again
    where = next(iter(status.place.folder.glob(f"trials/{first:04d}-*/")), None)
    state = STATES.get(trial.state) or _open(status, f"{first:04d}-", where)
    return _measured(trial.number, state, trial.params, where, status, trial.user_attrs.get("reason"))


def _base(where: Path, status: Status) -> Line:
    state = "finished" if Run(where).state == "done" else "failed" if has_failed(where) else None
    values = {"seed": _seed(where)} if status.space.get("seeds", 1) > 1 else {}
    reason = (failure_of(where) or {}).get("reason")
    return _measured(None, state or _open(status, where.name, where), values, where, status, reason)


def _open(status: Status, name: str, where: Path | None) -> str:
    """Whether a training that has not ended runs at this moment: its driver has said so, or else it has a folder."""
    running = status.beat.get("running")
    runs = where is not None if running is None else any(str(folder).startswith(name) for folder in running)
    return "running" if status.alive and runs else "waiting"


def _measured(
    number: int | None, state: str, values: Mapping[str, Any], where: Path | None, status: Status, reason: str | None
) -> Line:
    records = Run(where).records() if where is not None else []
    last = records[-1] if records else {}
    return Line(
        number=number,
        state=state,
        values=values,
        folder=where,
        epoch=int(last.get("epoch", 0)),
        epochs=_epochs(where),
        objective=last.get(status.space.get("metric", "validation.accuracy")),
        validation=last.get("validation.accuracy"),
        test=last.get("test.accuracy"),
        seconds=sum(float(record.get("seconds", 0.0)) for record in records),
        reason=reason,
    )


def _epochs(where: Path | None) -> int | None:
    return _number(where, "epochs")


def _seed(where: Path) -> int:
    seed = _number(where, "seed")
    return -1 if seed is None else seed


def _number(where: Path | None, name: str) -> int | None:
    """A field of the run's experiment; None where it has not been written yet."""
    try:
        return int(json.loads(((where or Path(os.devnull)) / "experiment.json").read_text())[name])
    except (OSError, ValueError, KeyError):
        return None


def _table(status: Status) -> Table:
    names = list(dict.fromkeys(name for line in status.lines for name in line.values))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for text in ("trial", "state", *map(heading, names), "epoch", "validation", "test,\nlast epoch", "time"):
        table.add_column(text, justify="left" if text in ("trial", "state") else "right", vertical="bottom")
    for line in status.lines:
        table.add_row(
            line.label,
            line.state,
            *(plain(line.values.get(name)) for name in names),
            f"{line.epoch}/{line.epochs or '?'}",
            percent(line.validation),
            percent(line.test),
            clock(line.seconds),
            style=COLORS[line.state],
        )
    return table


def _who(line: Line) -> str:
    if line.number is not None:
        return f"trial {line.number}"
    return f"BaseModel, seed {line.values['seed']}" if "seed" in line.values else "BaseModel"

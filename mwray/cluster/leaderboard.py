"""What a search came to: a row per trial with its numbers, ranked by clean validation accuracy, and the best one."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mwray.cluster.failure import failure_of, has_failed
from mwray.cluster.points import SEED, Point, points
from mwray.cluster.study import Entry, Proposal, Study
from mwray.config import leaves, to_dict
from mwray.experiment import Experiment
from mwray.records import Run, write_atomically
from mwray.repeat import last_start
from mwray.space import Space

ALWAYS = ("method.weight_net.shape", "data.num_meta", "optimizer.lr", "method.weight_net.lr")
"""Fields that are shown even where they are not searched: what a reader of the paper looks for."""
ORDER = {"finished": 0, "pruned": 1, "running": 2, "waiting": 3, "failed": 4}
STATES = {"complete": "finished", "pruned": "pruned", "failed": "failed", "running": "waiting"}
"""What the study calls a trial, and what a reader is told; one that nobody works on yet waits."""


@dataclass(frozen=True)
class Row:
    """One trial, or BaseModel (number None)."""

    number: int | None
    state: str
    values: Mapping[str, Any]
    """Its fields, by dotted name, for the columns of `columns`."""
    experiment: Experiment
    folder: Path
    epoch: int = 0
    objective: float | None = None
    validation: float | None = None
    test: float | None = None
    """Accuracy after the last epoch, 0..1; it ranks nothing."""
    seconds: float = 0.0
    reason: str | None = None

    @property
    def label(self) -> str:
        """How a reader calls it."""
        return "BaseModel" if self.number is None else str(self.number)

    @property
    def key(self) -> tuple[int | None, int]:
        """What tells it from the others of its search; BaseModel has a row for each seed."""
        return self.number, self.experiment.seed

    def measured(self, records: Sequence[Mapping[str, Any]], metric: str) -> Row:
        """This row with the numbers of a run's records."""
        if not records:
            return self
        last = records[-1]
        return replace(
            self,
            epoch=int(last["epoch"]),
            objective=last.get(metric),
            validation=last.get("validation.accuracy"),
            test=last.get("test.accuracy"),
            seconds=sum(float(record.get("seconds", 0.0)) for record in records),
        )


@dataclass(frozen=True)
class SearchResult:
    """What `mwray.cluster.search.search` returns."""

    folder: Path
    rows: tuple[Row, ...]
    """Best first; trials that were stopped early after those that finished, failed ones last."""
    bases: tuple[Row, ...]
    """BaseModel at the same noise, schedule and epochs, at each seed; () where the recipe is BaseModel itself."""
    finished: bool
    """Whether every trial that was asked for has ended, and at least one well."""
    interrupted: bool = False
    """Whether Ctrl-C or SIGTERM ended it; the same search again goes on."""
    stopped: str | None = None
    """Why the search gave up, if it did."""
    names: tuple[str, ...] = field(default=(), repr=False)
    spend: Mapping[str, float] = field(default_factory=dict)
    """ "cpu_seconds" and "gpu_seconds" for which trials held machines, over all calls; empty where unknown."""
    mode: str = "max"

    @property
    def points(self) -> tuple[Point, ...]:
        """Where the seed is searched too: each point over its seeds, best mean first."""
        return points(self.rows, self.mode) if SEED in self.names else ()

    @property
    def base(self) -> Row | None:
        """BaseModel at the first seed."""
        return self.bases[0] if self.bases else None

    @property
    def base_point(self) -> Point | None:
        """BaseModel over its seeds, where the seed is searched too and some of its trainings are finished."""
        finished = tuple(row for row in self.bases if row.state == "finished")
        if SEED not in self.names or not finished:
            return None
        return Point({name: value for name, value in finished[0].values.items() if name != SEED}, finished)

    @property
    def best(self) -> Row | None:
        """The best trial that ran to its end; of a search over seeds, the best point's at its first seed."""
        if found := self.points:
            return found[0].rows[0]
        return next((row for row in self.rows if row.state == "finished"), None)


def who(row: Row) -> str:
    """A trial, in a sentence."""
    if row.number is not None:
        return f"trial {row.number}"
    return f"BaseModel, seed {row.values[SEED]}" if SEED in row.values else "BaseModel"


def columns(space: Space) -> tuple[str, ...]:
    """The fields shown of each trial: the paper's four where they exist, and whatever else is searched."""
    own = leaves(space.base)
    return tuple(dict.fromkeys([*(name for name in ALWAYS if name in own), *space.ranges]))


def row_of(proposal: Proposal, space: Space, state: str = "waiting", reason: str | None = None) -> Row:
    """The row of a trial, with the numbers that its run's records hold."""
    own = leaves(proposal.experiment)
    row = Row(
        number=proposal.number,
        state=state,
        values={name: own.get(name) for name in columns(space)},
        experiment=proposal.experiment,
        folder=proposal.folder,
        reason=reason,
    )
    return row.measured(Run(proposal.folder).records(), space.metric)


def base_row(experiment: Experiment, folder: Path, space: Space) -> Row:
    """BaseModel's row."""
    own = leaves(experiment)
    state = {"done": "finished"}.get(Run(folder).state, "failed" if has_failed(folder) else "waiting")
    failure = failure_of(folder) if state == "failed" else None
    row = Row(
        number=None,
        state=state,
        values={name: own.get(name) for name in columns(space)},
        experiment=experiment,
        folder=folder,
        reason=None if failure is None else failure["reason"],
    )
    return row.measured(Run(folder).records(), space.metric)


def rows(study: Study) -> list[Row]:
    """Every trial of the study, from its records, by number."""
    return [entry_row(study, entry) for entry in study.entries()]


def entry_row(study: Study, entry: Entry) -> Row:
    """The row of one trial of the study."""
    try:
        experiment = study.space.experiment(entry.values)
    except ValueError:  # failed because its fields exclude one another: no experiment, no folder
        experiment = study.space.base
    proposal = Proposal(entry.number, entry.values, experiment, study.trial_folder(entry.number, experiment))
    row = row_of(proposal, study.space, STATES[entry.state], entry.reason)
    return replace(row, values={**row.values, **entry.values})


def ranked(rows: Sequence[Row], mode: str) -> tuple[Row, ...]:
    """Best first; of equals the earlier trial."""
    sign = -1 if mode == "max" else 1

    def place(row: Row) -> tuple[int, float, int]:
        objective = float("inf") if row.objective is None else sign * row.objective
        return ORDER[row.state], objective, row.number or 0

    return tuple(sorted(rows, key=place))


def write(result: SearchResult) -> None:
    """Write leaderboard.csv, leaderboard.json, best.json and, over seeds, points.csv into the search's folder."""
    lines = [_flat(row, result) for row in (*result.rows, *result.bases)]
    _write_csv(result.folder / "leaderboard.csv", lines)
    _write_json(result.folder / "leaderboard.json", lines)
    if result.points:
        base = [result.base_point] if result.base_point else []
        _write_csv(result.folder / "points.csv", [point.flat() for point in (*result.points, *base)])
    if result.best is not None:
        best = {
            **_flat(result.best, result),
            "experiment": to_dict(result.best.experiment),
            "environment": last_start(result.best.folder),
        }
        _write_json(result.folder / "best.json", best)


def _flat(row: Row, result: SearchResult) -> dict[str, Any]:
    return {
        "trial": row.label,
        "state": row.state,
        **{name: row.values.get(name) for name in result.names},
        "objective": row.objective,
        "validation.accuracy": row.validation,
        "test.accuracy": row.test,
        "epochs": row.epoch,
        "seconds": round(row.seconds, 3),
        "folder": str(row.folder.relative_to(result.folder)),
        "reason": row.reason,
    }


def _write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]) if lines else ["trial"])
    writer.writeheader()
    writer.writerows(lines)
    write_atomically(path, text.getvalue().encode())


def _write_json(path: Path, data: Any) -> None:
    write_atomically(path, (json.dumps(data, indent=1) + "\n").encode())

"""One start of a search: what Ray Tune asks and tells, passed on to the study and to the display.

Ray Tune asks at three places (`mwray.cluster.questions`), processes of several trials at one (`mwray.cluster.packed`),
and all of them lead here. Nothing in these objects needs to survive: the study's journal and the run folders do.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ray.tune.search import Searcher

from mwray.cluster.bucket import Keeper, Shared
from mwray.cluster.display import Display
from mwray.cluster.failure import storage_lost
from mwray.cluster.heartbeat import Spend
from mwray.cluster.leaderboard import Row, entry_row, row_of, who
from mwray.cluster.study import REDRAWS, Study
from mwray.cluster.trial import Job
from mwray.storage import StorageError

SAME_FAILURES = 3
"""So many trials, all there are, failing for one reason, end the search: the rest would fail as well."""
LIMIT_SECONDS = 5.0
"""Between two looks at how many trials fit."""


class Session:
    """Which trial of Ray's is which of ours, and what to do next."""

    def __init__(
        self,
        study: Study,
        bases: Sequence[Row],
        display: Display,
        limit: Callable[[], int],
        resources: Mapping[str, Any],
        spend: Spend | None = None,
        store: Shared | Keeper | None = None,
    ) -> None:
        """Take up the search of `study`.

        Args:
            study: asked for trials and told of them.
            bases: BaseModel at each seed where it is still to be trained: they go first.
            display: told of every change.
            limit: how many trials may be in flight now.
            resources: workers, cpus, gpus and storage of each `Job`.
            spend: told when a trial takes its machines and when it leaves them.
            store: brings the study to where it is kept before a trial begins, and a trial's records here when it ends.
        """
        self.study, self.bases, self.display = study, list(bases), display
        self.interrupted = False
        self.stopped: str | None = None
        self.storage_failed: StorageError | None = None
        self.spend = spend or Spend(1, 0)
        self.store = store or Shared(study.folder)
        self._limit, self._resources = limit, resources
        self._live: dict[str, Row] = {}
        self._again: list[Row] = []
        self._trials: Sequence[Any] = ()
        self._pruned: set[int] = set()
        self._ended: list[Row] = []
        self._asked_limit = (float("-inf"), 0)

    @property
    def stopping(self) -> bool:
        """Whether no further trial is to be started and those that run are to end.

        Asked in every turn of the search's loop, so this is where it is heard what nobody reports: that the store has
        failed, or that a machine has joined which does not see it, where a trial would train for nothing.
        """
        if self.stopped is None:
            self._hear_of_store()
        return self.interrupted or self.stopped is not None

    @property
    def running(self) -> list[str]:
        """Names of the folders in which trials train at this moment; asked by a thread too."""
        return sorted(row.folder.name for row in list(self._live.values()) if row.state == "running")

    def next(self, trial_id: str) -> dict[str, str] | str | None:
        """The job for a trial that Ray wants to start; None: not now; "FINISHED": none is left."""
        if self.stopping:
            return str(Searcher.FINISHED)
        self._take_back_lost()
        if len(self._live) >= self._current_limit():
            return None
        row = self._next_row()
        if row is None:
            return str(Searcher.FINISHED)
        self._live[trial_id] = row
        self.display.changed(row)
        self.store.push()
        extra = {**self._resources, "remote": self.store.address(row.folder)}
        return Job.of(row.experiment, row.folder, self.study.space.metric, **extra).config()

    def watch(self, trials: Sequence[Any]) -> None:
        """Keep Ray's own list of trials, to notice those that it drops without a word."""
        self._trials = trials

    def started(self, trial_id: str) -> None:
        """The trial's process has begun."""
        self.spend.begin(trial_id)
        self._change(trial_id, state="running")

    def reported(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Note an epoch; returns whether the trial is to be stopped as hopeless."""
        if self.storage_failed is not None:
            return True
        row, record = self._live.get(trial_id), result.get("record")
        if row is not None:
            self._warn(row, result)
        if row is None or not isinstance(record, Mapping):
            return False
        self._change(
            trial_id,
            epoch=int(record["epoch"]),
            objective=record.get(self.study.space.metric),
            validation=record.get("validation.accuracy"),
            test=record.get("test.accuracy"),
            seconds=row.seconds + (float(record.get("seconds", 0.0)) if record["epoch"] > row.epoch else 0.0),
        )
        objective = record.get(self.study.space.metric)
        if row.number is None or objective is None:
            return False
        hopeless = self.study.report(row.number, int(record["epoch"]), float(objective))
        if not hopeless or record["epoch"] >= row.experiment.epochs:  # at the last epoch nothing is left to save
            return False
        self._pruned.add(row.number)
        return True

    def ended(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """The trial is over: by itself, because it was hopeless, or because the search stops."""
        row = self._live[trial_id]
        if self.storage_failed is not None:  # each further attempt would wait as long, and nothing can be remembered
            self._close(trial_id, state="waiting")
            return
        self.store.fetch(row.folder)
        if result.get("outcome"):
            self._warn(row, result)
        if result.get("outcome") == "done":
            self._finish(trial_id, row, result.get("value"))
        elif result.get("outcome") == "failed":
            self._fail(trial_id, row, str(result["reason"]))
        elif row.number in self._pruned:
            self.study.prune(row.number)
            self._close(trial_id, state="pruned")
        else:  # still open in the study: the next session trains it to its end
            self._close(trial_id, state="waiting")

    def died(self, trial_id: str, reason: str) -> None:
        """The trial's process died more often than it is started again."""
        self.ended(trial_id, {"outcome": "failed", "reason": reason})

    def interrupt(self) -> None:
        """Stop at the next opportunity; everything finished is kept already."""
        self.interrupted = True
        self.display.note("stopping: running trials keep their last checkpoint (once more to stop at once)")

    def recovered(self, trial_id: str, reason: str) -> None:
        """The trial's process died, and is started again."""
        self.spend.end(trial_id)
        if trial_id in self._live:
            row = self._live[trial_id]
            self._change(trial_id, state="waiting")
            self.display.note(f"{who(row)} is started again, from epoch {row.epoch} or the one before: {reason}")

    def storage_lost(self, error: StorageError) -> None:
        """What the study was told cannot be kept, or another driver has it by now: stop in order."""
        if self.storage_failed is None:
            self.storage_failed, self.stopped = error, str(error)
            self.display.note(f"stopping: {error}")

    # -----------------------------------------------------------------------------------------------------------------

    def _hear_of_store(self) -> None:
        lost, why = self.store.failed, None
        try:
            why = self.store.sight.trouble() if lost is None else None
        except StorageError as error:
            lost = error
        if lost is not None:
            self.storage_lost(lost)
        elif why is not None:
            self.stopped = why
            self.display.note(f"stopping: {why}")

    def _warn(self, row: Row, result: Mapping[str, Any]) -> None:
        for text in result.get("warnings") or ():
            self.display.note(f"{who(row)}: {text}")

    def _take_back_lost(self) -> None:
        """Queue again what Ray could not start in a used process whose last training would not end.

        Ray (2.60) marks such a trial as an error and tells neither searcher nor callback.
        """
        for trial in self._trials:
            if trial.status == "ERROR" and trial.trial_id in self._live:
                row = replace(self._live.pop(trial.trial_id), state="waiting")
                self._again.append(row)
                self.display.changed(row)

    def _next_row(self) -> Row | None:
        if self._again:
            return self._again.pop(0)
        if self.bases:
            return self.bases.pop(0)
        proposal = self.study.next()
        self._show_refused()
        return None if proposal is None else row_of(proposal, self.study.space)

    def _show_refused(self) -> None:
        """Show trials that failed before they began. They cost nothing, so three of them are no reason to give up."""
        refused, self.study.refused = self.study.refused, []
        for number in refused:
            self.display.changed(entry_row(self.study, self.study.entry(number)))
        if len(refused) >= REDRAWS:
            why = f"{len(refused)} points in a row cannot be trained: {self.study.entry(refused[-1]).reason}"
            self.display.note(f"no more points: {why}")
            self.stopped = self.stopped if self._live else why

    def _current_limit(self) -> int:
        asked, limit = self._asked_limit
        if time.monotonic() - asked > LIMIT_SECONDS:
            limit = self._limit()
            self._asked_limit = (time.monotonic(), limit)
        return limit

    def _change(self, trial_id: str, **changes: Any) -> None:
        if trial_id in self._live:
            self._live[trial_id] = replace(self._live[trial_id], **changes)
            self.display.changed(self._live[trial_id])

    def _close(self, trial_id: str, **changes: Any) -> None:
        self.spend.end(trial_id)
        self._change(trial_id, **changes)
        row = self._live.pop(trial_id)
        if row.number is not None:
            self._ended.append(row)

    def _finish(self, trial_id: str, row: Row, value: float | None) -> None:
        if row.number is None:
            self._close(trial_id, state="finished")
            return
        self.study.finish(row.number, value)
        entry = self.study.entry(row.number)
        if entry.state == "failed":
            self._close(trial_id, state="failed", reason=entry.reason)
            self._give_up_if_all_fail()
        else:
            self._close(trial_id, state="finished", objective=value)

    def _fail(self, trial_id: str, row: Row, reason: str) -> None:
        if storage_lost(reason):  # still open in the study; not again in this session, which would wait as long again
            self.display.note(f"{who(row)} is left for the next call: {reason}")
            self._close(trial_id, state="waiting", reason=reason)
        else:
            if row.number is not None:
                self.study.fail(row.number, reason)
            self._close(trial_id, state="failed", reason=reason)
        self._give_up_if_all_fail()

    def _give_up_if_all_fail(self) -> None:
        reasons = {_kind(row.reason) for row in self._ended if row.reason}
        failed = all(row.reason for row in self._ended)
        if failed and len(self._ended) >= SAME_FAILURES and len(reasons) == 1:
            self.stopped = f"the first {len(self._ended)} trials all failed: {self._ended[0].reason}"
            self.display.note(f"giving up: {self.stopped}")


def _kind(reason: str) -> str:
    """The reason without its numbers, paths and hosts: what two trials that fail alike have in common."""
    return re.sub(r"\(seen from \S+\)|\S*/\S*|[-+]?\d[\w.+-]*", "#", reason)

"""The search's memory: an Optuna study in a journal file, asked and told, that outlives the process that drives it.

Ray's own OptunaSearch keeps its state in pickled snapshots and crashes where they lag behind the study's storage
(UpdateFinishedTrialError). Here nothing is kept but the journal and the trials' run folders: a new process reads both
and goes on, so a kill at any moment loses no finished trial and repeats no draw. No Ray in this file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from mwray.cluster import seeds
from mwray.cluster.journal import differences, open_study
from mwray.config import ConfigError, fingerprint
from mwray.experiment import Experiment
from mwray.records import Run
from mwray.seeding import key
from mwray.space import Choice, FloatRange, Space

REDRAWS = 20
"""Draws of a point already there, or of one that cannot be trained, in a row, after which there are no more."""


@dataclass(frozen=True)
class Proposal:
    """One training to do."""

    number: int
    values: Mapping[str, Any]
    experiment: Experiment
    folder: Path


@dataclass(frozen=True)
class Entry:
    """One trial as the study knows it."""

    number: int
    state: str
    """ "running", "complete", "pruned" or "failed"."""
    values: Mapping[str, Any]
    value: float | None
    epoch: int
    """The last epoch that was reported; 0 before the first."""
    reason: str | None = None
    """Why it failed."""


class Study:
    """Ask for trainings, tell what they came to.

    The draw for trial n depends on the space's seed, on n and on what the study holds at that moment, on nothing else:
    a search that is resumed neither repeats its first draws nor needs the sampler's old state.
    """

    def __init__(self, space: Space, folder: Path, *, target: int | None = None, workers: int = 1) -> None:
        """Open the study in `folder`, or begin one.

        Args:
            space: what is searched.
            folder: the search's folder; the caller holds its lock.
            target: points in all, those of earlier sessions included; default: the space's own number. Each is
                trained at every seed, as a trial of its own.
            workers: Ray Train workers of each trial; part of what must stay the same, since each worker normalises its
                own share of a batch.

        Raises:
            ConfigError: the folder holds a search over another space; names what differs.
        """
        self.space = space
        self.folder = folder
        self.target = (space.trials if target is None else target) * space.seeds
        self._first = space.first()
        if space.sampler == "grid":
            self.target = min(self.target, len(self._first))
        self._study = open_study(folder, space)
        self._check_same({**space.description(), "workers": workers})
        self._live: dict[int, optuna.trial.Trial] = {}
        self._reported: dict[int, set[int]] = {}
        self.refused: list[int] = []
        """Trials that failed before they began, since their fields exclude one another; for the caller to take note."""
        self._left_over = self._settle_left_overs()
        # Beside the study what is asked for at every step: to look through all trials takes longer the more there are.
        self._given = len(self._counted())
        self._points = {_point(trial.params): trial.number for trial in reversed(self._counted())}

    def retry_failed(self) -> list[int]:
        """Queue every failed trial once more; it goes on in its folder, from its checkpoint if it has one.

        Optuna closes a failed trial for good: the second try has a number of its own, and stands for the first.
        """
        failed = [trial for trial in self._counted() if trial.state == TrialState.FAIL]
        for trial in failed:
            self._study.enqueue_trial(trial.params, user_attrs={"retry_of": trial.number})
        self._given -= len(failed)
        return [trial.number for trial in failed]

    def next(self) -> Proposal | None:
        """The next training: first what an earlier process left unfinished, then new draws; None when all are given."""
        while self._left_over:
            proposal = self._propose(self._left_over.pop(0))
            if proposal is not None:
                return proposal
        while self.given < self.target and len(self.refused) < REDRAWS:
            trial = self._draw()
            if trial is None:
                self.target = self.given  # every point of a finite space is there
                return None
            self._given += 1
            proposal = self._propose(trial)
            if proposal is not None:
                return proposal
        return None

    @property
    def given(self) -> int:
        """Trials begun, in this process and before; draws thrown away because they repeated one do not count."""
        return self._given

    @property
    def unfinished(self) -> bool:
        """Whether trials are still to be trained, or to be trained on."""
        return self.given < self.target or any(entry.state == "running" for entry in self.entries())

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Note the objective after an epoch; returns whether the trial is hopeless and should stop.

        An epoch that is reported again, after a resume, changes nothing.
        """
        trial = self._live[number]
        if number not in self._reported:
            self._reported[number] = set(self._study.get_trials(deepcopy=False)[number].intermediate_values)
        known = self._reported[number]
        if not math.isfinite(value) or epoch in known:
            return False
        if epoch > 1 and epoch - 1 not in known:  # a process killed between its record and its word of it
            self._catch_up(number, before=epoch)
        trial.report(value, epoch)
        known.add(epoch)
        return self.space.pruner.any and bool(trial.should_prune())

    def finish(self, number: int, value: float | None) -> None:
        """Tell the objective of a finished trial; one that is no number makes it a failed trial."""
        if value is None or not math.isfinite(value):
            self.fail(number, f"its {self.space.metric} is {value}, which is not a number")
            return
        self._catch_up(number)
        self._tell(number, TrialState.COMPLETE, float(value))

    def prune(self, number: int) -> None:
        """Close a trial that was stopped early.

        As PRUNED, which keeps its value at the stop: the sampler ranks it behind every trial that ran to its end. Ray's
        own integration would call it complete, as if accuracy at a high learning rate were a final one.
        """
        self._tell(number, TrialState.PRUNED, None)

    def fail(self, number: int, reason: str) -> None:
        """Close a trial that failed, with the reason; it is not tried again."""
        self._live[number].set_user_attr("reason", reason)
        self._tell(number, TrialState.FAIL, None)

    def settle(self) -> None:
        """Tell open trials whose run is finished: a search that is stopped may miss their last word."""
        for trial in list(self._live.values()):
            self._settled(trial)

    def entries(self) -> list[Entry]:
        """Every trial begun, by number."""
        return [self._entry(trial) for trial in self._counted()]

    def entry(self, number: int) -> Entry:
        """One trial."""
        return self._entry(self._study.get_trials(deepcopy=False)[number])

    def trial_folder(self, number: int, experiment: Experiment) -> Path:
        """Where a trial trains: its number, so that folders sort, and the fingerprint of what is trained."""
        trials = self._study.get_trials(deepcopy=False)
        while (first := trials[number].user_attrs.get("retry_of")) is not None:
            number = first
        return self.folder / "trials" / f"{number:04d}-{fingerprint(experiment)}"

    # -----------------------------------------------------------------------------------------------------------------

    def _counted(self) -> list[FrozenTrial]:
        """All but thrown-away draws, queued points that nobody asked for yet (WAITING), and failures tried again."""
        trials = self._study.get_trials(deepcopy=False)
        again = {trial.user_attrs.get("retry_of") for trial in trials}
        return [
            t
            for t in trials
            if "same_as" not in t.user_attrs and t.state != TrialState.WAITING and t.number not in again
        ]

    def _check_same(self, description: dict[str, Any]) -> None:
        before = self._study.user_attrs.get("space")
        if before is None:
            self._study.set_user_attr("space", description)
            return
        found = list(differences(before, json.loads(json.dumps(description)), ""))
        if found:
            shown = "; ".join(found[:5])
            raise ConfigError(
                f"{self.folder}: holds a search over another space ({shown}). Give --folder another one, or remove it"
            )

    def _catch_up(self, number: int, before: float = math.inf) -> None:
        """Report the epochs of which the run has a record and the study does not know."""
        trial = self._live[number]
        known = self._study.get_trials(deepcopy=False)[number].intermediate_values
        folder = self.trial_folder(number, self.space.experiment(self._values(trial)))
        for record in Run(folder).records():
            value, epoch = record.get(self.space.metric), int(record["epoch"])
            if value is not None and math.isfinite(value) and epoch < before and epoch not in known:
                trial.report(value, epoch)

    def _settle_left_overs(self) -> list[optuna.trial.Trial]:
        """Trials that were running when the last process ended; those whose run is finished are told at once."""
        left_over = []
        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if "same_as" in frozen.user_attrs:  # killed between the mark and the telling
                self._study.tell(frozen.number, state=TrialState.FAIL)
                continue
            trial = optuna.trial.Trial(self._study, frozen._trial_id)
            self._live[frozen.number] = trial
            if not self._settled(trial):
                left_over.append(trial)
        return left_over

    def _settled(self, trial: optuna.trial.Trial) -> bool:
        """Whether the trial's run is finished; tells it if so."""
        folder = self.trial_folder(trial.number, self.space.experiment(self._values(trial)))
        if Run(folder).state != "done":
            return False
        self.finish(trial.number, objective_of(folder, self.space.metric))
        return True

    def _draw(self) -> optuna.trial.Trial | None:
        """A trial whose point is new, or None where there seems to be none left."""
        for _ in range(REDRAWS):
            number = self._next_number()
            self._study.sampler = self._sampler(number)
            trial = self._study.ask()
            if "retry_of" in trial.user_attrs:
                return trial
            point = _point({name: _encode(value) for name, value in self._values(trial).items()})
            twin = self._points.setdefault(point, trial.number)
            if twin == trial.number:
                return trial
            trial.set_user_attr("same_as", twin)  # the same seed gives the same bits: training it again shows nothing
            self._study.tell(trial.number, state=TrialState.FAIL)
        return None

    def _next_number(self) -> int:
        """The number that `ask` will give; queues the point that is known for it, if there is one."""
        trials = self._study.get_trials(deepcopy=False)
        waiting = [trial.number for trial in trials if trial.state == TrialState.WAITING]
        if waiting:  # killed between the queueing and the asking
            return waiting[0]
        place = sum("retry_of" not in trial.user_attrs for trial in trials)
        known = self._first[place] if place < len(self._first) else seeds.repetition(self.space, self._counted())
        if known:  # what it leaves open is drawn
            self._study.enqueue_trial({name: _encode(value) for name, value in known.items()})
        return len(trials)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = key(self.space.seed, "draw", number) % 2**32
        if self.space.sampler != "tpe":
            return optuna.samplers.RandomSampler(seed)
        # Optuna's default of 10 random draws is made for searches of 100; two a field, 4 to 10, leaves room for TPE in
        # a search of 12. Our choice, not measured to be the best.
        random_draws = min(10, max(4, 2 * len(self.space.ranges))) * self.space.seeds
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=random_draws)

    def _values(self, trial: optuna.trial.Trial) -> dict[str, Any]:
        """The trial's point: what it has already, and draws of the rest (a kill may have come between two of them)."""
        values: dict[str, Any] = {}
        for name, range_ in self.space.ranges.items():
            if not self.space.active(name, values):
                continue
            if isinstance(range_, Choice):
                decode = {_encode(value): value for value in range_.choice}
                values[name] = decode[trial.suggest_categorical(name, [_encode(value) for value in range_.choice])]
            elif isinstance(range_, FloatRange):
                values[name] = trial.suggest_float(name, *range_.float, log=range_.log, step=range_.step)
            else:
                values[name] = trial.suggest_int(name, *range_.int, log=range_.log, step=range_.step)
        return values

    def _propose(self, trial: optuna.trial.Trial) -> Proposal | None:
        values = self._values(trial)
        self._live[trial.number] = trial
        try:
            experiment = self.space.experiment(values)
        except ConfigError as error:  # two fields that exclude each other only together
            self.fail(trial.number, f"ConfigError: {error}")
            self.refused.append(trial.number)
            return None
        return Proposal(trial.number, values, experiment, self.trial_folder(trial.number, experiment))

    def _tell(self, number: int, state: TrialState, value: float | None) -> None:
        self._study.tell(number, value, state=state)
        self._live.pop(number, None)
        self._reported.pop(number, None)

    def _entry(self, frozen: FrozenTrial) -> Entry:
        state = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
        return Entry(
            number=frozen.number,
            state=state.get(frozen.state, "running"),
            values={name: self._decoded(name, value) for name, value in frozen.params.items()},
            value=frozen.value,
            epoch=frozen.last_step or 0,
            reason=frozen.user_attrs.get("reason"),
        )

    def _decoded(self, name: str, value: Any) -> Any:
        range_ = self.space.ranges[name]
        if isinstance(range_, Choice):
            return next(choice for choice in range_.choice if _encode(choice) == value)
        return value


def objective_of(folder: Path, metric: str) -> float | None:
    """`metric` after the last epoch of a run, or None where it was not measured."""
    records = Run(folder).records()
    value = records[-1].get(metric) if records else None
    return None if value is None else float(value)


# ---------------------------------------------------------------------------------------------------------------------


def _encode(value: Any) -> Any:
    """Optuna's categories are scalars: a list (milestones) goes in as its JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def _point(params: Mapping[str, Any]) -> str:
    """A trial's parameters, as Optuna has them, as one text: equal where all are equal."""
    return json.dumps(params, sort_keys=True)

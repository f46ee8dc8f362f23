"""The session between Ray Tune and the study: what Ray would ask and tell, asked and told by tests."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mwray.cluster import leaderboard
from mwray.cluster.display import Silent
from mwray.cluster.failure import clear_failure, failure_of, note_failure
from mwray.cluster.leaderboard import SearchResult, base_row, ranked, rows
from mwray.cluster.packed import Packed, Process
from mwray.cluster.questions import TuneSearcher, TuneStopper
from mwray.cluster.session import Session
from mwray.cluster.study import Study
from mwray.cluster.trial import Job, outcome
from mwray.config import override, read
from mwray.experiment import Experiment
from mwray.storage import StorageError
from tests.cluster.helpers import finish_run, space


class Notes(Silent):
    """A display that remembers."""

    def __init__(self):
        self.seen, self.notes = [], []

    def changed(self, row):
        self.seen.append((row.label, row.state))

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def study(tmp_path):
    return Study(space(set={"epochs": 4, "optimizer.milestones": []}), tmp_path)


def session_of(study, base=None, limit=8):
    return Session(
        study,
        () if base is None else [base],
        Notes(),
        lambda: limit,
        {"workers": 1, "cpus": 1, "gpus": 0.0},
    )


def base_of(study):
    experiment = override(study.space.base, {"method.name": "base"})
    return base_row(experiment, study.folder / "base" / "b", study.space)


def record(epoch, accuracy):
    return {"record": {"epoch": epoch, "validation.accuracy": accuracy, "test.accuracy": 0.5, "seconds": 2.0}}


def test_base_model_goes_first_and_then_the_trials_as_many_as_fit(study):
    session = session_of(study, base_of(study), limit=2)
    first, second = (Job.from_config(session.next(name)) for name in "ab")
    assert first.experiment["method"] == {"name": "base"}
    assert read(Experiment, second.experiment) == study.space.experiment(study.space.first()[0])
    assert session.next("c") is None  # not now
    session.ended("a", {"outcome": "done", "value": 0.5})
    assert "0001-" in Job.from_config(session.next("c")).folder


def test_base_model_goes_first_at_every_seed(study):
    first = base_of(study)
    second = replace(first, experiment=override(first.experiment, {"seed": 1}), folder=first.folder / "1")
    session = Session(study, [first, second], Notes(), lambda: 9, {"workers": 1, "cpus": 1, "gpus": 0.0})
    jobs = [Job.from_config(session.next(name)) for name in "abc"]
    assert [job.experiment["method"]["name"] for job in jobs] == ["base", "base", "mwnet"]
    assert [job.experiment["seed"] for job in jobs] == [0, 1, 0]


def test_a_search_ends_when_all_trials_are_given(study):
    session = session_of(study)
    for name in "abcdef":
        assert isinstance(session.next(name), dict)
    assert session.next("g") == "FINISHED"


def test_the_ways_a_trial_ends_reach_the_study(study):
    session = session_of(study)
    for name in "abcde":
        session.next(name)
    session.ended("a", {"outcome": "done", "value": 0.8})
    session.ended("b", {"outcome": "failed", "reason": "ValueError: no"})
    session.ended("c", {"outcome": "done", "value": None})
    session.died("d", "its process died")
    assert [entry.state for entry in study.entries()] == ["complete", "failed", "failed", "failed", "running"]
    assert study.entry(3).reason == "its process died"
    assert session.stopped is None  # one went well


def test_three_failures_for_one_reason_end_the_search_and_say_so(study):
    session = session_of(study)
    for number, name in enumerate("abc"):
        session.next(name)
        reason = f"DataError: /some/folder{number}: no images, {number} classes"
        session.ended(name, {"outcome": "failed", "reason": reason})
    assert "first 3 trials all failed: DataError" in session.stopped
    assert session.next("d") == "FINISHED"
    assert TuneStopper(session).stop_all()
    assert any("giving up" in note for note in session.display.notes)


def test_failures_for_different_reasons_do_not_end_the_search(study):
    session = session_of(study)
    for name, reason in zip("abc", ("ValueError: one", "KeyError: two", "ValueError: one"), strict=True):
        session.next(name)
        session.ended(name, {"outcome": "failed", "reason": reason})
    assert not session.stopping
    assert isinstance(session.next("d"), dict)


def test_an_interrupted_trial_stays_open_for_the_next_session(study):
    session = session_of(study)
    session.next("a")
    assert not session.reported("a", record(1, 0.5))
    session.interrupt()
    assert TuneStopper(session).stop_all()
    session.ended("a", record(1, 0.5))
    assert study.entry(0).state == "running"
    assert session.display.seen[-1] == ("0", "waiting")
    again = session_of(Study(study.space, study.folder))
    job = again.next("x")
    assert job is not None
    finish_run(Job.from_config(job).path, Job.from_config(job).settings(), 0.7)
    again.ended("x", record(4, 0.7))  # stopped between its last epoch and its last word
    again.study.settle()
    assert (again.study.entry(0).state, again.study.entry(0).value) == ("complete", 0.7)


def test_a_hopeless_trial_is_stopped_but_never_at_its_last_epoch(tmp_path):
    asha = space(pruner={"asha": {"grace_period": 2, "reduction_factor": 2}}, set={"epochs": 4})
    study = Study(asha, tmp_path)
    session = session_of(study)
    for name in "abc":
        session.next(name)
    for epoch in (1, 2, 3, 4):
        assert not session.reported("a", record(epoch, 0.9))
    stop = TuneStopper(session)
    assert not stop("b", record(1, 0.1))
    assert stop("b", record(2, 0.1))
    session.ended("b", record(2, 0.1))
    assert study.entry(1).state == "pruned"
    assert not session.reported("c", record(4, 0.1))  # all that could be saved is spent
    session.ended("c", {"outcome": "done", "value": 0.1})
    assert study.entry(2).state == "complete"


def test_base_model_is_never_stopped_as_hopeless_and_is_not_in_the_study(tmp_path):
    study = Study(space(pruner={"asha": {"grace_period": 1}}, set={"epochs": 4}), tmp_path)
    session = session_of(study, base_of(study))
    session.next("base")
    assert not any(session.reported("base", record(epoch, 0.0)) for epoch in (1, 2, 3))
    session.ended("base", {"outcome": "done", "value": 0.0})
    assert study.entries() == []


def test_a_trial_that_ray_drops_without_a_word_is_started_again(study):
    session = session_of(study, limit=1)
    job = session.next("a")
    session.watch([SimpleNamespace(trial_id="a", status="RUNNING")])
    assert session.next("b") is None
    session.watch([SimpleNamespace(trial_id="a", status="ERROR")])
    assert session.next("b") == job
    assert session.next("c") is None


def test_ray_gets_nothing_to_keep_of_ours(study):
    searcher = TuneSearcher(session_of(study))
    assert copy.deepcopy(searcher) is searcher
    assert type(pickle.loads(pickle.dumps(searcher))) is object


def test_what_a_trial_reports_last_is_read_from_its_folder(study):
    proposal = study.next()
    job = Job.of(proposal.experiment, proposal.folder, "validation.accuracy", cpus=2)
    assert Job.from_config(job.config()) == job
    assert job.settings() == proposal.experiment
    finish_run(proposal.folder, proposal.experiment, 0.66)
    assert outcome(job) == {"outcome": "done", "value": 0.66}
    note_failure(proposal.folder, ValueError("first line\nsecond line"))
    assert outcome(job) == {"outcome": "failed", "reason": "ValueError: first line"}
    assert "second line" in failure_of(proposal.folder)["traceback"]
    clear_failure(proposal.folder)
    assert failure_of(proposal.folder) is None


def test_the_leaderboard_ranks_finished_before_stopped_before_failed_and_never_by_test(study):
    values = {0: 0.7, 1: 0.9, 2: 0.95, 3: 0.8}
    for number in range(4):
        proposal = study.next()
        if number == 2:  # stopped early, with the best value so far
            finish_run(proposal.folder, proposal.experiment, values[2], epochs=2)
            study.report(2, 2, 0.95)
            study.prune(2)
        elif number == 3:
            study.fail(3, "ValueError: no")
        else:
            finish_run(proposal.folder, proposal.experiment, values[number])
            study.finish(number, values[number])
    assert [row.number for row in ranked(rows(study), "max")] == [1, 0, 2, 3]
    assert [row.number for row in ranked(rows(study), "min")] == [0, 1, 2, 3]


def test_the_result_is_written_with_every_trial_and_the_best_experiment_in_full(study):
    for value in (0.7, 0.9):
        proposal = study.next()
        finish_run(proposal.folder, proposal.experiment, value)
        study.finish(proposal.number, value)
    base = base_of(study)
    names = leaderboard.columns(study.space)
    found = ranked(rows(study), "max")
    result = SearchResult(folder=study.folder, rows=found, bases=(base,), finished=True, names=names)
    leaderboard.write(result)
    best = json.loads((study.folder / "best.json").read_text())
    assert read(Experiment, best["experiment"]) == result.best.experiment
    assert (best["trial"], best["validation.accuracy"], best["test.accuracy"]) == ("1", 0.9, 0.8)
    assert best["seconds"] == 6.0
    lines = (study.folder / "leaderboard.csv").read_text().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("trial,state,method.weight_net.shape,data.num_meta,optimizer.lr,method.weight_net.lr")
    assert lines[-1].startswith("BaseModel,waiting")


def test_a_trial_that_died_and_is_started_again_is_told_with_its_reason_and_its_warnings(study):
    session = session_of(study)
    session.next("a")
    session.started("a")
    session.reported("a", {**record(1, 0.5), "warnings": ["checkpoint-000001: damaged"]})
    session.recovered("a", "ActorDiedError: killed")
    assert session.display.notes == [
        "trial 0: checkpoint-000001: damaged",
        "trial 0 is started again, from epoch 1 or the one before: ActorDiedError: killed",
    ]
    assert session.display.seen[-1] == ("0", "waiting")


def test_storage_that_fails_for_good_stops_the_search_in_order(study, monkeypatch):
    session = session_of(study)
    searcher, stopper = TuneSearcher(session), TuneStopper(session)
    for name in "ab":
        searcher.suggest(name)

    def refuse(*_):
        raise StorageError("study.journal: No space left on device, still after 120 s")

    monkeypatch.setattr(study, "finish", refuse)
    monkeypatch.setattr(study, "report", refuse)
    searcher.on_trial_complete("a", {"outcome": "done", "value": 0.5})
    assert stopper("b", record(1, 0.5)) and stopper.stop_all()
    assert searcher.suggest("c") == "FINISHED"
    assert "No space left" in session.stopped and isinstance(session.storage_failed, StorageError)
    assert session.display.notes == ["stopping: study.journal: No space left on device, still after 120 s"]
    assert study.entry(0).state == "running"  # its run is finished on the disk: the next driver tells it


def test_points_whose_fields_exclude_one_another_are_shown_and_the_next_is_trained(tmp_path):
    momenta = {"choice": [0.0, 0.9]}
    search = {"optimizer.nesterov": {"choice": [True]}, "optimizer.momentum": momenta}
    session = session_of(Study(space(search, sampler="grid", start=[], trials=None), tmp_path))
    assert isinstance(session.next("a"), dict)
    assert session.display.seen == [("0", "failed"), ("1", "waiting")] and session.stopped is None


def test_a_search_none_of_whose_points_can_be_trained_stops_and_says_why(tmp_path):
    together = {"optimizer.nesterov": {"choice": [True]}, "optimizer.momentum": {"choice": [0.0]}}
    study = Study(space({**together, "optimizer.lr": {"float": [0.01, 0.1]}}, start=[], trials=500), tmp_path)
    session = session_of(study)
    assert session.next("a") == "FINISHED"
    assert "20 points in a row cannot be trained: ConfigError" in session.stopped and "nesterov" in session.stopped


def lost(host):
    return {
        "outcome": "failed",
        "reason": f"StorageError: x: No space left on device, still after 9 s (seen from {host})",
    }


def test_a_trial_that_lost_its_storage_stays_open_and_others_go_on(study):
    session = session_of(study, base_of(study))
    for name in ("base", "a", "b", "c", "d"):
        session.next(name)
    session.ended("base", lost("alice"))
    session.ended("a", {"outcome": "done", "value": 0.5})
    for name in "bcd":  # not all that there are: no reason to give up
        session.ended(name, lost("alice"))
    assert session.stopped is None and isinstance(session.next("e"), dict)
    assert study.entry(1).state == "running"
    assert session.display.notes[0].startswith("BaseModel is left for the next call: StorageError: x: No space left")
    again = Study(study.space, study.folder)
    assert [again.next().number for _ in range(3)] == [1, 2, 3]  # without being asked to retry


def test_the_first_trials_all_losing_their_storage_on_whatever_host_end_the_search(study):
    session = session_of(study)
    for name, host in zip("abc", ("alice", "bob", "carol"), strict=True):
        session.next(name)
        session.ended(name, lost(host))
    assert "No space left" in session.stopped and session.next("d") == "FINISHED"


def test_a_noted_loss_of_storage_is_no_failure_of_base_model(study):
    row = base_of(study)
    finish_run(row.folder, row.experiment, 0.5, epochs=1)
    note_failure(row.folder, StorageError("x: No space left on device, still after 9 s"))
    assert base_of(study).state == "waiting"
    note_failure(row.folder, ValueError("bad"))
    assert base_of(study).state == "failed"


def test_a_process_of_several_trials_that_is_asked_to_go_takes_no_other(study):
    session = session_of(study)
    packed = Packed(session, 3, lambda: 1, cpus=1, gpus=0)
    process = Process(None, 3)
    packed._processes.append(process)
    for name in "ab":
        process.live[name] = session.next(name)
    assert packed._open() is process
    packed._hear(process, "a", {"left": "another process trains it", "going": False})
    packed._again.clear()
    assert packed._open() is process
    packed._hear(process, "b", {"left": "SIGTERM", "going": True})
    packed._again.clear()
    assert packed._open() is None  # three places would be free

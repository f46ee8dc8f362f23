"""Standing groups without Ray: two workers in two threads, the desk in a third, the driver in the test's own."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from contextlib import closing
from types import SimpleNamespace

import pytest
import torch
from ray.train.v2._internal.constants import get_env_vars_to_propagate

from mwray.cluster import leave, member, trainer, trial, worker
from mwray.cluster.failure import failure_of
from mwray.cluster.group import GroupLost, hand
from mwray.cluster.trial import Job
from mwray.records import Run
from mwray.storage import PATIENCE
from mwray.train import checkpoint
from mwray.train.loop import Left, train
from mwray.worker import LocalWorker
from tests.cluster.office import WAIT, Office
from tests.cluster.test_workers import digits

IDLE = 0.1
"""What a desk is told, once that is what a test is about, to wait for."""


@pytest.fixture
def office():
    made = Office()
    yield made
    made.close()


class Meeting:
    """An exchange between threads instead of processes."""

    def __init__(self, size):
        self.barrier, self.given = threading.Barrier(size, timeout=WAIT), {}

    def exchange(self, rank, size, device):
        return SimpleNamespace(average=lambda tensors: self._average(rank, tensors), take=dict)

    def _average(self, rank, tensors):
        self.given[rank] = tensors
        self.barrier.wait()
        means = [torch.stack(each).mean(0) for each in zip(*self.given.values(), strict=True)]
        self.barrier.wait()
        return means


@pytest.fixture
def two(monkeypatch):
    """What a training of two workers is here: three epochs, each told; a log of what both did."""
    meeting, log = Meeting(2), []
    monkeypatch.setattr(member, "Exchange", meeting.exchange)
    monkeypatch.setattr(worker, "Exchange", meeting.exchange)

    def training(job, each):
        for epoch in (1, 2, 3):
            log.append((each.rank, job.metric, epoch))
            if job.metric == "fails" and (each.rank, epoch) == (1, 2):
                return "ValueError: on rank 1 only"
            each.report({"epoch": epoch}, None)
        return None

    monkeypatch.setattr(member, "train_noting", training)
    monkeypatch.setattr(member, "outcome", lambda job, reason: {"outcome": "failed" if reason else "done"})
    return SimpleNamespace(log=log, meeting=meeting, of=lambda rank: [(n, e) for who, n, e in log if who == rank])


def job(folder, name="", experiment=None, **more):
    folder.mkdir(parents=True, exist_ok=True)
    return Job.of(experiment or digits("plain"), folder, name, **{"workers": 2, **more})


def told(office, given, until=None):
    """What a search hears of a job that it stops after so many epochs; the last word is None if there was none."""
    heard, work = [], hand(office.ask, given.config()["job"])
    with closing(work):
        try:
            while until is None or len(heard) < until:
                heard.append(next(work)["epoch"])
        except StopIteration as end:
            return heard, end.value
    return heard, "stopped"


def told_of_the_last_epoch(office, given):
    """How a job of three epochs ends whose workers, from the last one on, wait for `IDLE` and no longer."""
    work = hand(office.ask, given.config()["job"])
    assert [next(work)["epoch"] for _ in range(3)] == [1, 2, 3]
    office.desk._idle = IDLE
    with pytest.raises(StopIteration) as end:
        next(work)
    return end.value.value


def test_two_workers_train_one_trial_after_the_other(tmp_path, office, two):
    office.hire(2)
    for name in ("first", "second"):
        assert told(office, job(tmp_path, name)) == ([1, 2, 3], {"outcome": "done", "warnings": []})
    assert two.of(0) == two.of(1) == [(name, epoch) for name in ("first", "second") for epoch in (1, 2, 3)]


def test_a_stopped_trial_takes_no_step_more_on_any_worker_and_the_group_is_free(tmp_path, office, two):
    office.hire(2)
    assert told(office, job(tmp_path, "hopeless"), until=2) == ([1, 2], "stopped")
    assert told(office, job(tmp_path, "next"))[0] == [1, 2, 3]
    assert two.of(0) == two.of(1)
    assert [epoch for name, epoch in two.of(0) if name == "hopeless"] == [1, 2]


def test_workers_that_took_different_trials_come_together_on_the_newest(tmp_path, office, two):
    """Rank 1 comes late, when nobody needs any more what rank 0 has taken."""
    come = threading.Event()
    office.hire(2, late=come.wait)
    number = office.ask("give", job(tmp_path, "old").config()["job"])
    wait_for(lambda: 0 in two.meeting.given)
    office.ask("drop", number)
    new = threading.Thread(target=lambda: heard.append(told(office, job(tmp_path, "new"))[0]))
    heard = []
    new.start()
    wait_for(lambda: office.desk._number > number)
    come.set()
    new.join(WAIT)
    assert heard == [[1, 2, 3]]
    assert two.of(0) == two.of(1) == [("new", epoch) for epoch in (1, 2, 3)]


def test_an_error_on_one_worker_ends_trial_and_processes_and_the_next_trial_is_not_touched(tmp_path, office, two):
    office.hire(2)
    heard, ended = told(office, job(tmp_path, "fails"))
    assert (heard[0], ended["outcome"]) == (1, "failed")
    first, failed = office.members
    failed.thread.join(WAIT)
    assert isinstance(failed.error, RuntimeError) and "on rank 1 only" in str(failed.error)
    two.meeting.barrier.abort()  # as when Ray Train ends the process
    first.thread.join(WAIT)
    two.meeting.barrier.reset()
    office.hire(2)  # as Ray Train does
    assert told(office, job(tmp_path, "next")) == ([1, 2, 3], {"outcome": "done", "warnings": []})


def test_a_worker_whose_machine_does_not_see_the_storage_trains_nothing_there(tmp_path, office, two, monkeypatch):
    monkeypatch.setenv(PATIENCE, "0.1")
    office.hire()
    away = Job.of(digits("plain"), tmp_path / "away" / "trials" / "0000", "x", workers=2)
    _, ended = told(office, away)
    assert ended["outcome"] == "failed" and not two.log
    assert not (tmp_path / "away").exists()


def test_a_group_that_comes_again_goes_on_with_the_trial_that_it_had(tmp_path, office, two):
    office.hire(2)
    work = hand(office.ask, job(tmp_path, "one").config()["job"])
    assert next(work)["epoch"] == 1
    two.meeting.barrier.abort()  # a worker dies
    heard = []
    rest = threading.Thread(target=lambda: heard.extend(event["epoch"] for event in work))
    rest.start()
    for each in office.members:
        each.thread.join(WAIT)
        assert isinstance(each.error, threading.BrokenBarrierError)
    two.meeting.barrier.reset()
    office.hire(2)
    rest.join(WAIT)
    assert heard == [1, 2, 3]  # this training keeps no checkpoint


def test_a_group_that_has_nothing_to_do_leaves_and_takes_nothing_more(tmp_path, office, two):
    office.hire(2)
    assert told_of_the_last_epoch(office, job(tmp_path, "one"))["outcome"] == "done"
    for each in office.members:
        each.thread.join(WAIT)
        assert not each.thread.is_alive() and each.error is None
    assert not office.ask("stands")
    assert told(office, job(tmp_path, "two")) == ([], None)


def test_a_group_whose_report_is_not_answered_gives_the_trial_back_and_may_be_given_it_again(
    tmp_path, office, two, monkeypatch
):
    """A search that has stopped a trial need not have said so: its group must not hold its machines for ever."""
    finish = office.desk._finish
    monkeypatch.setattr(office.desk, "_finish", lambda: (finish(), setattr(office.desk, "_idle", WAIT)))
    office.hire(2)
    given = job(tmp_path, "one")
    work = hand(office.ask, given.config()["job"])
    assert next(work)["epoch"] == 1
    office.desk._idle = IDLE
    assert next(work)["epoch"] == 2
    wait_for(lambda: office.desk._over)
    with pytest.raises(StopIteration) as end:
        next(work)
    assert end.value.value is None
    assert told(office, given)[0] == [1, 2, 3]
    assert two.of(0) == two.of(1) == [("one", epoch) for epoch in (1, 2, 1, 2, 3)]


def test_a_worker_that_is_done_sooner_waits_for_the_others_however_long_they_take(tmp_path, office, two, monkeypatch):
    waited, until = [], office.desk._until

    async def counted(true, seconds=None):
        came = await until(true, seconds)
        waited.extend([] if came else [seconds])
        return came

    def slow(job, reason):
        wait_for(lambda: waited.count(IDLE) > 1)
        office.desk._idle = WAIT
        return {"outcome": "done"}

    monkeypatch.setattr(office.desk, "_until", counted)
    monkeypatch.setattr(member, "outcome", slow)
    office.hire(2)
    assert told_of_the_last_epoch(office, job(tmp_path, "one"))["outcome"] == "done"
    assert office.ask("stands")


def test_a_group_that_is_lost_is_an_error_of_the_trials_process(tmp_path, office):
    loss = threading.Thread(target=lambda: wait_for(lambda: office.desk._number) or office.ask("lose", "no machines"))
    loss.start()
    with pytest.raises(GroupLost, match="no machines"):
        told(office, job(tmp_path))
    loss.join(WAIT)
    assert not office.ask("stands")


def test_an_end_that_comes_while_a_report_is_looked_at_is_not_lost(office):
    number = office.ask("give", "")
    pending = asyncio.run_coroutine_threadsafe(office.desk.report(number, {"epoch": 1}), office._loop)
    mark = office.ask("hear")["mark"]
    office.ask("end", number, {"outcome": "failed"})
    assert pending.result(WAIT) is False
    assert office.ask("answer", mark)
    assert office.ask("hear") == {"end": {"outcome": "failed"}}


def test_the_processes_of_a_run_are_told_which_ray_is_theirs_and_this_one_s_environment_stays(monkeypatch):
    seen = []
    here = SimpleNamespace(gcs_address="10.0.0.1:6379")
    monkeypatch.setattr(trainer.ray, "get_runtime_context", lambda: here)
    monkeypatch.setenv("RAY_ADDRESS", "another")
    trainer.run(SimpleNamespace(fit=lambda: seen.append(get_env_vars_to_propagate()["RAY_ADDRESS"])))
    monkeypatch.delenv("RAY_ADDRESS")
    trainer.run(SimpleNamespace(fit=lambda: seen.append(get_env_vars_to_propagate()["RAY_ADDRESS"])))
    assert seen == [here.gcs_address] * 2 and "RAY_ADDRESS" not in os.environ


def test_who_waits_for_the_desk_leaves_when_asked_to(monkeypatch):
    monkeypatch.setattr(member.ray, "wait", lambda refs, timeout: ([], refs))
    monkeypatch.setattr(leave, "asked", lambda: "SIGTERM")
    desk = SimpleNamespace(take=SimpleNamespace(remote=lambda seen: "answer"))
    with pytest.raises(Left, match="SIGTERM"):
        member.asking(desk)("take", 0)


# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def bare(monkeypatch):
    """Trainings without pictures."""
    monkeypatch.setattr(trial, "sinks", list)


def test_a_trial_has_the_bits_of_one_in_a_process_of_its_own_whatever_was_trained_before(tmp_path, office, bare):
    """The name of a checkpoint carries its content's checksum."""
    first = digits("plain", **{"precision": "tf32", "seed": 7, "optimizer.lr": 0.03})
    second = digits("plain", **{"data.bias.rate": 0.2})
    office.hire()
    before = torch.get_rng_state(), logging.getLogger("mwray").handlers[:]
    assert told(office, job(tmp_path / "a", experiment=first, workers=1, cpus=2))[1]["outcome"] == "done"
    assert told(office, job(tmp_path / "b", experiment=first, workers=1), until=1)[1] == "stopped"
    heard, ended = told(office, job(tmp_path / "c", "test.accuracy", second, workers=1))
    assert heard == [1, 2]
    assert ended == {"outcome": "done", "value": Run(tmp_path / "c").records()[-1]["test.accuracy"], "warnings": []}
    train(second, tmp_path / "alone", worker=LocalWorker("cpu"))
    ours, alone = (checkpoint.files(tmp_path / name)[0].name for name in ("c", "alone"))
    assert ours == alone
    assert torch.equal(torch.get_rng_state(), before[0]) and logging.getLogger("mwray").handlers == before[1]
    assert not Run(tmp_path / "b").summary()


def test_a_training_that_fails_is_written_down_and_tells_why(tmp_path, office, bare):
    office.hire()
    _, ended = told(office, job(tmp_path / "run", experiment=digits("fails"), workers=1))
    assert ended["outcome"] == "failed" and "LookupError: no weights" in ended["reason"]
    assert failure_of(tmp_path / "run")["reason"] == ended["reason"]


def test_a_trial_that_goes_on_tells_its_last_epoch_again(tmp_path, office, bare):
    office.hire()
    given = job(tmp_path / "run", workers=1)
    assert told(office, given, until=1) == ([1], "stopped")
    assert told(office, given)[0] == [1, 2]
    assert [record["epoch"] for record in Run(tmp_path / "run").records()] == [1, 2]


def wait_for(condition):
    done = threading.Event()
    for _ in range(int(WAIT / 0.01)):
        if condition():
            return
        done.wait(0.01)
    raise AssertionError("waited in vain")

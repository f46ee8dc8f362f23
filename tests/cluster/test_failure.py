"""What is written down of a training that failed, and of starts that lead nowhere."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mwray.cluster import packed
from mwray.cluster.failure import Hopeless, clear_starts, count_start, failure_of, note_failure
from mwray.cluster.packed import Packed, Process
from mwray.cluster.study import Study
from mwray.cluster.trial import Job, outcome, ready
from mwray.storage import StorageError
from tests.cluster.helpers import finish_run, space
from tests.cluster.test_session import session_of


def test_starts_that_lead_nowhere_end_a_trial_and_progress_or_another_driver_count_anew(tmp_path):
    experiment = space().base
    run = finish_run(tmp_path / "run", experiment, 0.5, epochs=1)
    for _ in range(3):
        count_start(run.folder, "driver")
    count_start(run.folder, "another driver")
    for _ in range(2):
        count_start(run.folder, "another driver")
    run.append({"epoch": 2})
    for _ in range(3):
        count_start(run.folder, "another driver")
    with pytest.raises(Hopeless, match="died 3 times in a row in epoch 3"):
        count_start(run.folder, "another driver")
    clear_starts(run.folder)
    count_start(run.folder, "another driver")


def test_a_failure_that_cannot_be_written_down_is_told_all_the_same(tmp_path):
    experiment = space().base
    job = Job.of(experiment, tmp_path / "gone" / "trials" / "0000", "validation.accuracy")
    reason = note_failure(job.path, StorageError("x: No space left on device, still after 120 s"))
    assert reason.startswith("StorageError: x: No space left on device, still after 120 s (seen from ")
    assert outcome(job, reason) == {"outcome": "failed", "reason": reason}
    assert not (tmp_path / "gone").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_trial_on_a_machine_without_the_gpu_that_it_promised_says_so_at_once(tmp_path, monkeypatch):
    """Its folder is made by its first training, which never begins; a missing one is waited for, as a lost disk is."""
    job = Job.of(space().base, tmp_path / "trials" / "0000", "validation.accuracy", gpus=0.5)
    monkeypatch.setattr("mwray.storage.time.sleep", lambda seconds: pytest.fail("it waited"))
    reason = ready(job)
    assert reason is not None and "gave 0.5 GPU, and PyTorch" in reason and "--gpus-per-trial 0" in reason
    assert failure_of(job.path)["reason"] == reason
    assert outcome(job, reason)["outcome"] == "failed"


def test_a_packed_search_whose_storage_fails_while_it_stops_still_ends_in_order(tmp_path, monkeypatch):
    session = session_of(Study(space(), tmp_path))
    stopping = Packed(session, 3, lambda: 1, cpus=1, gpus=0)
    actor = SimpleNamespace(advance=SimpleNamespace(remote=lambda begin, drop: None))
    stopping._processes.append(Process(actor, 3, live={name: session.next(name) for name in "ab"}))

    def refuse(run):
        raise StorageError("s3://bucket/x: no network, after 120 s")

    monkeypatch.setattr(session.store, "fetch", refuse)
    monkeypatch.setattr(packed.ray, "get", lambda *given, **named: [])
    stopping._stop()
    assert "no network" in session.stopped and session.running == []
    assert session.display.seen[-2:] == [("0", "waiting"), ("1", "waiting")]
    assert [entry.state for entry in session.study.entries()] == ["running"] * 2  # open, for the next call

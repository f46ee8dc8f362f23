"""What Ray's errors come to in a line, and that this line is what a user is told."""

from __future__ import annotations

import threading
import traceback
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import ActorDiedError, RayTaskError
from ray.train import ControllerError, WorkerGroupError

from mwray.cluster import group, packed, sweep
from mwray.cluster.connect import Allotment
from mwray.cluster.errors import in_a_line
from mwray.cluster.group import Group
from mwray.cluster.packed import Packed, Process
from mwray.cluster.questions import _death
from mwray.cluster.sight import _answers
from tests.cluster.helpers import space

LINE = "LookupError: no weights"


def raised(cause=None):
    """As `ray.get` raises what a task raised."""
    try:
        raise cause or LookupError("no weights\nwhatsoever")
    except Exception as error:
        return RayTaskError("f", traceback.format_exc(), error, "ray::f", 7, "10.0.0.1")


def get(answer):
    raise answer.as_instanceof_cause()


def test_of_an_error_in_another_process_its_cause_is_told():
    assert str(raised()).startswith("\x1b[36mray::f()")  # all that its first line says
    assert in_a_line(raised()) == in_a_line(raised().as_instanceof_cause()) == LINE
    assert in_a_line(raised(raised())) == LINE
    assert in_a_line(ActorDiedError()).startswith("ActorDiedError: The actor died unexpectedly")
    assert in_a_line(ActorDiedError(raised(LookupError("no weights")))) == f"ActorDiedError: {LINE}"
    assert in_a_line(WorkerGroupError("[Rank 1]\n...", {1: LookupError("no weights")})) == LINE
    assert in_a_line(ControllerError(raised())) == LINE
    assert in_a_line(ValueError()) == "ValueError: "
    assert in_a_line(ValueError("\n \x1b[36ma\x1b[0m\nb")) == "ValueError: a"


def test_the_last_error_of_a_process_is_told_whatever_its_file_holds(tmp_path):
    path = tmp_path / "error.txt"
    assert _death(None) == _death(str(path)) == "its process died"
    path.write_bytes(
        b"Traceback ...\nValueError: first\n\xff\xfe of a native library\nray.exceptions.OutOfMemoryError: full\n"
    )
    assert _death(str(path)) == "OutOfMemoryError: full"


def test_a_machine_that_cannot_be_looked_from_tells_the_cause(monkeypatch):
    monkeypatch.setattr(ray, "get", get)
    assert _answers({raised(): {"NodeID": "one"}}) == ({}, {"one": LINE})


def test_a_host_that_ends_with_an_error_tells_the_cause(monkeypatch):
    told = []
    session = SimpleNamespace(recovered=lambda key, reason: told.append((key, reason)))
    process = Process(None, 3, live={"a": {}}, answer=raised())
    driver = Packed(session, 3, lambda: 1, cpus=1, gpus=0)
    driver._processes.append(process)
    fake = SimpleNamespace(
        get=get, wait=lambda answers, timeout: (answers, []), kill=lambda actor: None, exceptions=ray.exceptions
    )
    monkeypatch.setattr(packed, "ray", fake)
    driver._wait()
    assert told == [("a", LINE)]


@pytest.fixture
def here(monkeypatch):
    """A Ray that runs a task where it is called: what it returned or raised is its reference."""

    def remote(function):
        def call(*given):
            try:
                return [function(*given)]
            except Exception as error:
                return [raised(error)]

        return SimpleNamespace(options=lambda **named: SimpleNamespace(remote=lambda *given: Answer(call(*given)[0])))

    class Answer:
        def __init__(self, value):
            self.value = value

    def fetched(answer):
        if isinstance(answer.value, RayTaskError):
            get(answer.value)
        return answer.value

    fake = SimpleNamespace(remote=remote, get=fetched, wait=lambda answers, **_: (answers[:1], answers[1:]))
    monkeypatch.setattr(sweep, "ray", fake)
    monkeypatch.setattr(sweep, "nodes", lambda: [{"CPU": 1.0, "GPU": 1.0}])


def outcome_of(folder, allotment):
    ((outcome, _),) = sweep._run([sweep.Job("one", space().base, folder)], allotment, None, joined=False)
    return outcome


def test_a_training_that_is_lost_tells_the_cause(here, tmp_path, monkeypatch):
    def lost(*given):
        raise LookupError("no weights")

    monkeypatch.setattr(sweep, "_train", lost)
    assert outcome_of(tmp_path, Allotment(1, 1, 0.0)).error == LINE


def test_a_training_that_was_given_a_gpu_does_not_train_without_one(here, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    outcome = outcome_of(tmp_path / "run", Allotment(1, 1, 1.0))
    assert outcome.summary is None and outcome.error.startswith("DeviceError: ") and "gave 1 GPU" in outcome.error
    assert not (tmp_path / "run").exists()


def test_a_group_that_is_given_up_tells_the_cause(monkeypatch):
    def fails(trainer):
        raise WorkerGroupError("[Rank 1]", {1: raised()})

    monkeypatch.setattr(group, "make_trainer", lambda *given: None)
    monkeypatch.setattr(group, "scratch", lambda: None)
    monkeypatch.setattr(group, "run", fails)
    told, lost = [], Group.__new__(Group)
    lost._desk = None
    lost.ask = lambda name, *given: told.append((name, *given))
    thread = threading.Thread(target=lost._stay, args=(None,))
    thread.start()
    thread.join(60)
    assert told == [("lose", LINE)]

"""Which machines see the place that is written to: asked of a Ray that is made up here."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

import mwray
from mwray.cluster import sight, sweep
from mwray.cluster.bucket import Shared
from mwray.cluster.session import Session
from mwray.cluster.sight import Sight
from mwray.cluster.study import Study
from mwray.config import ConfigError
from tests.cluster.helpers import space
from tests.cluster.test_session import Notes

VERSION = mwray.__version__


class Cluster:
    """Nodes by name, each with what a look from it comes to: whether it sees, a version, an error; None: no answer."""

    def __init__(self, **answers):
        self.answers, self.asked = answers, []

    def nodes(self):
        return [{"NodeID": f"id-{name}", "NodeManagerHostname": name, "Alive": True} for name in self.answers]

    def look_from(self, node_id, marker):
        name = node_id.removeprefix("id-")
        assert Path(marker).exists()
        self.asked.append(name)
        return name

    def wait(self, looks, num_returns, timeout):
        late = [name for name in looks if self.answers.get(name, False) is None]
        return [name for name in looks if name not in late], late

    def get(self, name):
        answer = self.answers.get(name, ray.exceptions.NodeDiedError("gone"))
        if isinstance(answer, Exception):
            raise answer
        version = answer if isinstance(answer, str) else VERSION
        return {"host": name, "sees": answer is not False, "version": version}


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of a head that sees everything; at each look for machines that joined, it is time for it."""
    made = Cluster(head=True)
    fake = SimpleNamespace(nodes=made.nodes, wait=made.wait, get=made.get, exceptions=ray.exceptions)
    monkeypatch.setattr(sight, "ray", fake)
    monkeypatch.setattr(sight, "_look_from", made.look_from)
    monkeypatch.setattr(sight, "PAUSE", -1.0)
    return made


def test_machines_that_see_the_folder_are_taken_and_those_that_do_not_are_named(cluster, tmp_path):
    cluster.answers |= {"one": True, "two": True}
    Sight(tmp_path).check()
    cluster.answers |= {"two": False, "three": False}
    with pytest.raises(ConfigError, match=rf"--folder {tmp_path}: two, three cannot see it. Give a folder on"):
        Sight(tmp_path).check()
    cluster.answers |= {"two": "0.0.1"}
    with pytest.raises(ConfigError, match=rf"mwray {VERSION} is here, and two has 0.0.1"):
        Sight(tmp_path).check()
    assert list(tmp_path.iterdir()) == []


def test_machines_that_do_not_answer_are_named(cluster, tmp_path):
    cluster.answers |= {"hung": None, "broken": ray.exceptions.RaySystemError("no process\nstarts"), "well": True}
    with pytest.raises(ConfigError) as refused:
        Sight(tmp_path).check()
    assert "hung (nothing within 90 s)" in str(refused.value) and "broken (RaySystemError: " in str(refused.value)
    assert "well" not in str(refused.value) and "\n" not in str(refused.value)


def test_a_machine_that_leaves_while_it_is_asked_needs_to_see_nothing(cluster, tmp_path, monkeypatch):
    cluster.answers |= {"spot": True}

    def wait(looks, **how):
        del cluster.answers["spot"]
        return looks, []

    monkeypatch.setattr(sight.ray, "wait", wait)
    Sight(tmp_path).check()


def test_a_machine_that_joins_is_looked_from_once_without_being_waited_for(cluster, tmp_path):
    seen = Sight(tmp_path)
    assert seen.trouble() is None  # no search runs yet, and no Ray
    seen.check()
    assert seen.trouble() is None and cluster.asked == []
    cluster.answers |= {"new": None}
    assert [seen.trouble() for _ in range(3)] == [None] * 3 and cluster.asked == ["new"]
    assert len(list(tmp_path.iterdir())) == 1  # what it is looking for
    cluster.answers["new"] = True
    assert [seen.trouble() for _ in range(3)] == [None] * 3 and cluster.asked == ["new"]
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_joins_and_never_answers_is_asked_again_and_one_that_leaves_is_forgotten(
    cluster, tmp_path, monkeypatch
):
    seen = Sight(tmp_path)
    seen.check()
    monkeypatch.setattr(sight, "ANSWER_SECONDS", -1.0)
    cluster.answers |= {"new": None}
    for _ in range(4):
        assert seen.trouble() is None
    assert cluster.asked == ["new", "new"]
    seen.trouble()
    del cluster.answers["new"]
    assert [seen.trouble() for _ in range(3)] == [None] * 3
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_joins_and_does_not_see_the_folder_stops_the_search_in_order(cluster, tmp_path):
    store = Shared(tmp_path)
    session = Session(Study(space(), tmp_path), (), Notes(), lambda: 8, {"workers": 1}, store=store)
    with store.open():
        store.sight.check()
        assert isinstance(session.next("a"), dict) and not session.stopping
        cluster.answers |= {"new": False}
        assert [session.stopping for _ in range(2)] == [False, True]
        assert f"--folder {tmp_path}: new cannot see it" in session.stopped and session.next("b") == "FINISHED"
        assert session.display.notes == [f"stopping: {session.stopped}"]
        session.ended("a", {})
    assert session.study.entry(0).state == "running"  # for the next call


def test_the_marker_goes_with_the_search(cluster, tmp_path):
    store = Shared(tmp_path)
    with store.open():
        store.sight.check()
        cluster.answers |= {"new": None}
        store.sight.trouble()
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_trainings_of_a_study_end_too_where_a_machine_joins_that_does_not_see_their_folders(
    cluster, tmp_path, monkeypatch
):
    job = sweep.Job("one", space().base, tmp_path / "run")
    cluster.answers |= {"blind": True}
    monkeypatch.setattr(sweep, "connected", lambda address: nullcontext())
    monkeypatch.setattr(sweep, "nodes", lambda: [{"CPU": 1.0}])

    def waits(*given, **named):
        cluster.answers |= {"new": False}
        while True:
            yield None, 1

    monkeypatch.setattr(sweep, "_run", waits)
    with pytest.raises(ConfigError, match=rf"{job.folder}: new cannot see it"):
        sweep.sweep([job], address="auto")
    assert list(job.folder.iterdir()) == []

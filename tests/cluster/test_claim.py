"""One driver for one search in object storage: who is refused, who takes over, what the one taken over does then."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from mwray.cluster import bucket as bucket_module
from mwray.cluster import claim
from mwray.cluster.bucket import Keeper
from mwray.cluster.claim import CLAIM, Claim, TakenOver
from mwray.cluster.display import Silent
from mwray.cluster.questions import TuneSearcher, TuneStopper
from mwray.cluster.session import Session
from mwray.cluster.study import Study
from mwray.lock import LockedError
from mwray.storage import StorageError
from tests.cluster.helpers import space
from tests.cluster.object_storage import bucket, place, server  # noqa: F401 - fixtures


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Nobody in a test claims at the same moment."""
    monkeypatch.setattr(claim, "SETTLE", 0.0)


def take_over(place):  # noqa: F811
    """What a driver elsewhere does after this one was silent for too long."""
    place.write(CLAIM, json.dumps({"host": "elsewhere", "pid": 7, "since": "2026", "mark": "other"}).encode())


def test_a_second_driver_is_refused_with_the_first_ones_host_and_process(place):  # noqa: F811
    first = Claim(place)
    first.take()
    with pytest.raises(LockedError, match=rf"process {os.getpid()} on {socket.gethostname()}"):
        Claim(place).take()
    first.drop()
    second = Claim(place)
    second.take()
    second.drop()


def test_a_dead_drivers_claim_is_taken_over(place, monkeypatch):  # noqa: F811
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    holder = {"host": socket.gethostname(), "pid": gone.pid, "since": "2026", "mark": "other"}
    place.write(CLAIM, json.dumps(holder).encode())
    Claim(place).take()
    place.write(CLAIM, json.dumps({**holder, "pid": os.getpid(), "started": "another boot, tick 1"}).encode())
    Claim(place).take()
    place.write(CLAIM, json.dumps({**holder, "host": "elsewhere"}).encode())
    with pytest.raises(LockedError, match="elsewhere"):
        Claim(place).take()
    monkeypatch.setattr(claim, "OLD", -1.0)  # as if it had not been renewed for long
    Claim(place).take()


def test_who_was_taken_over_neither_takes_the_claim_back_nor_drops_it(place):  # noqa: F811
    first = Claim(place)
    first.take()
    since = json.loads(place.read(CLAIM))["since"]
    first.renew()
    assert json.loads(place.read(CLAIM)) == {**json.loads(place.read(CLAIM)), "mark": first.mark, "since": since}
    take_over(place)
    with pytest.raises(TakenOver, match=rf"by process 7 on elsewhere.*{os.getpid()} on {socket.gethostname()}"):
        first.renew()
    first.drop()
    assert json.loads(place.read(CLAIM))["mark"] == "other"
    place.delete(CLAIM)  # the other one has finished: the search is no longer what the first knew
    with pytest.raises(TakenOver, match=rf"claim .*{os.getpid()} on {socket.gethostname()}\) is gone"):
        first.renew()


def test_a_write_that_waited_for_its_storage_looks_again_before_it_is_tried_again(place, monkeypatch):  # noqa: F811
    first = Claim(place / "")
    first.take()
    working = first.remote.filesystem

    class Away:
        def __getattr__(self, name):
            return getattr(working, name)

        def open_output_stream(self, path):
            take_over(place)
            raise OSError("AWS Error NETWORK_CONNECTION during PutObject operation: curlCode: 7")

    monkeypatch.setattr(first.remote, "_opened", Away())
    with pytest.raises(TakenOver):
        first.renew()
    assert json.loads(place.read(CLAIM))["mark"] == "other"


def test_a_driver_that_was_taken_over_pushes_nothing_more_and_stops_in_order(place, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(bucket_module, "BEAT", 3600.0)
    keeper = Keeper(place)
    with pytest.raises(TakenOver), keeper.open():
        session = Session(Study(space(), keeper.folder), (), Silent(), lambda: 8, {"workers": 1}, store=keeper)
        searcher, stopper = TuneSearcher(session), TuneStopper(session)
        assert isinstance(searcher.suggest("a"), dict)
        take_over(place)
        theirs = place.read("study.journal")
        assert searcher.suggest("b") == "FINISHED" and stopper.stop_all()
        assert stopper("a", {"record": {"epoch": 1, "validation.accuracy": 0.5}})
        searcher.on_trial_complete("a", {"outcome": "done", "value": 0.5})
        assert "taken over by process 7 on elsewhere" in session.stopped
        assert session.study.entry(0).state == "running"
    assert place.read("study.journal") == theirs
    assert json.loads(place.read(CLAIM))["mark"] == "other"


def test_a_lost_claim_is_noticed_while_nothing_is_asked(place, monkeypatch):  # noqa: F811
    monkeypatch.setattr(bucket_module, "BEAT", 0.1)
    keeper = Keeper(place)
    with pytest.raises(TakenOver), keeper.open():
        session = Session(Study(space(), keeper.folder), (), Silent(), lambda: 8, {"workers": 1}, store=keeper)
        assert not session.stopping
        stay_taken_over(place, lambda: session.stopping)
        assert isinstance(session.storage_failed, LockedError)


def test_an_error_in_the_thread_that_pushes_ends_the_search_with_its_reason(place, monkeypatch):  # noqa: F811
    monkeypatch.setattr(bucket_module, "BEAT", 0.02)
    keeper = Keeper(place)

    def broken():
        raise RuntimeError("no such thing")

    with pytest.raises(StorageError, match="RuntimeError: no such thing"), keeper.open():
        monkeypatch.setattr(keeper._mirror, "push", broken)
        wait_for(lambda: keeper.failed is not None)


def test_a_living_driver_keeps_its_claim_through_a_long_pull_and_a_long_push(place, monkeypatch):  # noqa: F811
    monkeypatch.setattr(bucket_module, "BEAT", 0.02)
    renewed, renew = [], Claim.renew
    monkeypatch.setattr(Claim, "renew", lambda self: (renew(self), renewed.append(1)))

    def long(*given):
        before = len(renewed)
        wait_for(lambda: len(renewed) > before + 2)

    keeper = Keeper(place)
    monkeypatch.setattr(keeper._mirror, "pull", long)
    monkeypatch.setattr(keeper._mirror, "push", long)
    with keeper.open():
        keeper.push()
    assert place.read(CLAIM) is None


def test_a_driver_that_was_taken_over_while_it_pulled_begins_nothing(place, monkeypatch):  # noqa: F811
    monkeypatch.setattr(bucket_module, "BEAT", 0.1)
    keeper = Keeper(place)
    monkeypatch.setattr(keeper._mirror, "pull", lambda: stay_taken_over(place, lambda: keeper.failed))
    with pytest.raises(TakenOver), keeper.open():
        pytest.fail("it began")


def test_a_pull_that_is_broken_off_leaves_the_storage_as_it_is(place, monkeypatch):  # noqa: F811
    place.write("study.journal", b"newer")
    keeper = Keeper(place)
    (keeper.folder / "study.journal").write_bytes(b"of this machine's last call")

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(keeper._mirror, "pull", interrupted)
    with pytest.raises(KeyboardInterrupt), keeper.open():
        pytest.fail("it began")
    assert place.read("study.journal") == b"newer" and place.read(CLAIM) is None


@pytest.mark.parametrize("text", [b"[1]", b"{", b'{"host": "elsewhere"}', b"\xff"])
def test_a_claim_that_is_none_is_named_and_left_alone(place, text):  # noqa: F811
    place.write(CLAIM, text)
    for ask in (Claim(place).take, lambda: claim.claimed(place)):
        with pytest.raises(StorageError, match=r"claim\.json: says not who"):
            ask()
    assert place.read(CLAIM) == text


def stay_taken_over(place, noticed):  # noqa: F811
    """Take over, again where a renewal that had looked before has written over it, until it is noticed.

    Not more often: of an object that is put anew all the time nobody reads one whole version.
    """

    def look():
        if noticed():
            return True
        if json.loads(place.read(CLAIM))["mark"] != "other":
            take_over(place)
        return False

    wait_for(look)


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)

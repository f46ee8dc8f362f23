"""Whether a process is to leave: SIGTERM in its main thread, a node that Ray drains; and its warnings on the way."""

from __future__ import annotations

import logging
import os
import signal
import time
from types import SimpleNamespace

import pytest

from mwray.cluster import leave, warn


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """A process that nobody has asked yet."""
    monkeypatch.setattr(leave, "_why", [])
    monkeypatch.setattr(leave, "_watcher", None)
    monkeypatch.setattr(leave, "POLL_SECONDS", 0.02)
    before = signal.getsignal(signal.SIGTERM)
    yield
    leave._why.append("the test is over")  # which ends the watcher
    signal.signal(signal.SIGTERM, before)


def ray_with(monkeypatch, draining):
    """A Ray whose draining nodes are those in `draining`; this process is on node "here"."""
    state = SimpleNamespace(get_draining_nodes=lambda: draining)
    monkeypatch.setattr(leave.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(leave.ray._private.state, "state", state)
    context = SimpleNamespace(get_node_id=lambda: "here")
    monkeypatch.setattr(leave.ray, "get_runtime_context", lambda: context)


def asked_within(seconds):
    deadline = time.monotonic() + seconds
    while leave.asked() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return leave.asked()


def test_sigterm_is_a_request_to_leave_and_not_the_end(monkeypatch):
    ray_with(monkeypatch, {})
    leave.listen()
    assert leave.asked() is None
    os.kill(os.getpid(), signal.SIGTERM)
    assert asked_within(60) == "SIGTERM"


def test_a_node_that_is_drained_is_left_and_another_one_s_end_is_nothing(monkeypatch):
    draining = {"elsewhere": 0}
    ray_with(monkeypatch, draining)
    assert asked_within(0.3) is None
    draining["here"] = 1_800_000_000_000
    assert asked_within(60) == "its machine is about to be taken away"


def test_a_ray_that_cannot_be_asked_is_no_reason_to_leave(monkeypatch):
    ray_with(monkeypatch, None)
    assert leave.draining() is None


def test_warnings_are_kept_for_the_next_report_and_in_a_file(tmp_path):
    logger = logging.getLogger("mwray")
    with warn.kept(tmp_path) as warnings:
        logger.warning("checkpoint-%06d: damaged", 7)
        logger.info("nothing to worry about")
        assert warnings.take() == ["checkpoint-000007: damaged"]
        assert warnings.take() == []
        for number in range(2 * warn.MOST):
            logger.warning("%d", number)
        assert warnings.take() == [str(number) for number in range(warn.MOST, 2 * warn.MOST)]
    logger.warning("after the end")
    lines = (tmp_path / warn.FILE).read_text().splitlines()
    assert len(lines) == 2 * warn.MOST + 1 and lines[0].endswith("checkpoint-000007: damaged")

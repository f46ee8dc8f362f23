"""How machines are divided among trials, and who may drive a folder. No Ray is started here."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys

import pytest
import ray
from ray._private.node import Node

from mwray import lock
from mwray.cluster.connect import Allotment, _passed_on, _start, allot, limit
from mwray.config import ConfigError
from mwray.lock import LockedError, locked

LAPTOP = [{"CPU": 4.0}]
GPUS = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 0.0}]


def test_a_worker_is_never_spread_over_two_machines():
    assert Allotment(1, 3, 0).fits([{"CPU": 4}, {"CPU": 4}]) == 2
    assert Allotment(2, 3, 0).fits([{"CPU": 4}, {"CPU": 4}]) == 1
    assert Allotment(2, 3, 0).fits([{"CPU": 4}, {"CPU": 2}]) == 0


def test_fractions_of_a_gpu_add_up_to_one():
    assert Allotment(1, 1, 0.1).fits([{"CPU": 64, "GPU": 1}]) == 10
    assert Allotment(1, 1, 0.4).fits([{"CPU": 64, "GPU": 2}]) == 5
    assert Allotment(1, 1, 0.3).fits([{"CPU": 2, "GPU": 1}]) == 2


@pytest.mark.parametrize(
    ("nodes", "workers", "concurrency", "gpus", "expected"),
    [
        (LAPTOP, 1, None, None, Allotment(1, 1, 0)),  # one core each: more trainings an hour than threads give
        (LAPTOP, 1, 2, None, Allotment(1, 2, 0)),  # fewer trials than cores: each gets its share
        (LAPTOP, 1, 3, None, Allotment(1, 1, 0)),
        (LAPTOP, 2, None, None, Allotment(2, 1, 0)),
        (LAPTOP, 2, 1, None, Allotment(2, 2, 0)),
        (GPUS, 1, None, None, Allotment(1, 8, 1)),
        (GPUS, 1, None, 0.5, Allotment(1, 4, 0.5)),
        (GPUS, 2, None, None, Allotment(2, 8, 1)),  # one pair at a time: one worker on each machine
        (GPUS, 1, None, 0, Allotment(1, 1, 0)),
    ],
)
def test_machines_are_divided(nodes, workers, concurrency, gpus, expected):
    assert allot(nodes, workers, concurrency, gpus) == expected


def test_impossible_allotments_are_refused():
    with pytest.raises(ConfigError, match="workers=0"):
        allot(LAPTOP, 0, None, None)
    with pytest.raises(ConfigError, match="whole GPUs"):
        allot(GPUS, 1, None, 1.5)


def test_no_more_trials_than_fit_and_at_least_one_on_a_cluster_that_may_grow():
    one = Allotment(1, 1, 0)
    assert limit(one, LAPTOP, None, joined=False) == 4
    assert limit(one, LAPTOP, 9, joined=False) == 4
    assert limit(one, LAPTOP, 3, joined=False) == 3
    assert limit(Allotment(2, 1, 0), [{"CPU": 0}], None, joined=True) == 1
    assert limit(Allotment(2, 1, 0), LAPTOP, 9, joined=True) == 2
    assert limit(one, [{"CPU": 0}], 5, joined=True) == 5  # queued: that is what an autoscaler looks at
    with pytest.raises(ConfigError, match=r"does not fit: this machine has 4 CPUs, 0 GPUs"):
        limit(Allotment(1, 1, 1), LAPTOP, None, joined=False)


PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
HOLD = """
import sys, time; from pathlib import Path; from mwray.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True); time.sleep(60)
"""


def test_a_second_driver_is_refused_with_host_and_pid_until_the_first_is_dead(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(LockedError, match=f"process {first.pid} on {socket.gethostname()}"), locked(tmp_path):
            pass
        first.kill()
        first.wait()
    with locked(tmp_path):  # the kernel let go of it
        pass


def without_kernel_locks(monkeypatch):
    """Behave like a file system that knows no locks."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)


@pytest.mark.parametrize(
    ("host", "pid", "free"),
    [(None, 2**22 + 1, True), (None, os.getpid(), False), ("far", 1, False)],
    ids=["dead", "alive", "elsewhere"],
)
def test_without_kernel_locks_a_dead_driver_of_this_host_is_followed(tmp_path, monkeypatch, host, pid, free):
    without_kernel_locks(monkeypatch)
    holder = {"host": host or socket.gethostname(), "pid": pid, "since": "today"}
    (tmp_path / "lock").write_text(json.dumps(holder))
    if free:
        with locked(tmp_path):
            assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
        return
    with pytest.raises(LockedError, match=f"process {pid} on .* remove"), locked(tmp_path):
        pass
    assert json.loads((tmp_path / "lock").read_text()) == holder  # a refusal leaves it to its owner


def test_a_process_is_told_from_another_with_its_id_and_from_one_that_is_over():
    with subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], **PIPES) as other:
        other.stdout.readline()
        mine = lock.myself()
        assert mine["host"] == socket.gethostname() and mine["pid"] == os.getpid() and lock.lives(mine)
        theirs = {"pid": other.pid, "started": lock._started(other.pid)}
        assert lock.lives(theirs) and lock.lives({"pid": other.pid})
        assert not lock.lives({**theirs, "started": mine["started"]})  # the id was given to another one
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # dead, and its parent has not asked
        assert not lock.lives(theirs)
    assert not lock.lives(theirs)


def test_trials_get_the_switches_that_the_driver_was_given(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    given = {"MWRAY_EXECUTION": "graph=off", "MWRAY_RECOMPUTE": "all", "MWRAY_DATA": "data:/d", "MWRAY_DOWNLOAD": ""}
    passed = _passed_on(given)
    assert {name: passed.get(name) for name in given} == {
        **given,
        "MWRAY_DATA": f"{tmp_path / 'data'}:/d",
        "MWRAY_DOWNLOAD": None,
    }


def test_processes_of_a_ray_that_came_up_too_slowly_are_ended(monkeypatch):
    ended = []

    class Slow(Node):
        def __init__(self):
            raise Exception("The current node timed out during startup")

        def kill_all_processes(self, **how):
            ended.append(how)

    monkeypatch.setattr(ray, "init", lambda **given: Slow())
    with pytest.raises(Exception, match="timed out"):
        _start({}, 2)
    assert len(ended) == 2

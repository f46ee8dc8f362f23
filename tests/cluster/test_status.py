"""What a search shows of itself through its files: heartbeat, log, status; and the end of a driver without a head."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

import pytest

from mwray.cluster import heartbeat, status, watch
from mwray.cluster.heartbeat import Heartbeat, Spend
from mwray.cluster.log import LogFile, Logged
from mwray.cluster.search import _write_space
from mwray.cluster.study import Study
from mwray.cluster.watch import watched
from mwray.config import ConfigError
from mwray.lock import locked
from tests.cluster.helpers import finish_run, space
from tests.cluster.test_display import NAMES, row  # noqa: F401
from tests.cluster.test_session import Notes


@pytest.fixture
def study(tmp_path):
    """Four of six trials begun: the first finished, the second failed, the third cut short, the fourth just given."""
    study = Study(space(), tmp_path)
    _write_space(tmp_path, study.space, study.target)
    first, second, third, _ = (study.next() for _ in range(4))
    finish_run(first.folder, first.experiment, 0.91)
    study.finish(first.number, 0.91)
    study.fail(second.number, "NonFiniteLoss: epoch 3")
    finish_run(third.folder, third.experiment, 0.5, epochs=1)
    return study


def beat(folder, age=2.0, host="far", **told):
    data = {"host": host, "pid": 7, "began": 0, "beat": time.time() - age, "seconds": 5, "state": "running", **told}
    (folder / heartbeat.FILE).write_text(json.dumps(data))


def held(folder, host="far", pid=7, **more):
    (folder / "lock").write_text(json.dumps({"host": host, "pid": pid, "since": "2026-01-02 03:04:05 +0000", **more}))


def test_a_running_search_is_shown_from_another_machine(study, tmp_path):
    held(tmp_path)
    beat(tmp_path, left=125.0, nodes=3, spend={"cpu_seconds": 7200.0, "gpu_seconds": 1800.0})
    found = status.read(tmp_path)
    assert found.alive
    assert [(line.number, line.state) for line in found.lines] == [
        (0, "finished"),
        (1, "failed"),
        (2, "running"),
        (3, "waiting"),
    ]
    text = "\n".join(status.words(found))
    for part in (
        "driven by process 7 on far, since 2026-01-02 03:04:05 +0000, on 3 machines; last heartbeat 0:02 ago",
        "1 running, 1 finished, 1 failed, 1 waiting, 2 to come; about 2:05 left",
        "best: trial 0, validation 91.0 %, test, last epoch 81.0 %",
        "spent: 0.50 GPU-hours and 2.00 core-hours",
        "trial 1 failed: NonFiniteLoss: epoch 3",
    ):
        assert part in text


def test_what_runs_is_what_the_driver_says_where_it_says_so(study, tmp_path):
    held(tmp_path)
    given = next(tmp_path.glob("trials/0002-*")).name
    beat(tmp_path, running=["0003-abc"])
    states = {line.number: line.state for line in status.read(tmp_path).lines}
    assert states == {0: "finished", 1: "failed", 2: "waiting", 3: "running"}
    beat(tmp_path, running=["0003-abc", given])
    assert status.read(tmp_path).lines[2].state == "running"
    beat(tmp_path, age=600.0, running=["0003-abc", given])
    assert {line.state for line in status.read(tmp_path).lines[2:]} == {"waiting"}


def test_a_driver_without_a_heartbeat_counts_as_dead_and_one_that_left_as_gone(study, tmp_path):
    held(tmp_path)
    beat(tmp_path, age=600.0, left=125.0)
    found = status.read(tmp_path)
    assert not found.alive and found.lines[2].state == "waiting"
    text = "\n".join(status.words(found))
    assert "was driven by process 7 on far" in text and "10:00 ago: it was killed" in text and "left" not in text
    (tmp_path / "lock").write_text("")
    beat(tmp_path, state="interrupted")
    assert "nobody drives it; it was left: interrupted" in status.words(status.read(tmp_path))[1]


def test_on_the_drivers_own_machine_the_process_is_what_counts_not_the_clock(study, tmp_path):
    held(tmp_path, socket.gethostname(), os.getpid())
    beat(tmp_path, age=-5000.0)  # a clock that jumped
    assert status.read(tmp_path).alive
    held(tmp_path, socket.gethostname(), 2**22 + 1)
    assert not status.read(tmp_path).alive
    held(
        tmp_path, socket.gethostname(), os.getpid(), started="another boot, tick 1"
    )  # its id was given to this process
    assert not status.read(tmp_path).alive


def test_status_needs_no_ray_takes_no_lock_and_changes_nothing(study, tmp_path):
    (tmp_path / "study.journal").open("ab").write(b'{"op_code":4,"half')  # a driver is writing this moment
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    code = (
        "import sys; from mwray.cli import main; code = main(['tune', '--status', sys.argv[1]])\n"
        "print(sorted({'ray', 'torch'} & set(sys.modules))); sys.exit(code)"
    )
    with locked(tmp_path):
        before |= {path: path.stat().st_mtime_ns for path in [tmp_path, tmp_path / "lock"]}
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
        after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert f"driven by process {os.getpid()} on {socket.gethostname()}" in done.stdout
    assert re.search(r"0 +finished .* 2/2 +91.0 %", done.stdout)
    assert {path: after[path] for path in before if path.is_file()} == {p: t for p, t in before.items() if p.is_file()}


def test_a_search_is_shown_at_every_moment_while_it_writes(tmp_path):
    searched = Study(space(trials=20, sampler="random"), tmp_path)
    _write_space(tmp_path, searched.space, searched.target)

    def drive():
        while (proposal := searched.next()) is not None:
            finish_run(proposal.folder, proposal.experiment, 0.9)
            searched.finish(proposal.number, 0.9)

    driver, finished = threading.Thread(target=drive), [0]
    driver.start()
    while driver.is_alive():
        seen = status.read(tmp_path)
        finished.append(sum(line.state == "finished" for line in seen.lines))
        assert all(line.epoch <= 2 and (line.validation is None or line.validation == 0.9) for line in seen.lines)
    assert finished == sorted(finished)
    assert sum(line.state == "finished" for line in status.read(tmp_path).lines) == 20


def test_a_folder_without_a_search_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=f"--status {tmp_path}: no search is there"):
        status.read(tmp_path)


def test_the_heartbeat_is_written_until_it_is_closed_and_says_how_it_ended(tmp_path):
    told = {"left": 3.0}
    sign = Heartbeat(tmp_path, lambda: told, seconds=0.02)
    first = heartbeat.read(tmp_path)
    assert (first["pid"], first["host"], first["left"]) == (os.getpid(), socket.gethostname(), 3.0)
    told["left"] = 2.0
    deadline = time.monotonic() + 60
    while heartbeat.read(tmp_path)["left"] != 2.0 and time.monotonic() < deadline:
        time.sleep(0.01)
    sign.close("finished")
    last = heartbeat.read(tmp_path)
    assert (last["left"], last["state"]) == (2.0, "finished") and last["beat"] > first["beat"]
    assert [path.name for path in tmp_path.iterdir()] == [heartbeat.FILE]


def test_a_beat_that_takes_long_does_not_write_over_the_last_one(tmp_path):
    begun, go_on = threading.Event(), threading.Event()

    def told():
        if threading.current_thread().name == "mwray-heartbeat":
            begun.set()
            go_on.wait(60)
        return {}

    sign = Heartbeat(tmp_path, told, seconds=0.01)
    assert begun.wait(60)
    closing = threading.Thread(target=sign.close, args=("finished",))
    closing.start()
    closing.join(0.3)
    go_on.set()
    closing.join(60)
    sign._thread.join(60)
    assert heartbeat.read(tmp_path)["state"] == "finished"


def test_the_heartbeat_goes_on_with_what_was_told_last_where_asking_fails(tmp_path, caplog):
    answers = [{"left": 3.0}, RuntimeError("dictionary changed size"), RuntimeError("again"), {"left": 1.0}]

    def told():
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    sign = Heartbeat(tmp_path, told, seconds=3600)
    for expected in (3.0, 3.0, 1.0):
        sign.beat("running")
        assert heartbeat.read(tmp_path)["left"] == expected
    assert len(caplog.records) == 1 and "dictionary changed size" in caplog.text
    sign._stop.set()


def test_spend_counts_what_was_held_by_all_drivers_and_lost_starts_too(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    spend = Spend(2, 0.5, {"cpu_seconds": 100.0, "gpu_seconds": 7.0})
    spend.begin("a")
    now[0] = 10
    spend.begin("b")
    spend.end("a")  # killed
    spend.begin("a")
    now[0] = 20
    spend.end("b")
    spend.end("never begun")
    assert spend.total() == {"cpu_seconds": 100.0 + 2 * 30, "gpu_seconds": 7.0 + 0.5 * 30}


def test_the_log_has_the_lines_with_their_time_beside_the_screen(tmp_path, row):  # noqa: F811
    screen = Notes()
    both = Logged(screen, LogFile(tmp_path))
    both.begin([], 3, NAMES)
    both.changed(row)
    both.note("storage is away")
    both.close()
    lines = (tmp_path / "search.log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    assert [line[20:] for line in lines] == ["3 trainings", "storage is away"]
    assert screen.seen == [("0", "waiting")] and screen.notes == ["storage is away"]
    assert both.board.target == 3
    (tmp_path / "search.log").unlink()
    tmp_path.rename(tmp_path.with_name("away"))
    both.note("nobody can write this")  # and nothing breaks for it
    tmp_path.with_name("away").rename(tmp_path)


LOSES = """
import socket, sys, time
from mwray.cluster.watch import watched
server = socket.create_server(("127.0.0.1", 0))
with watched({"the head of the Ray cluster": f"127.0.0.1:{server.getsockname()[1]}"}) as head:
    head.tell(lambda why: print("farewell:", why, flush=True))
    time.sleep(3)
    print("still here", flush=True)
    server.close()
    time.sleep(60)
"""


def test_a_driver_whose_head_is_lost_says_farewell_and_ends(monkeypatch):
    monkeypatch.setenv(watch.PATIENCE, "2")
    done = subprocess.run([sys.executable, "-c", LOSES], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == watch.CODE
    assert done.stdout.splitlines()[0] == "still here" and "farewell: the head of the Ray cluster" in done.stdout
    assert "has not answered for 2 s and counts as lost" in done.stderr and "same command goes on" in done.stderr


def test_what_answers_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setenv(watch.PATIENCE, "0")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as raylet:
        raylet.bind(str(tmp_path / "raylet"))
        raylet.listen()
        with watched({"head": f"127.0.0.1:{server.getsockname()[1]}", "raylet": str(tmp_path / "raylet")}):
            for door in (server, raylet) * 2:  # at the second look this process would be gone
                door.settimeout(60)
                door.accept()[0].close()
    assert not watch.answers(str(tmp_path / "raylet"), 1)

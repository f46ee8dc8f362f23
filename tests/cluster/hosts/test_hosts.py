"""The on-premises cluster file, proven: `ray up`, searches over three hosts, a stranger turned away, `ray down`.

`make test-cluster ARGS="-k test_hosts"`; six to fifteen minutes on two cores. Each test can be run on its own, after a
`ray up` of its own: the search of sixty trials with `make test-cluster ARGS="-k sixty"`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mwray.records import Run
from tests.cluster.hosts.conftest import HOSTS, JOINED, Cluster
from tests.cluster.hosts.machines import Machine, plug_in, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

TRIALS, EPOCHS = 6, 25
"""Long enough that the last host has its first process up before the first host has done everything."""
SPACE = f"""
recipe: digits
set: {{epochs: {EPOCHS}, data.num_meta: 20}}
search:
  optimizer.lr: {{float: [0.05, 0.2], log: true}}
trials: {TRIALS}
"""
SIXTY = """
recipe: digits
set: {epochs: 8, optimizer.milestones: [6]}
search:
  optimizer.lr: {float: [0.02, 0.2], log: true}
  method.weight_net.lr: {float: [1e-3, 0.1], log: true}
  data.num_meta: {choice: [20, 50, 100, 200]}
trials: 60
"""
TUNE = "cd ~/mwray && python launch/tune.py --address auto"
GONE = 180.0
"""Seconds after `ray down` until nothing runs, at most: a raylet gives a lost head one minute."""
CLIENT = """
import ray, sys
ray.init("ray://HOST:10001", logging_level=50)
print("ran on", ray.get(ray.remote(num_cpus=0)(lambda: __import__("socket").gethostname()).remote()))
"""


def test_the_check_finds_nothing_wrong_with_the_file(cluster: Cluster):
    done = cluster.machines["laptop"].run(f"python launch/cluster_check.py {cluster.file}")
    assert "no mistakes" in done.stdout


def test_every_host_trains_and_everything_arrives_in_the_shared_storage(cluster: Cluster):
    (cluster.shared / "space.yaml").write_text(SPACE)
    output = cluster.ray("exec", f"'{TUNE} --space /mnt/mwray/space.yaml --folder /mnt/mwray/search'", timeout=600)
    rows = json.loads((cluster.shared / "search/leaderboard.json").read_text())
    trials = [cluster.shared / "search" / row["folder"] for row in rows]
    assert [row["state"] for row in rows] == ["finished"] * (TRIALS + 1), output  # BaseModel is the one more
    assert {starts(trial)[0]["host"] for trial in trials} == set(HOSTS)
    for trial in trials:
        assert [record["epoch"] for record in Run(trial).records()] == list(range(1, EPOCHS + 1))
        assert list(trial.glob("**/events.out.tfevents.*")) and list(trial.glob("checkpoint-*.pt"))
    assert "best" in output.lower()


def test_a_trial_of_two_workers_spans_two_hosts(cluster: Cluster):
    (cluster.shared / "two.yaml").write_text(SPACE)
    options = "--trials 1 --workers-per-trial 2 --set epochs=3"
    command = f"'{TUNE} --space /mnt/mwray/two.yaml --folder /mnt/mwray/two {options}'"
    seen: set[str] = set()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(cluster.ray, "exec", command, timeout=600)
        while not running.done():
            seen |= {name for name in HOSTS if any("RayTrainWorker" in p for p in cluster.machines[name].processes())}
            time.sleep(0.5)
        output = running.result()
    rows = json.loads((cluster.shared / "two/leaderboard.json").read_text())
    assert {row["state"] for row in rows} == {"finished"}, output
    assert len(seen) >= 2, f"workers were seen on {seen or 'no host'}\n{output}"


def test_a_search_of_sixty_trials_outlives_the_death_of_a_host(cluster: Cluster, capsys: pytest.CaptureFixture[str]):
    (cluster.shared / "sixty.yaml").write_text(SIXTY)
    folder, lost = cluster.shared / "sixty", cluster.machines["worker2"]
    command = f"'{TUNE} --space /mnt/mwray/sixty.yaml --folder /mnt/mwray/sixty'"
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(cluster.ray, "exec", command, timeout=800)
        # Late enough that its trials are under way, early enough that most of the search is still to come.
        wait_for(
            lambda: running.done() or len(trained(folder)) >= 20 and half_way(folder, lost), 600, "the first third"
        )
        victims = half_way(folder, lost)
        lost.stop()
        killed = time.monotonic() - began
        output = running.result()
    took = time.monotonic() - began
    back = restarted(cluster, lost)

    rows = json.loads((folder / "leaderboard.json").read_text())
    trials = [folder / row["folder"] for row in rows]
    assert victims, "no trial was under way on the host when it died"
    assert [row["state"] for row in rows] == ["finished"] * 61, output  # BaseModel is the one more
    assert sorted(int(row["trial"]) for row in rows[:60]) == list(range(60))
    for trial in trials:  # nothing lost, nothing doubled
        assert [record["epoch"] for record in Run(trial).records()] == list(range(1, 9))
    for trial in victims:
        assert starts(trial)[-1]["host"] in ("head", "worker1")
    ended = Counter(starts(trial)[-1]["host"] for trial in trials)
    again = [trial for trial in trials if len(starts(trial)) > 1]
    with capsys.disabled():
        print(
            f"\n60 trials and BaseModel over three hosts of one core: {took:.0f} s; worker2 killed after {killed:.0f} s"
        )
        print(f"  finished by host: {dict(sorted(ended.items()))}; started twice: {len(again)}; lost: 0; doubled: 0")
        print(f"  epochs of the cut-short trials that were kept: {[starts(trial)[-1]['epoch'] for trial in victims]}")
        print(f"  the host, switched on again, was back in the cluster after {back:.0f} s")


def test_a_submitted_script_searches_and_tells_how_a_search_stands(cluster: Cluster):
    """`ray submit` copies the one file to the head, where it finds the rest by itself."""
    (cluster.shared / "one.yaml").write_text(SPACE)
    search = "--address auto --space /mnt/mwray/one.yaml --folder /mnt/mwray/one --trials 1 --set epochs=2"
    output = cluster.ray("submit", f"launch/tune.py -- {search}", timeout=600)
    rows = json.loads((cluster.shared / "one/leaderboard.json").read_text())
    assert {row["state"] for row in rows} == {"finished"}, output
    status = cluster.ray("submit", "launch/tune.py -- --status /mnt/mwray/one")
    assert "/mnt/mwray/one: /mnt/mwray/one.yaml" in status and "2 finished" in status, status


def test_a_spot_machine_s_notice_drains_its_node(cluster: Cluster):
    """Google Cloud's answer is one word, which any server of files can give."""
    worker = cluster.machines["worker1"]
    notice = worker.home / "metadata/computeMetadata/v1/instance/preempted"
    notice.parent.mkdir(parents=True)
    notice.write_text("FALSE")
    serve = "python -m http.server --bind 127.0.0.1 --directory ~/metadata 8080"
    worker.run(f"{{ setsid {serve} & echo $! >~/server; }} >/dev/null 2>&1")
    environment = {"RAY_AUTH_MODE": "token", "MWRAY_METADATA": "http://127.0.0.1:8080", "MWRAY_SPOT_PAUSE": "1"}
    as_user(worker, "sh ~/mwray/launch/clusters/spot.sh gcp", environment)
    log = "cat /tmp/ray/session_latest/logs/mwray_spot.log"
    wait_for(lambda: "watches" in worker.run(log, check=False).stdout, 60, "spot.sh to start")
    notice.write_text("TRUE")
    wait_for(lambda: "Ray has been told" in worker.run(log, check=False).stdout, 60, "the notice to be passed on")
    # Ray ends a drained node once nothing runs on it; the autoscaler, to which these machines are simply there, starts
    # Ray on it again.
    wait_for(lambda: "3 local.cluster.node" not in cluster.ray("exec", "'ray status'"), GONE, "the node to go")
    worker.run("kill $(cat ~/server)")
    wait_for(lambda: "3 local.cluster.node" in cluster.ray("exec", "'ray status'"), JOINED, "the node to come back")


def test_a_stranger_is_turned_away_and_a_friend_is_not(cluster: Cluster):
    stranger, laptop, head = (cluster.machines[name] for name in ("stranger", "laptop", "head"))
    token = (laptop.home / ".ray/auth_token").read_text()
    for name, environment in {
        "no token": {},
        "no authentication": {"RAY_AUTH_MODE": "disabled"},
        "another token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * len(token)},
    }.items():
        for machine, command in ((stranger, "ray status --address head:6379"), (head, client("127.0.0.1"))):
            done = as_user(machine, command, environment)
            assert done.returncode != 0 and "ran on" not in done.stdout, f"{name}: {command}\n{done.stdout}"
    friend = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    assert as_user(stranger, "ray status --address head:6379", friend).returncode == 0
    assert "ran on" in as_user(head, client("127.0.0.1"), friend).stdout


def test_the_port_of_clients_is_on_loopback_and_a_tunnel_leads_there(cluster: Cluster):
    stranger, laptop = cluster.machines["stranger"], cluster.machines["laptop"]
    assert stranger.run("exec 3<>/dev/tcp/head/6379", check=False).returncode == 0
    assert stranger.run("exec 3<>/dev/tcp/head/10001", check=False).returncode != 0
    tunnel = "ssh -i ~/.ssh/mwray -o StrictHostKeyChecking=no -f -L 10001:127.0.0.1:10001 head sleep 60"
    friend = {"RAY_AUTH_MODE": "token"}  # its token lies in its home
    assert "ran on" in as_user(laptop, f"{tunnel} && {client('127.0.0.1')}", friend).stdout


def test_the_dashboard_is_on_loopback_and_its_agent_wants_the_token(cluster: Cluster):
    stranger, head = cluster.machines["stranger"], cluster.machines["head"]
    assert stranger.run("exec 3<>/dev/tcp/head/22", check=False).returncode == 0
    assert stranger.run("exec 3<>/dev/tcp/head/8265", check=False).returncode != 0
    assert head.run("exec 3<>/dev/tcp/127.0.0.1/8265", check=False).returncode == 0
    ask = "curl -s -o /dev/null -w %{http_code} http://%s/api/job_agent/jobs/x/logs"
    assert stranger.run(ask.replace("%s", "head:52365")).stdout in ("401", "403")
    assert head.run(ask.replace("%s", "127.0.0.1:8265")).stdout in ("401", "403")


def test_nothing_is_left_after_ray_down(cluster: Cluster):
    assert all(cluster.machines[name].processes() for name in HOSTS), "Ray runs everywhere"
    cluster.ray("down", "--yes")
    busy = [*HOSTS, "laptop"]  # ssh's shared connection ends by itself after ten seconds
    wait_for(lambda: not any(cluster.machines[name].processes() for name in busy), GONE, "the last process to end")


# ---------------------------------------------------------------------------------------------------------------------


def starts(trial: Path) -> list[dict[str, Any]]:
    """Where and when a trial was started, each time."""
    path = trial / "environment.json"
    return json.loads(path.read_text()) if path.exists() else []


def trained(folder: Path) -> list[Path]:
    """Trials that are finished."""
    return [path.parent for path in folder.glob("trials/*/done")]


def half_way(folder: Path, machine: Machine) -> list[Path]:
    """Trials on that host which have an epoch behind them and one before them."""
    open_ = [trial for trial in folder.glob("trials/*") if not (trial / "done").exists()]
    here = [trial for trial in open_ if starts(trial) and starts(trial)[-1]["host"] == machine.name]
    return [trial for trial in here if 1 <= len(Run(trial).records()) <= 6]


def restarted(cluster: Cluster, machine: Machine) -> float:
    """Switch a host on again; returns the seconds until it is part of the cluster, without anybody's doing."""
    began = time.monotonic()
    machine.start(cluster.shared)
    plug_in(machine, cluster.machines["laptop"])
    wait_for(lambda: "3 local.cluster.node" in cluster.ray("exec", "'ray status'"), JOINED, "the host to come back")
    return time.monotonic() - began


def as_user(machine: Machine, command: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What comes of a command of somebody with these variables."""
    return replace(machine, environment=environment).run(command, check=False, timeout=180)


def client(host: str) -> str:
    """Runs a function on the cluster through the client port of `host`."""
    return f"timeout 120 {sys.prefix}/bin/python -c '{CLIENT.replace('HOST', host)}'"

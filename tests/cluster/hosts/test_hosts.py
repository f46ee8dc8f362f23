"""The on-premises cluster file, proven: `ray up`, a search over three hosts, a stranger turned away, `ray down`.

`make test-cluster`; six to fifteen minutes on two cores. The tests build on one another, in their order here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from mwray.records import Run
from tests.cluster.hosts.conftest import HOSTS, Cluster
from tests.cluster.hosts.machines import Machine, wait_for

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
TUNE = "cd ~/mwray && python launch/tune.py --address auto --space /mnt/mwray/space.yaml"
GONE = 180.0
"""Seconds after `ray down` until nothing runs, at most: a raylet gives a lost head one minute."""
CLIENT = """
import ray, sys
ray.init("ray://head:10001", logging_level=50)
print("ran on", ray.get(ray.remote(num_cpus=0)(lambda: __import__("socket").gethostname()).remote()))
"""


def test_the_check_finds_nothing_wrong_with_the_file(cluster: Cluster):
    done = cluster.machines["laptop"].run(f"python launch/cluster_check.py {cluster.file}")
    assert "no mistakes" in done.stdout


def test_every_host_trains_and_everything_arrives_in_the_shared_storage(cluster: Cluster):
    (cluster.shared / "space.yaml").write_text(SPACE)
    output = cluster.ray("exec", f"'{TUNE} --folder /mnt/mwray/search'", timeout=600)
    rows = json.loads((cluster.shared / "search/leaderboard.json").read_text())
    trials = [cluster.shared / "search" / row["folder"] for row in rows]
    assert [row["state"] for row in rows] == ["finished"] * (TRIALS + 1), output  # BaseModel is the one more
    assert {json.loads((trial / "environment.json").read_text())[0]["host"] for trial in trials} == set(HOSTS)
    for trial in trials:
        assert [record["epoch"] for record in Run(trial).records()] == list(range(1, EPOCHS + 1))
        assert list(trial.glob("**/events.out.tfevents.*")) and list(trial.glob("checkpoint-*.pt"))
    assert "best" in output.lower()


def test_a_trial_of_two_workers_spans_two_hosts(cluster: Cluster):
    command = f"'{TUNE} --folder /mnt/mwray/two --trials 1 --workers-per-trial 2 --set epochs=3'"
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


def test_a_stranger_is_turned_away_and_a_friend_is_not(cluster: Cluster):
    stranger, laptop = cluster.machines["stranger"], cluster.machines["laptop"]
    token = (laptop.home / ".ray/auth_token").read_text()
    for name, environment in {
        "no token": {},
        "no authentication": {"RAY_AUTH_MODE": "disabled"},
        "another token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * len(token)},
    }.items():
        for command in (client(), "ray status --address head:6379"):
            done = as_user(stranger, command, environment)
            assert done.returncode != 0 and "ran on" not in done.stdout, f"{name}: {command}\n{done.stdout}"
    friend = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    assert "ran on" in as_user(stranger, client(), friend).stdout
    assert as_user(stranger, "ray status --address head:6379", friend).returncode == 0


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


def as_user(machine: Machine, command: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What comes of a command of somebody with these variables."""
    return replace(machine, environment=environment).run(command, check=False, timeout=180)


def client() -> str:
    """Runs a function on the cluster through Ray's client port."""
    return f"timeout 120 {sys.prefix}/bin/python -c '{CLIENT}'"

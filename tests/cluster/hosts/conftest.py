"""A cluster of three hosts, started by `ray up` from a laptop with the on-premises file, as a user starts it."""

from __future__ import annotations

import secrets
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.hosts.account import ROOT, Account, opened
from tests.cluster.hosts.cloud import SETTINGS, stamp
from tests.cluster.hosts.machines import Machine, machines, missing, shared, wait_for

HOSTS = ("head", "worker1", "worker2")
JOINED = 400.0
"""Seconds until all hosts are in the cluster, at most; 20 on an idle machine."""
SMALL = "--num-cpus=1 --object-store-memory=100000000"
"""One core each, so that a trial of two workers needs two hosts; and three hosts share the memory of one machine."""


@dataclass
class Cluster:
    """What the tests work on."""

    machines: dict[str, Machine]
    file: Path
    """The cluster file, at the laptop."""

    @property
    def shared(self) -> Path:
        """/mnt/mwray of every machine, as this process sees it."""
        return shared(self.machines["laptop"])

    def ray(self, verb: str, arguments: str = "", *, timeout: float = 300, check: bool = True) -> str:
        """`ray VERB FILE ARGUMENTS` at the laptop; its output."""
        command = f"ray {verb} {self.file} {arguments}"
        return self.machines["laptop"].run(command, timeout=timeout, check=check).stdout


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster, up; a stranger's machine stands on the same network."""
    if reason := missing():
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch, machines(["laptop", *HOSTS, "stranger"]) as made:
        patch.chdir(ROOT)
        for name in ("laptop", *HOSTS):
            _installed(made[name])
        _open_with_key(made["laptop"])
        made["laptop"].environment["PYTHONPATH"] = str(ROOT)
        cluster = Cluster(made, _fill_in(made))
        print(cluster.ray("up", "--yes --no-config-cache"))
        try:
            wait_for(lambda: "3 local.cluster.node" in cluster.ray("exec", "'ray status'"), JOINED, "three hosts")
        except TimeoutError:
            print(cluster.ray("exec", "'ray status; tail -n 200 /tmp/ray/session_latest/logs/monitor.*'", check=False))
            raise
        yield cluster


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    """An account at a stand-in of AWS, with a cluster up."""
    with opened() as account:
        print(account.run("ray up --yes cluster.yaml"))
        yield account


def _installed(machine: Machine) -> None:
    """As install.sh leaves a host, without its gigabytes: the environment of these tests stands for a new one."""
    (machine.home / ".bashrc").write_text(SETTINGS)
    (machine.home / "venv").symlink_to(sys.prefix)
    (machine.home / ".mwray-installed").write_text(stamp(ROOT, f"{machine.home}/venv"))


def _open_with_key(laptop: Machine) -> None:
    """Ssh key and token, where the cluster file names them."""
    shutil.copy(laptop.folder.parent / "user", laptop.home / ".ssh/mwray")
    (laptop.home / ".ssh/mwray").chmod(0o600)
    token = laptop.home / ".ray/auth_token"
    token.parent.mkdir()
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)


def _fill_in(made: dict[str, Machine]) -> Path:
    """launch/clusters/onprem.yaml for these hosts."""
    text = (ROOT / "launch/clusters/onprem.yaml").read_text()
    for old, new in {
        "FILL_IN_HEAD_IP": made["head"].address,
        "FILL_IN_WORKER_IP_1": made["worker1"].address,
        "FILL_IN_WORKER_IP_2": made["worker2"].address,
        "FILL_IN_USER": "root",
        "ray start --head": f"ray start --head {SMALL}",
        "join.sh $RAY_HEAD_IP": f"join.sh $RAY_HEAD_IP {SMALL}",
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    file = made["laptop"].folder / "onprem.yaml"
    file.write_text(text)
    return file

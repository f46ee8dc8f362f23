"""An account at AWS that is none, and a laptop with this checkout, made ready by the commands of docs/clusters.md."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.hosts.aws import Aws, forget, strict
from tests.cluster.hosts.cloud import NETWORK, PUBLIC, Cloud
from tests.cluster.hosts.machines import SEARCHED, Machine, ip, machines, missing, shared

ROOT = Path(__file__).parents[3]
COPIED = ("mwray", "launch", "search_spaces", "pyproject.toml", "constraints.txt", "README.md", "cluster.yaml")
"""What a laptop needs of the checkout."""
DIFFERENCES = {"idle_timeout_minutes: 10\n": "idle_timeout_minutes: 0.5\n"}
"""The file's only ones, beside the FILL_IN_ values: ten minutes are long to wait for in a test."""
ENVIRONMENT = "python3.11 -m venv .venv && . .venv/bin/activate && pip install -c constraints.txt -e . boto3==1.44.8\n"
"""The one line of the document that is not run: the environment of these tests stands for it."""


@dataclass
class Account:
    """What the tests work on."""

    aws: Aws
    cloud: Cloud
    laptop: Machine

    @property
    def shared(self) -> Path:
        """/mnt/mwray of every instance that has mounted it, as this process sees it."""
        return shared(self.laptop)

    def run(self, command: str, *, timeout: float = 240, check: bool = True) -> str:
        """Run it at the top of the laptop's checkout; its output."""
        output = self.laptop.run(f"cd ~/mwray && {command}", timeout=timeout, check=check).stdout
        assert not self.cloud.failures, self.cloud.failures
        return output

    def exec(self, command: str, *, check: bool = True) -> str:
        """Run it on the head; its output."""
        return self.run(f"ray exec cluster.yaml '{command}'", check=check)

    def workers(self, *states: str) -> list[str]:
        """Ids of the instances that are no head, in any of these states, in the order of their start."""
        return [instance.id for instance in self.aws.instances(*states) if instance.lifecycle == "spot"]


@contextmanager
def opened() -> Iterator[Account]:
    """The account as the document's commands leave it, with the laptop's cluster.yaml filled in; no cluster yet."""
    if reason := missing():
        pytest.skip(reason)
    if shutil.which("aws", path=SEARCHED) is None:
        pytest.skip("needs the aws command, as its users do: pip install awscli")
    with pytest.MonkeyPatch.context() as patch, machines(["laptop", "aws"]) as made:
        patch.chdir(ROOT)
        strict(patch)
        aws = Aws(made["aws"].address)
        account = Account(aws, Cloud(aws, made["laptop"], ROOT, ["boto3==1.44.8"]), made["laptop"])
        ip(made["aws"], f"route add {NETWORK} dev eth0")
        ip(made["laptop"], f"route add {PUBLIC} dev switch")
        end = aws.serve(made["aws"])
        account.cloud.start()
        try:
            _laptop(account)
            yield account
        finally:
            account.cloud.stop()
            end()
            forget()


def documented(number: int) -> str:
    """The document's commands for AWS: 0 makes an account ready, 1 searches, 2 removes everything, 3 makes a role."""
    section = (ROOT / "docs/clusters.md").read_text().partition("\n## AWS")[2].partition("\n## ")[0]
    return re.findall(r"```bash\n(.*?)```", section, re.S)[number]


def as_documented(account: Account, commands: str) -> str:
    """Run them at the laptop, with the variables of the commands before; nothing here has to be slept for."""
    before = f"curl() {{ echo {account.laptop.address}; }}\nsleep() {{ :; }}\n[ ! -e ~/shell ] || . ~/shell\n"
    after = "declare -p vpc group efs AWS_DEFAULT_REGION >~/shell\n"
    (account.laptop.home / "commands").write_text(f"set -euo pipefail\n{before}{commands}{after}")
    return account.run("bash ~/commands")


def _laptop(account: Account) -> None:
    home = account.laptop.home
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (home / "mwray").mkdir(exist_ok=True)
        copy(ROOT / name, home / "mwray" / name)
    for folder in (".aws", "tmp"):
        (home / folder).mkdir()
    account.laptop.environment.update(PYTHONPATH=f"{home}/mwray", TMPDIR=f"{home}/tmp")
    key = "".join(f"{name} = {value}\n" for name, value in account.aws.administrator().items())
    (home / ".aws/credentials").write_text(f"[default]\n{key}")
    (home / ".aws/config").write_text(f"[default]\nendpoint_url = {account.aws.url}\n")
    commands = documented(0)
    assert ENVIRONMENT in commands
    assert "no mistakes" in as_documented(account, commands.replace(ENVIRONMENT, ""))
    file = home / "mwray/cluster.yaml"
    assert "FILL_IN_" not in "".join(line for line in file.open() if not line.startswith("#"))
    for old, new in DIFFERENCES.items():
        assert old in file.read_text(), old
        file.write_text(file.read_text().replace(old, new))

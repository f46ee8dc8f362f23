"""install.sh makes a host ready once, and does not call one ready that is not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cluster.check.shipped import ROOT

pytestmark = pytest.mark.usefixtures("laptop")


def install(home: Path, code: Path, *arguments: str, uv: str) -> subprocess.CompletedProcess[str]:
    """Run install.sh of the checkout `code` with a `uv` of our own; every call of it is noted in calls."""
    tools = home / "tools"
    tools.mkdir(parents=True, exist_ok=True)
    for tool, body in {
        "uv": uv,
        "python3.11": 'mkdir -p "${@: -1}/bin"; ln -s "$(which uv)" "${@: -1}/bin/pip"',
    }.items():
        (tools / tool).write_text(f'#!/bin/bash\necho "$(basename "$0") $@" >> {home}/calls\n{body}\n')
        (tools / tool).chmod(0o755)
    return subprocess.run(
        ["bash", code / "launch/clusters/install.sh", *arguments],
        env={"HOME": str(home), "PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def code(tmp_path, laptop):
    """A checkout's files, as they arrive on a host."""
    for file in ("constraints.txt", "pyproject.toml", "launch/clusters/install.sh"):
        (tmp_path / "code" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "code" / file).write_bytes((ROOT / file).read_bytes())
    (laptop / ".ray/auth_token").chmod(0o644)
    return tmp_path / "code"


def test_a_host_is_installed_once_and_again_when_versions_change(laptop, code):
    assert install(laptop, code, "boto3==1.44.8", uv="exit 0").returncode == 0
    calls = (laptop / "calls").read_text().splitlines()
    assert len(calls) == 2 and calls[1].endswith(f"{code}/constraints.txt --editable {code} boto3==1.44.8")
    assert (laptop / ".ray/auth_token").stat().st_mode & 0o777 == 0o600
    assert install(laptop, code, "boto3==1.44.8", uv="exit 0").returncode == 0
    assert (laptop / "calls").read_text().splitlines() == calls
    (code / "constraints.txt").write_text("ray==2.61.0\n")
    assert install(laptop, code, "boto3==1.44.8", uv="exit 0").returncode == 0
    assert len((laptop / "calls").read_text().splitlines()) == 4
    profile = (laptop / ".bashrc").read_text()
    assert profile.count("RAY_AUTH_MODE=token") == 1 and profile.count(f"PATH={laptop}/venv/bin:$PATH") == 1


def test_a_host_without_uv_uses_pip_and_one_without_either_is_not_called_installed(laptop, code):
    done = install(laptop, code, uv='[ "$(basename "$0")" = pip ]')
    assert done.returncode == 0, done.stderr
    assert (laptop / "calls").read_text().splitlines()[-1].startswith("pip install --quiet --constraint")
    (laptop / ".mwray-installed").unlink()
    (laptop / "venv/bin/pip").unlink()
    assert install(laptop, code, uv="exit 1").returncode != 0
    assert not (laptop / ".mwray-installed").exists()


def test_a_host_without_the_token_is_refused(laptop, code):
    (laptop / ".ray/auth_token").unlink()
    done = install(laptop, code, uv="exit 0")
    assert done.returncode == 1 and "auth_token is missing" in done.stderr

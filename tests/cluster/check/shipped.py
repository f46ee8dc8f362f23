"""The cluster files as shipped, and the same filled in or spoilt."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
CLUSTERS = ROOT / "launch" / "clusters"
AWS = ROOT / "cluster.yaml"
LAUNCHED = (AWS, CLUSTERS / "gcp.yaml", CLUSTERS / "onprem.yaml")
EVERY = (*LAUNCHED, CLUSTERS / "kuberay.yaml")
VALUES = {
    "FILL_IN_AMI": "ami-0123456789abcdef0",
    "FILL_IN_EFS": "fs-0123456789abcdef0",
    "FILL_IN_PROJECT": "my-project",
    "FILL_IN_IMAGE": "family/common-gpu",
    "FILL_IN_FILESTORE_IP": "10.0.0.2",
    "FILL_IN_HEAD_IP": "10.0.0.10",
    "FILL_IN_WORKER_IP_1": "10.0.0.11",
    "FILL_IN_WORKER_IP_2": "10.0.0.12",
    "FILL_IN_USER": "me",
    "FILL_IN_STORAGE_CLASS": "efs",
    "FILL_IN_REGISTRY": "registry.example.org/me",
}


def filled(path: Path) -> str:
    return re.sub(r"FILL_IN_\w+", lambda match: VALUES[match[0]], path.read_text())


def spoilt(path: Path, tmp_path: Path, old: str, new: str) -> Path:
    text = filled(path)
    assert text.count(old) >= 1, f"{path} has no {old!r}"
    changed = tmp_path / path.name
    changed.write_text(text.replace(old, new, 1))
    return changed


def line_of(path: Path, fragment: str) -> int:
    return next(number for number, line in enumerate(path.read_text().splitlines(), 1) if fragment in line)

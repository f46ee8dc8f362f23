"""No test of this folder sees the user's data folders, and none writes outside its own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("MWRAY_DATA", raising=False)
    monkeypatch.delenv("MWRAY_DOWNLOAD", raising=False)
    monkeypatch.chdir(home)

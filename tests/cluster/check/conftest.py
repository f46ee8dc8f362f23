"""A laptop that is ready for `ray up`."""

from __future__ import annotations

import pytest

from tests.cluster.check.google import REAL, stand_in
from tests.cluster.check.shipped import ROOT


@pytest.fixture
def laptop(tmp_path, monkeypatch):
    """A home with a token and a key, at the top of the checkout, and what Ray needs for each provider."""
    home = tmp_path / "home"
    for file in (".ray/auth_token", ".ssh/mwray"):
        (home / file).parent.mkdir(parents=True)
        (home / file).write_text("secret")
        (home / file).chmod(0o600)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(ROOT)
    if not REAL:
        monkeypatch.syspath_prepend(stand_in(tmp_path / "packages"))
    return home

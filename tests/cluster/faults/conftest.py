"""The campaign's table, printed at the end and kept as JSON lines."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

ROWS: list[dict[str, object]] = []


@pytest.fixture
def report():
    """Take in a finished campaign."""

    def add(tally) -> None:
        row = tally.row()
        ROWS.append(row)
        if path := os.environ.get("MWRAY_FAULTS_REPORT"):
            with Path(path).open("a") as file:
                file.write(json.dumps(row) + "\n")

    return add


def pytest_terminal_summary(terminalreporter):
    """Print what was injected and what it cost."""
    if not ROWS:
        return
    terminalreporter.write_line("")
    lines = [list(ROWS[0]), *([str("-" if v is None else v) for v in row.values()] for row in ROWS)]
    for number, line in enumerate(lines):
        terminalreporter.write_line("| " + " | ".join(line) + " |")
        if number == 0:
            terminalreporter.write_line("|" + "---|" * len(line))

"""The campaign's table, printed at the end and kept as JSON lines."""

from __future__ import annotations

import json
import os
from operator import add
from pathlib import Path
from typing import Any

import pytest

ROWS: list[dict[str, object]] = []


@pytest.fixture
def report():
    """Take in a finished campaign."""

    def take(tally) -> None:
        row = tally.row()
        ROWS.append(row)
        if path := os.environ.get("MWRAY_FAULTS_REPORT"):
            with Path(path).open("a") as file:
                file.write(json.dumps(row) + "\n")

    return take


def merged(rows):
    """One row a fault: campaigns that were cut into pieces (other seeds) add up."""
    found: dict[object, dict[str, Any]] = {}
    for row in rows:
        before = found.setdefault(row["fault"], dict.fromkeys(row, None) | {"fault": row["fault"]})
        for name, value in row.items():
            if value is None or name == "fault":
                continue
            most = name in ("most at once", "driver ended after, s")
            before[name] = value if before[name] is None else (max if most else add)(before[name], value)
    return [{name: round(v, 1) if isinstance(v, float) else v for name, v in row.items()} for row in found.values()]


def pytest_terminal_summary(terminalreporter):
    """Print what was injected and what it cost."""
    path = Path(os.environ.get("MWRAY_FAULTS_REPORT") or os.devnull)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if ROWS else []
    rows = merged(rows or ROWS)
    if not rows:
        return
    terminalreporter.write_line("")
    lines = [list(rows[0]), *([str("-" if v is None else v) for v in row.values()] for row in rows)]
    for number, line in enumerate(lines):
        terminalreporter.write_line("| " + " | ".join(line) + " |")
        if number == 0:
            terminalreporter.write_line("|" + "---|" * len(line))

"""A report: all tables and figures that the runs below a folder give, as files and as one page."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from mwray.records import write_atomically
from mwray.reports.cells import Entry, find
from mwray.reports.latex import to_latex
from mwray.reports.page import Picture, Section, page, table_section
from mwray.reports.pictures import FIGURES, NEEDS, pictures
from mwray.reports.significance import compare
from mwray.reports.tables import ReportError, Table, tables
from mwray.reports.text import significance_csv, significance_markdown, to_csv, to_markdown

SHOWN = 8
"""Commands that the page names."""


def report(root: Path, out: Path, measure: str = "test.last", says: Mapping[str, str] | None = None) -> Path:
    """Write the report of all runs below `root` into `out`; returns the page.

    Args:
        root: searched through for runs.
        out: the folder of the report.
        measure: a key of MEASURES, the rule by which an accuracy is taken.
        says: of each preset, what a reader of its numbers has to know.

    Files: index.html (all of it), tables.md, table-<name>-<preset>.{md,tex,csv,png}, the paired
    tests beside them as table-<name>-<preset>-tests.csv, and figures/<preset>/*.png.

    Raises:
        ReportError: there is no run of a table below `root`, or `measure` is not known.
        RecordError: a run's files cannot be read.
    """
    entries = find(root)
    if not entries:
        raise ReportError(
            f"{root}: no run of a table is in this folder; `python launch/tables.py --table 3` makes some, and "
            "`--figure all --runs FOLDER` draws from any runs"
        )
    found = tables(entries, measure, says)
    for table in found:
        _write_table(out, table)
    write_atomically(out / "tables.md", "\n".join(map(_markdown, found)).encode())
    sections = [table_section(table) for table in found]
    for section in sections:
        _write_pictures(out, section.pictures)
    for preset in dict.fromkeys(entry.cell.preset for entry in entries):
        drawn = list(pictures([entry for entry in entries if entry.cell.preset == preset]))
        _write_pictures(out / "figures" / preset, drawn)
        if drawn:
            sections.append(Section(f"figures-{preset}", f"Figures ({preset})", pictures=drawn))
    path = out / "index.html"
    write_atomically(path, page("Meta-Weight-Net: tables and figures", _made(entries), sections).encode())
    return path


def draw(entries: Sequence[Entry], out: Path, numbers: Collection[str]) -> list[Path]:
    """Draw only these figures of the paper, without tables and page; returns the files below `out`.

    Args:
        entries: runs of one or several presets; each preset has a folder of its own.
        out: made if it is not there.
        numbers: "1", "3" to "13".

    Raises:
        ReportError: a number is not a figure that runs give, or the runs do not give it; says which runs it takes.
    """
    check_numbers(numbers)
    paths: list[Path] = []
    for preset in dict.fromkeys(entry.cell.preset for entry in entries):
        for picture in pictures([entry for entry in entries if entry.cell.preset == preset], numbers):
            paths.append(out / preset / f"{picture.name}.png")
            write_atomically(paths[-1], picture.png)
    drawn = {str(int(path.stem.split("-")[1])) for path in paths}
    for number in numbers:
        if number not in drawn and len(numbers) < len(FIGURES):
            raise ReportError(f"--figure {number}: needs finished runs of {NEEDS[number]}, and there are none")
    if not paths:
        raise ReportError("--figure all: these runs give no figure; each needs finished runs of MW-Net at least")
    return paths


def check_numbers(numbers: Collection[str]) -> None:
    """Refuse, with ReportError, a number that is not a figure which runs give."""
    unknown = [number for number in numbers if number not in FIGURES]
    if unknown:
        raise ReportError(f"--figure {unknown[0]}: figures are {', '.join(FIGURES)}, or all")


def _write_table(out: Path, table: Table) -> None:
    stem = f"table-{table.name}-{table.preset}".replace(" ", "-")
    for ending, text in (("md", _markdown(table)), ("tex", to_latex(table)), ("csv", to_csv(table))):
        write_atomically(out / f"{stem}.{ending}", text.encode())
    if pairs := compare(table):
        write_atomically(out / f"{stem}-tests.csv", significance_csv(pairs).encode())


def _markdown(table: Table) -> str:
    return "\n".join(part for part in (to_markdown(table), significance_markdown(compare(table))) if part)


def _write_pictures(folder: Path, drawn: Iterable[Picture]) -> None:
    for picture in drawn:
        write_atomically(folder / f"{picture.name}.png", picture.png)


def _made(entries: Sequence[Entry]) -> str:
    """Where the numbers come from: runs, hours, machines, versions, commands."""
    runs = {entry.folder: entry.run for entry in entries}
    done = [run for run in runs.values() if run.state == "done"]
    hours = sum(float((run.summary() or {}).get("seconds", 0)) for run in done) / 3600
    starts = [start for run in done for start in run.starts()]
    hosts = sorted({str(start["host"]) for start in starts if "host" in start})
    versions = sorted({f"{k} {v}" for s in starts for k, v in s.get("packages", {}).items() if k in ("mwray", "torch")})
    commands = sorted({str(start["command"]) for start in starts if "command" in start})
    more = f" and {len(commands) - SHOWN} more" if len(commands) > SHOWN else ""
    return (
        f"Written {time.strftime('%Y-%m-%d %H:%M')} from {len(done)} finished runs of {len(runs)}; {hours:.1f} hours "
        f"of training; machines: {', '.join(hosts) or 'unknown'}; {', '.join(versions)}. "
        f"Commands: {'; '.join(commands[:SHOWN]) or 'unknown'}{more}."
    )

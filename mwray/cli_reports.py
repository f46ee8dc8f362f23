"""The verb of reports. Whatever is heavy is imported inside it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mwray.cli_arguments import names
from mwray.reports.tables import MEASURES
from mwray.studies.presets import PRESETS

ROOT = "runs/studies"


def report(options: argparse.Namespace) -> int:
    """Write tables and figures of all runs below a folder, some figures alone, or the samples a run trusts least."""
    if options.suspects:
        from mwray.train.suspects import write

        print(write(Path(options.suspects), Path(options.out) if options.out else None, device=options.device))
        return 0
    root = Path(options.folder).resolve()
    if options.figure or options.runs:
        print(*_draw(root, options), sep="\n")
        return 0
    print(write_report(root, options.measure, Path(options.out) if options.out else None))
    return 0


def _draw(root: Path, options: argparse.Namespace) -> list[Path]:
    from mwray.reports.cells import find
    from mwray.reports.loose import below, entries_of
    from mwray.reports.pictures import FIGURES
    from mwray.reports.report import check_numbers, draw

    numbers = list(FIGURES) if options.figure in ([], ["all"]) else options.figure
    check_numbers(numbers)  # before any run is looked for
    loose = [Path(run).resolve() for run in options.runs]
    entries = entries_of(below(loose)) if loose else find(root)
    out = Path(options.out) if options.out else Path("runs/figures") if loose else root / "report" / "figures"
    return draw(entries, out, numbers)


def add_verbs(verbs: Any) -> None:
    """Add the verbs to the subparsers of `mwray`."""
    written = verbs.add_parser("report", help="tables and figures from finished runs")
    written.add_argument("folder", nargs="?", default=ROOT, help=f"of the runs, searched through (default: {ROOT})")
    written.add_argument("--out", metavar="DIR", help="default: report/ in that folder, or suspects/ in the run's")
    written.add_argument(
        "--figure", type=names, default=[], metavar="N,..", help="only these figures of the paper, or all of them"
    )
    written.add_argument(
        "--runs", nargs="+", default=[], metavar="RUN", help="draw from these runs, and those below, of any kind"
    )
    written.add_argument(
        "--suspects", metavar="RUN", help="list the training samples that this run, or a search's best, trusts least"
    )
    written.add_argument("--device", help="for --suspects: cpu, cuda (default: a GPU if there is one)")
    written.add_argument("--data", metavar="DIR", help="folder of data sets (default: $MWRAY_DATA, then data/)")
    written.set_defaults(verb=report)
    add_measure(written)


def add_measure(verb: argparse.ArgumentParser) -> None:
    """Add --measure, the rule by which an accuracy is taken."""
    verb.add_argument("--measure", default="test.last", choices=list(MEASURES), help="the rule (default: last epoch)")


def write_report(root: Path, measure: str, out: Path | None = None) -> Path:
    """Write the report of all runs below `root`; returns the page."""
    from mwray.reports.report import report as write

    says = {name: preset.says for name, preset in PRESETS.items()}
    return write(root, out or root / "report", measure, says)

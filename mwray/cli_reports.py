"""The verbs of studies: tables, report, transfer. Whatever is heavy is imported inside the verb that needs it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mwray.config import parse
from mwray.reports.tables import MEASURES
from mwray.studies.presets import PRESETS
from mwray.studies.tables import STUDIES

if TYPE_CHECKING:
    from mwray.studies.plan import Plan, Training

ROOT = "runs/studies"


def tables(options: argparse.Namespace) -> int:
    """Train what a table of the paper needs and is not there yet, then print the table and write the report."""
    from mwray.studies.plan import plan
    from mwray.studies.run import run

    names = [name for name in STUDIES if name in options.table] if options.table != ["all"] else list(STUDIES)
    unknown = [name for name in options.table if name not in (*STUDIES, "all")]
    plans = [
        plan(
            name,
            options.preset,
            Path(options.folder).resolve(),
            seeds=options.seeds,
            rows=options.rows,
            columns=options.columns,
            values=dict(_parsed(text) for text in options.set),
        )
        for name in [*names, *unknown]  # an unknown name is refused there, with the nearest one
    ]
    for one in plans:
        print(_outlook(one, options.address))
    if options.dry_run:
        return 0
    failed = sum(run(one, lambda trainings: _train(trainings, options)) for one in plans)
    for one in plans:
        _print_table(one, options.measure)
    path = _write_report(Path(options.folder).resolve(), options.measure)
    print(f"Report: {path}\nTensorBoard: tensorboard --logdir {plans[0].root}")
    return 1 if failed else 0


def report(options: argparse.Namespace) -> int:
    """Write tables and figures of all runs below a folder, or the samples that one run trusts least."""
    if options.suspects:
        from mwray.train.suspects import write

        print(write(Path(options.suspects), Path(options.out) if options.out else None, device=options.device))
        return 0
    root = Path(options.folder).resolve()
    print(_write_report(root, options.measure, Path(options.out) if options.out else None))
    return 0


def transfer(options: argparse.Namespace) -> int:
    """Learn a weight net on one recipe, carry it to another, and compare there with training without it."""
    from mwray.studies.carry import carry

    outcome = carry(
        options.source,
        options.target,
        Path(options.folder).resolve(),
        train=lambda trainings: _train(trainings, options),
        seeds=options.seeds,
        use=options.use,
        scaled=options.losses == "scaled",
        methods=options.methods,
        values=dict(_parsed(text) for text in options.set),
    )
    print(outcome.text)
    return 1 if outcome.failed else 0


def add_verbs(verbs: Any) -> None:
    """Add the verbs to the subparsers of `mwray`."""
    study = verbs.add_parser("tables", help="the paper's tables, run and reported")
    study.add_argument("--table", type=_names, default=["3"], metavar="N,..", help=f"{', '.join(STUDIES)}, or all")
    study.add_argument("--rows", type=_names, default=[], metavar="A,B,..", help="only these methods")
    study.add_argument(
        "--columns", type=_names, default=[], metavar="A,B,..", help='only these biases: "40", "CIFAR-10 40"'
    )
    study.add_argument("--preset", default="digits", metavar="NAME", help=f"{', '.join(PRESETS)} (default: digits)")
    study.add_argument("--dry-run", action="store_true", help="say what would be run, and stop")
    study.set_defaults(verb=tables)

    written = verbs.add_parser("report", help="tables and figures from finished runs")
    written.add_argument("folder", nargs="?", default=ROOT, help=f"of the runs, searched through (default: {ROOT})")
    written.add_argument("--out", metavar="DIR", help="default: report/ in that folder, or suspects/ in the run's")
    written.add_argument("--suspects", metavar="RUN", help="list the training samples that this run trusts least")
    written.add_argument("--device", help="for --suspects: cpu, cuda (default: a GPU if there is one)")
    written.add_argument("--data", metavar="DIR", help="folder of data sets (default: $MWRAY_DATA, then data/)")
    written.set_defaults(verb=report)

    carried = verbs.add_parser("transfer", help="a weight net from one data set to another")
    carried.add_argument("--source", default="digits", metavar="RECIPE", help="where it is learned (default: digits)")
    carried.add_argument("--target", default="digits-flip", metavar="RECIPE", help="default: digits-flip")
    carried.add_argument(
        "--use", choices=["final", "trajectory"], default="final", help="the net at the end, or of each epoch"
    )
    carried.add_argument(
        "--losses", choices=["unscaled", "scaled"], default="unscaled", help="scaled: by the logarithms of the classes"
    )
    carried.add_argument(
        "--methods",
        type=_names,
        default=["base", "mwnet", "l2rw", "mentornet"],
        metavar="A,B,..",
        help="to compare with",
    )
    carried.set_defaults(verb=transfer)

    for verb in (study, written):
        verb.add_argument(
            "--measure", default="test.last", choices=list(MEASURES), help="the rule (default: last epoch)"
        )
    for verb, folder in ((study, ROOT), (carried, "runs/transfer")):
        verb.add_argument("--seeds", type=_positive, default=5, metavar="N", help="seeds 0 to N-1 (default: 5)")
        verb.add_argument("--folder", default=folder, help=f"where the runs are (default: {folder})")
        verb.add_argument("--address", help="a running Ray cluster: auto, or host:port (default: this machine)")
        verb.add_argument("--concurrency", type=_positive, metavar="K", help="trainings at once (default: what fits)")
        verb.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="for every run; repeatable")
        verb.add_argument("--data", metavar="DIR", help="folder of data sets (default: $MWRAY_DATA, then data/)")


def _train(trainings: Sequence[Training], options: argparse.Namespace) -> int:
    from mwray.cluster.sweep import Job, sweep

    jobs = [Job(one.folder.name, one.experiment, one.folder) for one in trainings]
    outcomes = sweep(jobs, address=options.address, concurrency=options.concurrency)
    return sum(outcome.error is not None for outcome in outcomes)


def _outlook(one: Plan, address: str | None) -> str:
    """What there is to do, and how long it may take."""
    from mwray.records import Run
    from mwray.studies.estimate import estimate

    done = sum(Run(training.folder).state == "done" for training in one.trainings)
    says = PRESETS[one.preset.split("+")[0]].says
    lines = [f"Table {one.name}, preset {one.preset}: {one.total} trainings, {done} finished. {says}"]
    seconds = estimate(one.trainings, one.root)
    if seconds:
        cores = os.cpu_count() or 1
        where = "" if address else f", {_duration(seconds / cores)} on the {cores} cores here"
        lines.append(f"About {_duration(seconds)} of training left, judged by the finished ones{where}.")
    elif seconds is None:
        lines.append("How long it takes will be known when the first trainings have finished.")
    lines += [f"Left out: {column} (the data set has too few images)." for column in one.impossible]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{max(seconds / 60, 1):.0f} min"


def _print_table(one: Plan, measure: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from mwray.reports.cells import find
    from mwray.reports.tables import tables as build
    from mwray.reports.text import lines

    for table in build(find(one.root), measure):
        if table.name == one.name and table.preset == one.preset:
            head, *body = lines(table)
            shown = Table(*head, title=table.heading, caption=f"{table.caption} (* best)")
            for line in body:
                shown.add_row(*line)
            Console().print(shown)


def _write_report(root: Path, measure: str, out: Path | None = None) -> Path:
    from mwray.reports.report import report as write

    return write(root, out or root / "report", measure)


def _parsed(text: str) -> tuple[str, Any]:
    from mwray.recipes import recipe

    return parse(recipe("digits"), text)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value

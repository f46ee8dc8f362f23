"""The verbs that train studies: tables and transfer. Whatever is heavy is imported inside the verb that needs it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mwray.cli_arguments import gpus, names, positive, seeds
from mwray.cli_reports import ROOT, add_measure, write_report
from mwray.config import parse
from mwray.studies.presets import PRESETS
from mwray.studies.tables import STUDIES

if TYPE_CHECKING:
    from mwray.experiment import Experiment
    from mwray.studies.estimate import Forecast
    from mwray.studies.plan import Plan, Training


def tables(options: argparse.Namespace) -> int:
    """Train what tables of the paper need and is not there yet, then print the tables and write the report."""
    from mwray.studies.run import run, together

    plans = _plans(options)
    waiting = [pending.column for plan in plans for pending in plan.pending]
    forecast = _forecast(together(plans), waiting, plans[0].root)
    for one in plans:
        print(_outlook(one))
    print(_time_left(forecast, options.address))
    if options.dry_run:
        return 0
    failed = run(plans, lambda trainings: _train(trainings, options, forecast), forecast)
    for one in plans:
        _print_table(one, options.measure)
    path = write_report(Path(options.folder).resolve(), options.measure)
    print(f"Report: {path}\nTensorBoard: tensorboard --logdir {plans[0].root}")
    return 1 if failed else 0


def transfer(options: argparse.Namespace) -> int:
    """Learn a weight net on one recipe, carry it to another, and compare there; or take one out of a run."""
    if options.export:
        return _export(Path(options.export), Path(options.out or "weight-net.json"))
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
        file=Path(options.weight_net) if options.weight_net else None,
    )
    print(outcome.text)
    return 1 if outcome.failed else 0


def _export(run: Path, out: Path) -> int:
    """Write the weight net of a run into a file of its own, and say how it is used."""
    from mwray.transfer import from_run, save

    learned = from_run(run)
    print(f"Weight net {learned.shape} of {run}: {save(learned, out)}")
    print(f"Use it:  python launch/train.py RECIPE --set method.name=frozen --set method.file={out}")
    print(f"or, in a loop of your own:  weight_of = mwray.transfer.load({str(out)!r}).build()")
    return 0


def add_verbs(verbs: Any) -> None:
    """Add the verbs to the subparsers of `mwray`."""
    study = verbs.add_parser("tables", help="the paper's tables, run and reported")
    study.add_argument("--table", type=names, default=["3"], metavar="N,..", help=f"{', '.join(STUDIES)}, or all")
    study.add_argument("--rows", type=names, default=[], metavar="A,B,..", help="only these methods")
    study.add_argument(
        "--columns", type=names, default=[], metavar="A,B,..", help='only these biases: "40", "CIFAR-10 40"'
    )
    study.add_argument("--preset", default="digits", metavar="NAME", help=f"{', '.join(PRESETS)} (default: digits)")
    study.add_argument(
        "--seeds", type=seeds, default=range(5), metavar="N", help="seeds 0 to N-1 (default: 5), or 3-4, or 0,2"
    )
    study.add_argument("--dry-run", action="store_true", help="say what would be run, and stop")
    study.set_defaults(verb=tables)

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
        type=names,
        default=["base", "mwnet", "l2rw", "mentornet"],
        metavar="A,B,..",
        help="to compare with",
    )
    carried.add_argument("--seeds", type=positive, default=5, metavar="N", help="seeds 0 to N-1 (default: 5)")
    carried.add_argument("--weight-net", metavar="FILE", help="carry this one; nothing is learned on --source")
    carried.add_argument("--export", metavar="RUN", help="only write the weight net of this run into --out")
    carried.add_argument("--out", metavar="FILE", help="for --export (default: weight-net.json)")
    carried.set_defaults(verb=transfer)

    add_measure(study)
    for verb, folder in ((study, ROOT), (carried, "runs/transfer")):
        verb.add_argument("--folder", default=folder, help=f"where the runs are (default: {folder})")
        verb.add_argument("--address", help="a running Ray cluster: auto, or host:port (default: this machine)")
        verb.add_argument("--concurrency", type=positive, metavar="K", help="trainings at once (default: what fits)")
        verb.add_argument("--gpus-per-trial", type=gpus, metavar="F", help="a fraction: trainings share a GPU")
        verb.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="for every run; repeatable")
        verb.add_argument("--data", metavar="DIR", help="folder of data sets (default: $MWRAY_DATA, then data/)")


def _plans(options: argparse.Namespace) -> list[Plan]:
    from mwray.studies.plan import plan

    known = [name for name in STUDIES if name in options.table] if options.table != ["all"] else list(STUDIES)
    unknown = [name for name in options.table if name not in (*STUDIES, "all")]
    values = dict(_parsed(text) for text in options.set)
    folder = Path(options.folder).resolve()
    chosen = {"seeds": options.seeds, "rows": options.rows, "columns": options.columns}
    # An unknown name is refused there, with the nearest one.
    return [plan(name, options.preset, folder, values=values, **chosen) for name in [*known, *unknown]]


def _forecast(trainings: Sequence[Training], others: Sequence[Experiment], root: Path) -> Forecast:
    from mwray.studies.estimate import Forecast, Kind

    def probe(kind: Kind, batch_size: int) -> float:
        from mwray.studies.probe import seconds_per_image  # loads torch

        return seconds_per_image(kind, batch_size)

    return Forecast({one.folder: one.experiment for one in trainings}, others, root=root, probe=probe)


def _train(trainings: Sequence[Training], options: argparse.Namespace, outlook: Forecast | None = None) -> int:
    from mwray.cluster.sweep import Job, sweep
    from mwray.experiment import warn_of_milestones

    warn_of_milestones(one.experiment for one in trainings)
    if outlook is None:
        outlook = _forecast(trainings, (), Path(options.folder).resolve())
        print(_time_left(outlook, options.address))
    jobs = [Job(one.folder.name, one.experiment, one.folder) for one in trainings]
    outcomes = sweep(
        jobs,
        address=options.address,
        concurrency=options.concurrency,
        gpus_per_trial=options.gpus_per_trial,
        outlook=outlook,
    )
    return sum(outcome.error is not None for outcome in outcomes)


def _outlook(one: Plan) -> str:
    """What there is to do for one table."""
    from mwray.records import Run
    from mwray.reports.tables import told

    done = sum(Run(training.folder).state == "done" for training in one.trainings)
    says = told(one.preset, {name: preset.says for name, preset in PRESETS.items()})
    what = one.name if " " in one.name else f"Table {one.name}"  # "figure 4" has a study too
    lines = [f"{what}, preset {one.preset}: {one.total} trainings, {done} finished. {says}"]
    lines += [f"Left out: {column} (the data set has too few images)." for column in one.impossible]
    return "\n".join(lines)


def _time_left(forecast: Forecast, address: str | None) -> str:
    """How long all of it may take; what is done by several tables is done once."""
    left = forecast.left()
    if forecast.done == forecast.total:
        return f"All {forecast.total} trainings are finished."
    what = f"{forecast.total - forecast.done} of {forecast.total} trainings to do"
    if left is None:
        return f"{what}; how long they take will be known when some have finished."
    judged = "by the finished ones" if forecast.known else "by a timed step of each network"
    cores = os.cpu_count() or 1
    here = "" if address else f", {_duration(left / cores)} on the {cores} cores of this machine"
    return f"{what}: about {_duration(left)} of training one after another{here} (judged {judged})."


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


def _parsed(text: str) -> tuple[str, Any]:
    from mwray.recipes import recipe

    return parse(recipe("digits"), text)

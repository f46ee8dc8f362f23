"""The verbs: train, tune, compare, fetch, recipes; `mwray.cli_studies`, `cli_reports` and `cli_predict` add theirs.

Whatever is heavy is imported inside the verb that needs it.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mwray import __version__, cli_predict, cli_reports, cli_studies
from mwray.cli_arguments import Verb, gpus, gpus_or_auto, names, positive
from mwray.cli_train import describe, schedules, train_here, train_in_storage
from mwray.config import ConfigError, assign, fingerprint, leaves, to_dict
from mwray.errors import UserError
from mwray.experiment import Experiment, warn_of_milestones
from mwray.recipes import RECIPES, recipe
from mwray.records import Run
from mwray.remote import Remote, is_remote
from mwray.repeat import Repeat, repeat
from mwray.reports.tables import MEASURES

DEFAULT_SPACE = "search_spaces/digits.yaml"

DEFAULT_RECIPE = "digits"

PATHS = ["folder", "source", "space", "data", "out", "export", "weight_net", "suspects", "run", "runs", "images"]
"""Options, by their names here, that take a path or some."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0 done, 1 failed on the way, 2 refused before it began, 130 interrupted
    (143 by SIGTERM)."""
    options = _parser().parse_args(arguments)
    if refusal := _address_for_a_path(options):
        print(f"mwray: {refusal}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.WARNING, format="mwray: %(message)s")
    if getattr(options, "data", None):
        os.environ["MWRAY_DATA"] = str(Path(options.data).resolve())
    try:
        code: int = options.verb(options)
        return code
    except KeyboardInterrupt:
        print("\nmwray: stopped. What is finished is kept; the same command goes on from there.", file=sys.stderr)
        return 130
    except UserError as error:
        print(f"mwray: {error}", file=sys.stderr)
        return 1 if isinstance(error, ArithmeticError | OSError) else 2
    except (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        if error.filename is None:
            raise
        print(f"mwray: {error.filename}: {error.strerror}; give a path that can be used there", file=sys.stderr)
        return 2


def _address_for_a_path(options: argparse.Namespace) -> str | None:
    """Why the options cannot be, where one of them is an address of object storage and has to be a path.

    The address itself is not repeated: nobody has looked yet whether it contains a secret.
    """
    taken = {train: ("folder",), tune: ("folder", "status")}.get(options.verb, ())
    for name in PATHS:
        given = getattr(options, name, None)
        if any(map(is_remote, given if isinstance(given, list) else [given])) and name not in taken:
            named = {
                (train, "source"): "--from",
                (cli_reports.report, "folder"): "the folder",
                (cli_predict.predict, "run"): "RUN",
                (cli_predict.predict, "images"): "FILES",
            }
            flag = named.get((options.verb, name), f"--{name.replace('_', '-')}")
            return f"{flag}: an address was given; only --folder of train and tune, and --status, take one; give a path"
    return None


def train(options: argparse.Namespace) -> int:
    """Train one experiment, here or over several workers, and say what came out."""
    _without_effect(options)
    again = _again(options)
    experiment = _experiment(options, again.experiment if again else None)
    if os.environ.get("RANK", "0") == "0":  # one of several processes is enough to say so
        warn_of_milestones([experiment])
    if is_remote(options.folder):
        return train_in_storage(experiment, Remote(options.folder), options, again)
    name = "repeat" if again else options.recipe or DEFAULT_RECIPE
    folder = Path(options.folder or Path("runs/train") / run_name(name, experiment)).resolve()
    if options.workers > 1:
        from mwray.cluster.trainer import fit

        print(describe(fit(experiment, folder, options.workers, address=options.address, gpus_per_worker=options.gpus)))
    elif (summary := Run(folder).summary_of(to_dict(experiment))) is not None:
        print(f"Finished already:\n{describe(summary)}")
    else:
        train_here(experiment, folder, options, again)
    if os.environ.get("RANK", "0") == "0":
        print(f"Records, checkpoint and pictures: {folder}")
    return 0


def tune(options: argparse.Namespace) -> int:
    """Search a space over Ray; show trials as they go, and the leaderboard at the end."""
    if options.status:
        from mwray.cluster.status import show

        if is_remote(options.status):
            from mwray.cluster.bucket import read_only  # knows Ray, which looking at a folder does not need

            with read_only(options.status) as place:
                show(place)
        else:
            show(Path(options.status))
        return 0
    from mwray.space import load

    space = load(Path(options.space), options.set, options.seeds)
    warn_of_milestones(schedules(space))
    from mwray.cluster.search import search

    # A space that was changed on the command line is another search: it gets a folder of its own.
    changed = f"-{fingerprint(space.base)}" if options.set else ""
    changed += f"-seeds{space.seeds}" if options.seeds else ""
    folder = options.folder or f"runs/search/{space.name}{changed}"
    result = search(
        space,
        Remote(folder) if is_remote(folder) else Path(folder).resolve(),
        trials=options.trials,
        address=options.address,
        concurrency=options.concurrency,
        gpus_per_trial=options.gpus_per_trial,
        workers_per_trial=options.workers_per_trial,
        retry_failed=options.retry_failed,
        pack=options.pack,
    )
    if result.interrupted:
        return 130
    return 0 if result.finished else 1


def compare(options: argparse.Namespace) -> int:
    """Train every method on every recipe over several seeds, and print the table."""
    from mwray.cluster.compare import compare as run

    outcomes = run(
        options.recipes,
        options.methods,
        options.seeds,
        Path(options.folder or "runs/compare").resolve(),
        assignments=options.set,
        address=options.address,
        concurrency=options.concurrency,
        gpus_per_trial=options.gpus_per_trial,
        measure=options.measure,
    )
    return 1 if any(outcome.error for outcome in outcomes) else 0


def fetch(options: argparse.Namespace) -> int:
    """Download a data set with torchvision."""
    from mwray.data.sources import fetch as download

    where = Path(options.data or os.environ.get("MWRAY_DATA", "data").split(os.pathsep)[0])
    download(options.source, where)
    print(f"{options.source} is in {where.resolve()}")
    return 0


def recipes(options: argparse.Namespace) -> int:
    """List the recipes, or every field of one with its value."""
    if options.recipe:
        for name, value in leaves(_experiment(options)).items():
            print(f"{name} = {value}")
        return 0
    for name, function in RECIPES.items():
        print(f"{name:20} {(function.__doc__ or '').strip().splitlines()[0]}")
    return 0


def run_name(name: str, experiment: Experiment) -> str:
    """Folder name of one training: what a person looks for first, then the fingerprint that makes it unique."""
    return f"{name}-{experiment.method.name}-seed{experiment.seed}-{fingerprint(experiment)}"


def _without_effect(options: argparse.Namespace) -> None:
    """Refuse what a training in this process, or over several workers, would not look at."""
    several = options.workers > 1
    kind = "over several workers" if several else "in this process"
    cure = "leave it out" if several else "give --workers 2 or more"
    for name in ("device", "checkpoint_every") if several else ("address", "gpus"):
        if getattr(options, name):
            raise ConfigError(f"--{name.replace('_', '-')}: a training {kind} does not look at it; {cure}")


def _again(options: argparse.Namespace) -> Repeat | None:
    """What `--from` names, if it is given."""
    if options.source is None:
        return None
    if options.recipe is not None:
        raise ConfigError(
            f"a recipe ({options.recipe}) and --from {options.source} are both given; keep one of the two"
        )
    return repeat(Path(options.source))


def _experiment(options: argparse.Namespace, experiment: Experiment | None = None) -> Experiment:
    """`experiment`, or the recipe that is named, with what `--set` changes."""
    return assign(experiment or recipe(options.recipe or DEFAULT_RECIPE), options.set)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mwray", description="Train on wrong or lopsided labels.")
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(required=True, metavar="VERB", parser_class=Verb)

    one, many, beside = _add_train(verbs), _add_tune(verbs), _add_compare(verbs)
    for verb in (one, many, beside):
        verb.add_argument("--address", help="a running Ray cluster: auto, or host:port (default: this machine)")
        verb.add_argument(
            "--folder",
            help="where all goes: a path (default: under runs/), s3://..., gs://...",
        )

    listing = verbs.add_parser("recipes", help="list the recipes, or the fields of one")
    listing.add_argument("recipe", nargs="?")
    listing.set_defaults(verb=recipes)
    for verb in (one, many, beside, listing):
        verb.add_argument(
            "--set", action="append", default=[], metavar="FIELD=VALUE", help="by dotted name; repeatable"
        )

    cli_studies.add_verbs(verbs)
    cli_reports.add_verbs(verbs)
    cli_predict.add_verbs(verbs)

    download = verbs.add_parser("fetch", help="download a data set")
    download.add_argument("source", choices=["cifar10", "cifar100", "fashion_mnist"])
    download.set_defaults(verb=fetch)
    for verb in (one, many, beside, download):
        verb.add_argument("--data", metavar="DIR", help="folder of data sets (default: $MWRAY_DATA, then data/)")
    return parser


def _add_train(verbs: Any) -> argparse.ArgumentParser:
    one: argparse.ArgumentParser = verbs.add_parser("train", help="one training")
    one.add_argument("recipe", nargs="?", help=f"see `mwray recipes` (default: {DEFAULT_RECIPE})")
    one.add_argument("--from", dest="source", metavar="PATH", help="a run's folder, or best.json: train that again")
    one.add_argument("--workers", type=positive, default=1, help="train over so many Ray Train workers")
    one.add_argument("--gpus", type=gpus, default=0, help="GPUs for each of several workers")
    one.add_argument("--device", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    one.add_argument("--checkpoint-every", type=positive, metavar="EPOCHS", help="default: 1")
    one.set_defaults(verb=train)
    return one


def _add_tune(verbs: Any) -> argparse.ArgumentParser:
    many: argparse.ArgumentParser = verbs.add_parser("tune", help="a search over Ray")
    many.add_argument("--space", default=DEFAULT_SPACE, metavar="FILE", help=f"default: {DEFAULT_SPACE}")
    many.add_argument("--trials", type=positive, help="instead of the space's own number")
    many.add_argument("--seeds", type=positive, metavar="N", help="of each point, instead of the space's own number")
    many.add_argument("--concurrency", type=positive, metavar="K", help="trials at once (default: what fits)")
    many.add_argument(
        "--gpus-per-trial",
        type=gpus_or_auto,
        metavar="F",
        help="a fraction shares a GPU; auto, the default: what fits",
    )
    many.add_argument("--workers-per-trial", type=positive, default=1, metavar="W")
    many.add_argument("--pack", type=positive, default=1, metavar="K", help="so many trials share a process, stacked")
    many.add_argument("--retry-failed", action="store_true", help="try failed trials once more")
    many.add_argument("--status", metavar="FOLDER", help="show the search in FOLDER, running or not; no more")
    many.set_defaults(verb=tune)
    return many


def _add_compare(verbs: Any) -> argparse.ArgumentParser:
    beside: argparse.ArgumentParser = verbs.add_parser("compare", help="methods beside one another, over seeds")
    beside.add_argument("--recipes", type=names, default=["digits"], metavar="A,B,..", help="default: digits")
    beside.add_argument(
        "--methods", type=names, default=["base", "mwnet"], metavar="A,B,..|all", help="default: base,mwnet"
    )
    beside.add_argument("--measure", choices=tuple(MEASURES), default="test.last", help="default: the last epoch")
    beside.add_argument("--seeds", type=positive, default=5, metavar="N", help="seeds 0 to N-1 (default: 5)")
    beside.add_argument("--concurrency", type=positive, metavar="K", help="trainings at once (default: what fits)")
    beside.add_argument("--gpus-per-trial", type=gpus, metavar="F", help="a fraction: trainings share a GPU")
    beside.set_defaults(verb=compare)
    return beside

"""Methods beside one another: every method on every recipe over several seeds, and the table that comes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mwray.cluster.sweep import Job, Outcome, sweep
from mwray.config import ConfigError, fingerprint, leaves, override, parse, refuse_chosen
from mwray.experiment import Experiment, warn_of_milestones
from mwray.methods.registry import METHODS
from mwray.recipes import recipe
from mwray.records import Run, write_atomically
from mwray.reports.comparison import compare as read_comparison
from mwray.reports.comparison import csv_text, markdown, table
from mwray.reports.tables import MEASURES


def compare(
    recipes: Sequence[str],
    methods: Sequence[str],
    seeds: int,
    folder: Path,
    *,
    values: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
    address: str | None = None,
    concurrency: int | None = None,
    gpus_per_trial: float | None = None,
    measure: str = "test.last",
) -> list[Outcome]:
    """Train all, then print and write table.md and table.csv in `folder`.

    A method other than the recipe's own starts from its own defaults; data, network, optimiser, epochs and seed are the
    recipe's for all (equal schedules). ["all"] stands for every method that a recipe alone can describe. `values` are
    set where a method has them, and so are `assignments`, "a.b=c" as typed, each read as the method's own field asks
    for ("true" is text for one and a truth for another). `measure` is one of MEASURES; asking for another one of
    finished runs trains nothing.

    Raises:
        ConfigError: a name is unknown, or a value impossible: before anything is started.
    """
    if list(methods) == ["all"]:
        methods = every_method(recipes[0])
    jobs, runs = [], []
    for name in recipes:
        for method in methods:
            for seed in range(seeds):
                experiment = _experiment(name, method, seed, values or {}, assignments)
                where = folder / name / f"{method}-seed{seed}-{fingerprint(experiment)}"
                jobs.append(Job(f"{name} {method} seed {seed}", experiment, where))
                runs.append((method, name, where))
    warn_of_milestones(job.experiment for job in jobs)
    folder.mkdir(parents=True, exist_ok=True)
    listing = [
        {"method": method, "recipe": name, "folder": str(where.relative_to(folder))} for method, name, where in runs
    ]
    write_atomically(folder / "comparison.json", json.dumps(listing, indent=1).encode())
    outcomes = sweep(jobs, address=address, concurrency=concurrency, gpus_per_trial=gpus_per_trial)
    _print(runs, folder, measure)
    return outcomes


def every_method(name: str) -> list[str]:
    """The methods that can be put into recipe `name` without further settings, in the order of the registry."""
    found = []
    for method in METHODS:
        try:
            override(recipe(name), {"method.name": method})
        except ConfigError:  # a frozen weight net, say, has to be given
            continue
        found.append(method)
    return found


def _experiment(
    name: str, method: str, seed: int, values: Mapping[str, Any], assignments: Sequence[str] = ()
) -> Experiment:
    base = override(recipe(name), {"method.name": method, "seed": seed})
    given = {**values, **dict(parse(base, assignment) for assignment in assignments)}
    refuse_chosen(given, {"method.name": "--methods", "seed": "--seeds"})
    return override(base, {key: value for key, value in given.items() if _meant_for(key, base)})


def _meant_for(key: str, experiment: Experiment) -> bool:
    """A method's own field is set where that method has it; every other field everywhere."""
    return not key.startswith("method.") or key in leaves(experiment)


def _print(runs: Sequence[tuple[str, str, Path]], folder: Path, measure: str) -> None:
    comparison = read_comparison(runs, measure)
    lines = table(comparison)
    write_atomically(folder / "table.md", markdown(lines).encode())
    write_atomically(folder / "table.csv", csv_text(lines).encode())
    rule = MEASURES[measure][0].upper() + MEASURES[measure][1:]
    shown = Table(*lines[0], title=f"{rule}, %: mean +- sample standard deviation (runs)")
    for line in lines[1:]:
        shown.add_row(*line)
    Console().print(shown)
    print(f"Written to {folder / 'table.md'} and {folder / 'table.csv'}")
    if not comparison.cells and any(Run(where).summary() for _, _, where in runs):
        print(f"No training measured {measure}: without test samples, --measure validation.last has something")

"""Methods beside one another: every method on every recipe over several seeds, and the table that comes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mwray.cluster.sweep import Job, Outcome, sweep
from mwray.config import fingerprint, leaves, override
from mwray.experiment import Experiment
from mwray.recipes import recipe
from mwray.records import write_atomically
from mwray.reports.comparison import compare as read_comparison
from mwray.reports.comparison import csv_text, markdown, table


def compare(
    recipes: Sequence[str],
    methods: Sequence[str],
    seeds: int,
    folder: Path,
    *,
    values: Mapping[str, Any] | None = None,
    address: str | None = None,
    concurrency: int | None = None,
) -> list[Outcome]:
    """Train all, then print and write table.md and table.csv in `folder`.

    A method other than the recipe's own starts from its own defaults; data, network, optimiser, epochs and seed are the
    recipe's for all (equal schedules). Accuracy is that of the last epoch.

    Raises:
        ConfigError: a name is unknown, or a value impossible: before anything is started.
    """
    jobs, runs = [], []
    for name in recipes:
        for method in methods:
            for seed in range(seeds):
                experiment = _experiment(name, method, seed, values or {})
                where = folder / name / f"{method}-seed{seed}-{fingerprint(experiment)}"
                jobs.append(Job(f"{name} {method} seed {seed}", experiment, where))
                runs.append((method, name, where))
    folder.mkdir(parents=True, exist_ok=True)
    listing = [
        {"method": method, "recipe": name, "folder": str(where.relative_to(folder))} for method, name, where in runs
    ]
    write_atomically(folder / "comparison.json", json.dumps(listing, indent=1).encode())
    outcomes = sweep(jobs, address=address, concurrency=concurrency)
    _print(runs, folder)
    return outcomes


def _experiment(name: str, method: str, seed: int, values: Mapping[str, Any]) -> Experiment:
    base = override(recipe(name), {"method.name": method, "seed": seed})
    return override(base, {key: value for key, value in values.items() if _meant_for(key, base)})


def _meant_for(key: str, experiment: Experiment) -> bool:
    """A method's own field is set where that method has it; every other field everywhere."""
    return not key.startswith("method.") or key in leaves(experiment)


def _print(runs: Sequence[tuple[str, str, Path]], folder: Path) -> None:
    lines = table(read_comparison(runs))
    write_atomically(folder / "table.md", markdown(lines).encode())
    write_atomically(folder / "table.csv", csv_text(lines).encode())
    shown = Table(*lines[0], title="Test accuracy at the last epoch, %: mean +- sample standard deviation (runs)")
    for line in lines[1:]:
        shown.add_row(*line)
    Console().print(shown)
    print(f"Written to {folder / 'table.md'} and {folder / 'table.csv'}")

"""What a search found, in words and tables that a person reads in a minute: summary.md, and its pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from mwray.cluster import analysis_draw
from mwray.cluster.analysis import FEWEST, Field, Level, averaged, best_of, fields, spreads, tidy
from mwray.cluster.heartbeat import hours
from mwray.cluster.leaderboard import Row, SearchResult, who
from mwray.cluster.names import clock, heading, percent, plain
from mwray.cluster.points import SEED, spread_text
from mwray.cluster.study import Entry
from mwray.records import write_atomically
from mwray.space import Space

TRUSTED = 20
"""Finished trials from which importances are more than a hint; our own choice."""
CAPTIONS = {
    "importances": "What mattered",
    "history": "Trial by trial",
    "parallel": "Every trial, a line each",
    "slice": "Every field alone",
}


def write(space: Space, entries: Sequence[Entry], result: SearchResult) -> Path:
    """Write summary.md and pictures/*.png into the search's folder.

    Args:
        space: what was searched.
        entries: every trial of the study.
        result: its rows.
    """
    objective = space.metric.replace(".", " ")
    means = tidy(*averaged(space, entries)) if space.seeds > 1 else None
    drawn = analysis_draw.pictures(tidy(space, entries), objective, result.folder / "pictures", means)
    path = result.folder / "summary.md"
    write_atomically(path, ("\n".join(_text(space, entries, result, drawn)) + "\n").encode())
    return path


def _text(space: Space, entries: Sequence[Entry], result: SearchResult, drawn: Sequence[Path]) -> Iterator[str]:
    yield f"# What the search `{space.name}` found"
    yield ""
    yield _done(space, result)
    if result.spend:
        yield f"\nSpent: {hours(result.spend)}."
    if result.stopped:
        yield f"\nStopped: {result.stopped}"
    if result.best is None:
        yield "\nNo trial has finished, so there is nothing to compare."
        yield from _failed(result)
        return
    yield "\n## The best\n"
    yield from _best(space, result, result.best)
    if result.points:
        yield "\n## Every point over its seeds\n"
        yield from _points(result)
    yield "\n## What mattered\n"
    yield from _mattered(space, entries)
    yield "\n## How far to trust it\n"
    yield from _trust(space, entries, result.best)
    yield from _failed(result)
    for path in drawn:
        caption = CAPTIONS[path.stem.split("-")[0]]
        yield f"\n![{caption}]({path.parent.name}/{path.name})"


def _failed(result: SearchResult) -> Iterator[str]:
    failed = [row for row in (*result.rows, *result.bases) if row.state == "failed"]
    if failed:
        yield "\n## What failed\n"
    for row in failed:
        yield f"- {who(row)}: {row.reason or 'for a reason unknown'}"


def _done(space: Space, result: SearchResult) -> str:
    states = [row.state for row in result.rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    seconds = sum(row.seconds for row in (*result.rows, *result.bases))
    over = f", each point at {space.seeds} seeds" if space.seeds > 1 else ""
    return (
        f"Recipe `{space.recipe}`, sampler {space.sampler}{over}; trials: {counts or 'none'}; {clock(seconds)} of "
        f"training. Ranked by {space.metric} after the last epoch; test samples ranked nothing."
    )


def _best(space: Space, result: SearchResult, best: Row) -> Iterator[str]:
    yield "| | " + " | ".join(heading(name) for name in result.names) + " | validation | test, last epoch |"
    yield "|---" * (len(result.names) + 3) + "|"
    for row in (best, *([result.base] if result.base else [])):
        values = " | ".join(plain(row.values.get(name)) for name in result.names)
        label = row.label if row.number is None else f"trial {row.label}"
        yield f"| {label} | {values} | {percent(row.validation)} | {percent(row.test)} |"
    yield ""
    yield "The same training again, with the same bits:"
    yield ""
    yield f"    python launch/train.py --from {_near(result.folder)}/best.json"


def _near(folder: Path) -> Path:
    """The folder as one would type it here."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _points(result: SearchResult) -> Iterator[str]:
    names = [name for name in result.names if name != SEED]
    fields = " | ".join(heading(name) for name in names)
    yield f"| trials | {fields} | seeds | validation, % | test, last epoch, % |"
    yield "|---" * (len(names) + 4) + "|"
    for point in (*result.points, *([result.base_point] if result.base_point else [])):
        values = " | ".join(plain(point.values[name]) for name in names)
        accuracies = " | ".join(spread_text(point.of(name)) for name in ("validation", "test"))
        yield f"| {point.label} | {values} | {point.n} | {accuracies} |"
    yield ""
    yield "Mean +- sample standard deviation over seeds; points with fewer seeds come after those with all of them."


def _mattered(space: Space, entries: Sequence[Entry]) -> Iterator[str]:
    over_seeds = spreads(space, entries)
    what = "points" if space.seeds > 1 else "trials"
    space, entries = averaged(space, entries)
    if over_seeds is not None:
        between, within = (_number(value, space) for value in over_seeds)
        says = f"Means of points differ by {between} (standard deviation), seeds within a point by {within}"
        yield f"{says}; the latter is chance."
        yield ""
    found = fields(space, entries)
    done = [entry for entry in entries if entry.state == "complete"]
    if len(done) < FEWEST:
        yield f"{len(done)} finished {what} are too few to say: {FEWEST} are needed."
        return
    if all(field.importance is None for field in found):
        yield "All finished trials came to the same: nothing that was searched made a difference."
        return
    few = len(best_of(done, space.mode))
    yield f"| field | importance | larger is better | the best {few} {what} |"
    yield "|---|---|---|---|"
    for field in found:
        share = "-" if field.importance is None else f"{100 * field.importance:.0f} %"
        yield f"| `{field.name}` | {share} | {_trend(field)} | {field.good or '-'} |"
    yield ""
    yield (
        f"Importance is Optuna's PED-ANOVA: how much the values of the best tenth of the {what} differ from those of "
        "all, as a share of the sum over fields. The third column is Spearman's rank correlation (+1 to -1)."
    )
    for field in found:
        if len(field.levels) > 1 and any(level.n > 1 for level in field.levels):
            yield from _levels(field, space, what)


def _levels(field: Field, space: Space, what: str) -> Iterator[str]:
    yield ""
    yield f"| {field.short} | {what} | mean {space.metric} | best |"
    yield "|---|---|---|---|"
    for level in field.levels:
        yield f"| {level.value} | {level.n} | {_mean(level, space)} | {_number(level.best, space)} |"


def _trust(space: Space, entries: Sequence[Entry], best: Row) -> Iterator[str]:
    done = [entry.value for entry in entries if entry.state == "complete" and entry.value is not None]
    yield f"- {len(done)} trials finished{'; importances from so few are a hint' if len(done) < TRUSTED else ''}."
    if space.sampler == "tpe":
        yield "- TPE goes where it was good before: choices are drawn unevenly, which their means show."
    samples = best.experiment.data.num_validation
    if space.metric == "validation.accuracy" and samples and best.objective is not None:
        error = math.sqrt(best.objective * (1 - best.objective) / samples)
        near = sum(value >= best.objective - error for value in done)
        yield (
            f"- One validation accuracy on {samples} samples has a standard error of {100 * error:.1f} points; {near} "
            "of the trials lie within it of the best, which was picked as the highest and is optimistic for that."
        )
    if space.seeds == 1 and SEED not in space.ranges:
        yield "- One seed each. `seeds: 5` in the space trains every point at five and ranks their mean."


def _trend(field: Field) -> str:
    return "-" if field.trend is None else f"{field.trend:+.2f}"


def _mean(level: Level, space: Space) -> str:
    mean = _number(level.mean, space)
    return mean if level.spread is None else f"{mean} +- {_number(level.spread, space)}"


def _number(value: float, space: Space) -> str:
    return percent(value) if "accuracy" in space.metric else f"{value:.4g}"

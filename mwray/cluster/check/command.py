"""`python launch/cluster_check.py FILE ...`: every mistake with its line, and the cost at full size."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mwray.cluster.check import cost, kuberay
from mwray.cluster.check.document import ClusterFileError, Mistake, load
from mwray.cluster.check.rules import RULES, filled_in, secrets, written_once
from mwray.cluster.check.schema import prepare


@dataclass(frozen=True)
class Finding:
    """What there is to say about a file."""

    mistakes: tuple[Mistake, ...]
    """By line."""
    cost: tuple[str, ...]
    """Lines of text; empty where the file is too wrong to count."""


def check(path: Path) -> Finding:
    """Look at a cluster file without starting, paying for or connecting to anything.

    Raises:
        ClusterFileError: it cannot be read at all.
    """
    documents = load(path)
    found = [
        mistake for document in documents for rule in (filled_in, written_once, secrets) for mistake in rule(document)
    ]
    if kuberay.is_manifest(documents):
        return _finding([*found, *kuberay.check(documents)], kuberay.describe(documents))
    if len(documents) > 1:
        raise ClusterFileError(f"{path}: holds {len(documents)} YAML documents; `ray up` reads one")
    opinion = prepare(documents[0])
    told = {mistake.line for mistake in opinion.refused}  # a rule that misses what is refused there adds nothing
    own = [mistake for rule in RULES for mistake in rule(opinion.document, opinion.config)]
    own = [mistake for mistake in own if mistake.line not in told]
    bill = [] if opinion.refused else cost.describe(opinion.config)
    return _finding([*found, *opinion.refused, *own], bill)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check files; returns 0 if all are sound, 2 if any is not."""
    parser = argparse.ArgumentParser(prog="cluster_check", description="Check cluster files; nothing is started.")
    parser.add_argument("files", nargs="*", default=["cluster.yaml"], metavar="FILE", help="default: cluster.yaml")
    counts = [_show(Path(name)) for name in parser.parse_args(arguments).files]
    return 2 if any(counts) else 0


def _show(path: Path) -> int:
    """Print what there is to say about one file; returns the number of mistakes."""
    try:
        finding = check(path)
    except ClusterFileError as error:
        print(error, file=sys.stderr)
        return 1
    for mistake in finding.mistakes:
        print(f"{path}:{mistake}", file=sys.stderr)
    number = len(finding.mistakes)
    print(f"{path}: {f'{number} mistake' + 's' * (number > 1) if number else 'no mistakes'}")
    for line in finding.cost:
        print(f"  {line}")
    return number


def _finding(mistakes: Sequence[Mistake], bill: Sequence[str]) -> Finding:
    return Finding(tuple(sorted(mistakes)), tuple(bill))

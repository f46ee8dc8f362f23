"""Every command of ours that a document names is one that the program takes: options, recipes, spaces, fields."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from mwray.cli import _parser
from mwray.config import assign
from mwray.recipes import recipe
from mwray.space import load

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "search_spaces").glob("*.yaml")),
]
COMMAND = re.compile(
    r"(?:launch/(train|tune|compare|tables|report|transfer)\.py|(?:python -m )?\bmwray (?=[a-z]+ ))(.*)"
)
VERBS = ("train", "tune", "compare", "tables", "report", "transfer", "fetch", "predict", "recipes")


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command, the verb first; synopses (with brackets, or K for a number) are left out."""
    for found in COMMAND.finditer(text.replace("\\\n", " ")):
        line = re.split(r"`|\s#|\s{4,}", f"{found[1] or ''} {found[2]}".strip())[0].rstrip(".,:;)")
        for quote in "'\"":
            if line.count(quote) % 2:  # the end of what the command is an argument of
                line = line.rpartition(quote)[0]
        words = [word for word in shlex.split(line) if word != "--"]
        if words[0] in VERBS and "[" not in line and words[-1] != "K":
            yield words


GIVEN = [(path, words) for path in DOCUMENTS for words in commands(path.read_text())]


def test_there_are_some_of_every_verb():
    assert {words[0] for _, words in GIVEN} == set(VERBS) and len(GIVEN) > 50


@pytest.mark.parametrize(("path", "words"), GIVEN, ids=lambda it: it.name if isinstance(it, Path) else " ".join(it))
def test_a_command_in_a_document_is_taken(path, words, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    try:
        options = _parser().parse_args(words)
    except SystemExit:
        pytest.fail(capsys.readouterr().err)
    if words[0] == "train" and options.source is None:
        assign(recipe(options.recipe or "digits"), options.set)
    elif words[0] == "tune" and options.status is None:
        load(Path(options.space), options.set, options.seeds)
    elif words[0] == "compare":
        assert all(recipe(name) for name in options.recipes)

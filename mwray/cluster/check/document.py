"""A YAML file that knows the line of each of its values, so that a mistake can be told with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from mwray.errors import UserError

Place = tuple[str | int, ...]
"""Where a value is: ("provider", "worker_ips", 0)."""
MERGE, TEXT = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:str"
"""What YAML calls the key `<<`, and a text."""


class ClusterFileError(UserError, ValueError):
    """A cluster file that cannot be read at all: names the file, the line and what is wrong."""


@dataclass(frozen=True, order=True)
class Mistake:
    """Something that would fail, cost too much or leave a door open."""

    line: int
    where: str
    text: str

    def __str__(self) -> str:
        """As a compiler says it, without the file's name."""
        return f"{self.line}: {self.where}: {self.text}" if self.where else f"{self.line}: {self.text}"


@dataclass(frozen=True)
class Document:
    """One YAML document of a file."""

    path: Path
    data: Mapping[str, Any]
    lines: Mapping[Place, int]
    """Line of each key and list item, from 1; () is the document's first."""
    twice: tuple[Place, ...] = field(default=())
    """Keys that occur more than once in one mapping: YAML takes the last one and says nothing."""

    def mistake(self, place: Place, text: str) -> Mistake:
        """A mistake at `place`, or at the nearest value above it that the file has."""
        while place not in self.lines:
            place = place[:-1]
        return Mistake(self.lines[place], ".".join(str(part) for part in place), text)

    def get(self, *place: str | int) -> Any:
        """The value at `place`, or None."""
        value: Any = self.data
        for part in place:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def scalars(self) -> Iterator[tuple[Place, Any]]:
        """Every value that is neither a mapping nor a list, with its place, from top to bottom."""
        yield from _scalars((), self.data)


def load(path: Path) -> list[Document]:
    """Read all documents of a YAML file.

    Raises:
        ClusterFileError: there is no such file, it is no YAML, or a document is not a mapping.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise ClusterFileError(f"{path}: {error.strerror}; give a cluster file, for example cluster.yaml") from None
    except UnicodeDecodeError:
        raise ClusterFileError(f"{path}: is not text; give a cluster file, for example cluster.yaml") from None
    try:
        documents = list(_documents(path, text))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ClusterFileError(f"{path}:{line}: not readable as YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ClusterFileError(f"{path}: not readable as YAML: {error}") from None
    if not documents:
        raise ClusterFileError(f"{path}: is empty; give a cluster file, for example cluster.yaml")
    return documents


def _documents(path: Path, text: str) -> Iterator[Document]:
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None  # check_node said so
            if not isinstance(node, yaml.MappingNode):
                raise ClusterFileError(f"{path}:{node.start_mark.line + 1}: has to be a mapping of settings")
            lines: dict[Place, int] = {(): node.start_mark.line + 1}
            twice: list[Place] = []
            _walk(node, (), lines, twice)
            yield Document(path, loader.construct_document(node), lines, tuple(twice))
    finally:
        loader.dispose()


def _walk(
    node: yaml.Node, place: Place, lines: dict[Place, int], twice: list[Place], above: tuple[yaml.Node, ...] = ()
) -> None:
    """Note the line of everything below `node`; what comes in through an alias is where its anchor is."""
    if any(node is other for other in above):
        raise ConstructorError(None, None, "an alias stands within what it stands for", node.start_mark)
    above = (*above, node)
    if isinstance(node, yaml.MappingNode):
        merged = [value for key, value in node.value if key.tag == MERGE]
        for key, value in node.value:
            if key.tag == MERGE:
                continue
            if key.tag != TEXT:  # neither Ray's schema nor JSON has such keys
                raise ConstructorError(None, None, "this key is no text: put it into quotes", key.start_mark)
            below = (*place, key.value)
            if below in lines:
                twice.append(below)
            lines[below] = key.start_mark.line + 1
            _walk(value, below, lines, twice, above)
        for value in merged:
            _merge(value, place, lines, above)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*place, index)] = item.start_mark.line + 1
            _walk(item, (*place, index), lines, twice, above)


def _merge(node: yaml.Node, place: Place, lines: dict[Place, int], above: tuple[yaml.Node, ...]) -> None:
    """The same for `<<`: what a mapping has itself counts, and of several that are merged the first."""
    for part in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        merged: dict[Place, int] = {}
        _walk(part, place, merged, [], above)
        own = {below for below in lines if len(below) == len(place) + 1 and below[:-1] == place}
        lines.update({below: line for below, line in merged.items() if below[: len(place) + 1] not in own})


def _scalars(place: Place, value: Any) -> Iterator[tuple[Place, Any]]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _scalars((*place, str(key)), below)
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _scalars((*place, index), below)
    else:
        yield place, value

"""A cluster file as it was meant, and what is left of it without what Ray refuses: for our own rules to look at."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterable
from typing import Any

import jsonschema  # type: ignore[import-untyped]

from mwray.cluster.check.document import Document, Place

Errors = Callable[[Any], Iterable[jsonschema.ValidationError]]
"""What a schema has against some data."""


def meant(document: Document, errors: Errors) -> Document:
    """The file with settings whose names are nearly known under those names: what is below them is looked at too."""
    data, lines = copy.deepcopy(dict(document.data)), dict(document.lines)
    while any(_renamed(lines, error) for error in errors(data)):
        pass
    return Document(document.path, data, lines, document.twice)


def sound(document: Document, errors: Errors) -> Document:
    """The part of a file in which every value has the form that the schema asks for."""
    data = copy.deepcopy(dict(document.data))
    # One by one: where a value is gone, others may be wrong for its absence, or right.
    while any(_without(data, error) for error in errors(data)):
        pass
    return Document(document.path, data, document.lines, document.twice)


def unknown(error: jsonschema.ValidationError) -> list[str]:
    """The settings that a schema does not know, if that is what it says."""
    if error.validator != "additionalProperties" or not isinstance(error.instance, dict):
        return []
    return [name for name in error.instance if name not in known(error)]


def known(error: jsonschema.ValidationError) -> list[str]:
    """The settings that a schema knows at the place of an error."""
    return list(error.schema.get("properties", {}))


def _renamed(lines: dict[Place, int], error: jsonschema.ValidationError) -> bool:
    """Give one setting the name that it was meant to have; False where there is none to give."""
    for name in unknown(error):
        near = next(iter(difflib.get_close_matches(str(name), known(error), 1, 0.6)), None)
        if near is not None and near not in error.instance:
            error.instance[near] = error.instance.pop(name)
            old, new = (*error.absolute_path, str(name)), (*error.absolute_path, near)
            below = {place: line for place, line in lines.items() if place[: len(old)] == old}
            lines.update({(*new, *place[len(old) :]): line for place, line in below.items()})
            return True
    return False


def _without(data: dict[str, Any], error: jsonschema.ValidationError) -> bool:
    """Take away what an error is about; False where that is the whole file, which lacks something."""
    place: Place = tuple(error.absolute_path)
    if names := unknown(error):
        for name in names:
            del error.instance[name]
    elif place:
        _drop(data, place)
    return bool(names or place)


def _drop(data: Any, place: Place) -> None:
    """Take away the value at `place`; in a list an empty one stays there, so that the others keep their places."""
    above, last = data, place[-1]
    for part in place[:-1]:
        above = above[part]
    if not isinstance(above, list):
        del above[last]
    elif above[int(last)] != "":
        above[int(last)] = ""
    else:
        _drop(data, place[:-1])

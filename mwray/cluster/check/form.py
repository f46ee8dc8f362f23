"""The form that a provider's API asks of a value, and what is wrong with a value of another form."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mwray.cluster.check.document import Document, Mistake, Place

TEXT = "text"
WHOLE = "a whole number"
DIGITS = "a whole number, with or without quotes"
TEXT_OR_WHOLE = "text or a whole number"
NUMBER = "a number"
TRUTH = "true or false"
LIST = "a list"
SETTINGS = "a mapping of settings"
ANYTHING = "anything"

_FITS: Mapping[str, Callable[[Any], bool]] = {
    TEXT: lambda value: isinstance(value, str),
    WHOLE: lambda value: type(value) is int,  # True is an int, too
    DIGITS: lambda value: type(value) is int or (isinstance(value, str) and value.lstrip("-").isdecimal()),
    TEXT_OR_WHOLE: lambda value: isinstance(value, str) or type(value) is int,
    NUMBER: lambda value: type(value) in (int, float),
    TRUTH: lambda value: isinstance(value, bool),
    LIST: lambda value: isinstance(value, list),
    SETTINGS: lambda value: isinstance(value, Mapping),
    ANYTHING: lambda value: True,
}


@dataclass(frozen=True)
class Form:
    """What a value has to be."""

    kind: str
    """TEXT, WHOLE, ..., in the words in which it is told."""
    choices: tuple[str, ...] = ()
    """The only texts that are taken; (): any."""
    members: Callable[[], Mapping[str, Form]] = dict
    """The settings that a mapping may have; none: it may have any. Asked for only where a file has something there."""
    each: Callable[[], Form] | None = None
    """Of a list's items, or of the values of a mapping that may have any setting."""
    needed: tuple[str, ...] = ()
    """Settings that a mapping has to have."""
    or_list: bool = False
    """A mapping may also stand alone in a list."""


@dataclass(frozen=True)
class Api:
    """A provider's own description of what it takes."""

    name: str
    """With its version: what it does not know may be newer."""
    machine: Form
    """Of `node_config`, with what Ray adds to it and takes from it."""


def compare(document: Document, place: Place, value: Any, form: Form, api: str) -> Iterator[Mistake]:
    """Everything that is wrong with the form of the value at `place` of a file, at any depth."""
    if form.or_list and isinstance(value, list):
        for index, item in enumerate(value):
            yield from compare(document, (*place, index), item, form, api)
    elif form.choices and value is not None and value not in form.choices:
        near = _near(str(value), form.choices)
        known = f"{_short(value)} is none of the values that {api} takes here: {', '.join(form.choices)}."
        yield document.mistake(place, known + _ask(near))
    elif not _FITS[form.kind](value):
        yield document.mistake(place, f"has to be {form.kind}, {_instead(value, form)}")
    elif isinstance(value, Mapping):
        yield from _settings(document, place, value, form, api)
    elif isinstance(value, list) and form.each is not None:
        for index, item in enumerate(value):
            yield from compare(document, (*place, index), item, form.each(), api)


def _settings(document: Document, place: Place, value: Mapping[str, Any], form: Form, api: str) -> Iterator[Mistake]:
    members = form.members()
    for name, below in value.items():
        where = (*place, name)
        known = members.get(name) if members else form.each and form.each()
        if known is not None:
            yield from compare(document, where, below, known, api)
        elif members:
            meant = _meant(name, members)
            yield document.mistake(where, f"{api} knows no such setting.{_ask(meant)}")
            nearly = members.get(meant)
            if nearly is not None and meant not in value and _FITS[nearly.kind](below):
                yield from compare(document, where, below, nearly, api)
    for name in form.needed:
        if name not in value and not _near(name, value):  # else it is told there
            yield document.mistake(place, f"{name} is missing")


def _meant(name: str, members: Mapping[str, Form]) -> str:
    """The setting of this name one step further down, where it may belong, or the one with the nearest name here."""
    below = (f"{outer}.{name}" for outer, form in members.items() if name in form.members())
    return next(below, "") or _near(name, members)


def _near(name: str, known: Iterable[str]) -> str:
    """The nearest of some names, or ""; `spot` is SPOT."""
    folded = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(name.casefold(), folded, 1, 0.6)
    return folded[close[0]] if close else ""


def _ask(name: str) -> str:
    return f" Did you mean {name!r}?" if name else ""


def _instead(value: Any, form: Form) -> str:
    """How a message goes on that says what a value has to be."""
    if value is None:
        return "and is empty: give one or leave the setting out"
    if isinstance(value, Mapping | list):
        return f"not {SETTINGS if isinstance(value, Mapping) else LIST}"
    quotes = ", as YAML reads it: put it into quotes" if form.kind == TEXT else ""
    return f"not {_short(value)}{quotes}"


def _short(value: Any, length: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]} ..."

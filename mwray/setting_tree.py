"""Trees of setting classes: what their fields are marked with, and which fields there are by dotted name.

`mwray.config` reads and overrides settings by it, and its users import the marks from there.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

later = "added later"
"""Marks a field that is younger than runs which somebody keeps: `Annotated[bool, later] = False`. At its default it is
neither stored nor in the fingerprint, so that their folders keep their names and they go on."""


@dataclasses.dataclass(frozen=True)
class Chooses:
    """Marks a field that decides which others mean something: `Annotated[Literal["a", "b"], Chooses("x", "y")]`.

    Overriding it by another value puts those back to their defaults, unless they are overridden as well.
    """

    fields: tuple[str, ...]

    def __init__(self, *fields: str) -> None:
        object.__setattr__(self, "fields", fields)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """The annotations of `cls` with their marks: to evaluate them takes longer than all else here."""
    return get_type_hints(cls, include_extras=True)


def leave_out(settings: Any, plain: dict[str, Any]) -> None:
    """Take out of `plain`, which is `settings` as plain data, what is marked `later` and at its default."""
    cls: type = type(settings)
    hints = _hints(cls)
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if later in _marks(hints[field.name]) and value == field.default:
            del plain[field.name]
        elif dataclasses.is_dataclass(value):
            leave_out(value, plain[field.name])


def _marks(annotation: Any) -> Sequence[Any]:
    return annotation.__metadata__ if get_origin(annotation) is Annotated else ()


def _section(cls: type, data: Mapping[str, Any], path: Sequence[str]) -> tuple[type | None, Any]:
    """The settings class at `path` in `data`, and its part of the data; None where there is no such section."""
    owner, here = cls, data
    for part in path:
        hint = _hints(owner).get(part)
        here = here.get(part, {})
        if hint is None or not isinstance(here, Mapping):
            return None, here
        members = members_of(hint)
        named = [member for member in members if tag_of(member) == here.get("name")]
        if not members or (len(members) > 1 and not named):
            return None, here
        owner = named[0] if named else members[0]
    return owner, here


def chosen_by(cls: type, data: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The fields beside `name` (dotted) that it is marked to choose."""
    *path, last = name.split(".")
    owner, _ = _section(cls, data, path)
    hint = _hints(owner).get(last) if owner else None
    return next((mark.fields for mark in _marks(hint) if isinstance(mark, Chooses)), ())


def takes_text(cls: type, data: Mapping[str, Any], name: str, text: str) -> bool:
    """Whether `text` is one of the words that the field `name` (dotted) takes: data.bias.noise has a "none"."""
    *path, last = name.split(".")
    owner, _ = _section(cls, data, path)
    hint = _hints(owner).get(last) if owner else None
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return get_origin(hint) is Literal and text in get_args(hint)


def reset(cls: type, data: Mapping[str, Any], name: str, value: Any) -> None:
    """Put what `name` chooses back to its defaults, if it is about to become another one."""
    *path, last = name.split(".")
    if not (chosen := chosen_by(cls, data, name)):
        return
    owner, here = _section(cls, data, path)
    if here.get(last) != value and owner is not None:
        here |= {field.name: field.default for field in dataclasses.fields(owner) if field.name in chosen}


def members_of(annotation: Any) -> list[type]:
    """The setting classes that a field may hold: one, or the members of a union."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    options = tuple(get_args(option)[0] if get_origin(option) is Annotated else option for option in options)
    return [option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option)]


def names_below(cls: type, prefix: str) -> Iterator[str]:
    """Every dotted name that can be set under `cls`, which lies at `prefix`; some more than once."""
    hints = _hints(cls)
    for field in dataclasses.fields(cls):
        members = members_of(hints[field.name])
        if not members:
            yield f"{prefix}{field.name}"
        for member in members:
            yield from names_below(member, f"{prefix}{field.name}.")


def dotted(cls: type, location: tuple[int | str, ...]) -> tuple[str, type | None]:
    """The dotted name of an error's location, without union tags, and the class that owns its last part."""
    parts: list[str] = []
    options: list[type] = [cls]
    owner: type | None = cls
    for part in location:
        tagged_options = [option for option in options if tag_of(option) == part]
        if len(options) > 1 and tagged_options:
            options = tagged_options
            continue
        owner = options[0] if options else None
        parts.append(str(part))
        hints = _hints(owner) if owner else {}
        options = members_of(hints[part]) if part in hints else []
    return ".".join(parts), owner


def having(cls: type, name: str) -> list[str]:
    """Tags of the members of a tagged union that have the field `name` (dotted)."""
    options = [cls]
    *path, last = name.split(".")
    for part in path:
        hints = [_hints(option) for option in options]
        options = [member for hint in hints if part in hint for member in members_of(hint[part])]
    found = [tag_of(option) for option in options if any(field.name == last for field in dataclasses.fields(option))]
    return [tag for tag in found if tag is not None]


def tag_of(cls: type) -> str | None:
    """What `name` says in a member of a tagged union; None of another class."""
    hint = _hints(cls).get("name")
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return get_args(hint)[0] if get_origin(hint) is Literal else None

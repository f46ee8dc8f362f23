"""Settings: frozen dataclasses that are read strictly, overridden by dotted name and fingerprinted.

Each setting class sits beside the class that it configures and is marked with `@config`. An experiment is a tree of
them, so every field has one dotted name ("data.bias.rate"), which is the name on the command line, in a search space,
in a record and in a report. Only this file imports pydantic.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar, dataclass_transform

import pydantic

from mwray.errors import UserError
from mwray.setting_tree import Chooses as Chooses
from mwray.setting_tree import chosen_by, dotted, having, leave_out, names_below, reset, tag_of, takes_text
from mwray.setting_tree import later as later

T = TypeVar("T")
_adapters: dict[type, pydantic.TypeAdapter[Any]] = {}

tagged = pydantic.Discriminator("name")
"""Marks a union of setting classes that are told apart by their field `name`: `Annotated[A | B, tagged]`."""


tag = pydantic.Tag
"""Marks a member of a union that `tagged_or` tells apart: `Annotated[A, tag("a")]`."""


def tagged_or(oldest: str) -> Any:
    """As `tagged`, for a section that had one member once: where it was stored without a `name`, `oldest` is meant."""

    def name_of(given: Any) -> Any:
        return given.get("name", oldest) if isinstance(given, dict) else getattr(given, "name", oldest)

    return pydantic.Discriminator(name_of)


class ConfigError(UserError, ValueError):
    """A setting that cannot be used: names the field, what was given, and what would do."""


def checked(check: Callable[[str], Any]) -> Any:
    """Marks a field of text whose form `check` tells, by raising ValueError: `Annotated[str, checked(parse_shape)]`."""

    def same(text: str) -> str:
        check(text)
        return text

    return pydantic.AfterValidator(same)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def config(cls: type[T]) -> type[T]:
    """Turn a class body of annotated fields into frozen, keyword-only, strictly read settings."""
    cls.__pydantic_config__ = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


def read(cls: type[T], data: Mapping[str, Any]) -> T:
    """Build `cls` from nested plain data (as JSON gives it).

    Raises ConfigError naming the dotted field for an unknown name, a wrong type or an impossible value; all
    mistakes are listed, one per line.
    """
    try:
        text = json.dumps(data)
    except TypeError as error:
        raise ConfigError(f"{cls.__name__} holds a value that JSON cannot write: {error}") from error
    try:
        return _adapter(cls).validate_json(text)
    except pydantic.ValidationError as error:
        raise ConfigError("\n".join(_explain(cls, data, mistake) for mistake in error.errors())) from None


def to_dict(settings: Any) -> dict[str, Any]:
    """Nested plain data that `read` turns back into equal settings (tuples become lists, as in JSON).

    Fields that are marked `later` are there where they are not at their defaults.
    """
    plain = _whole(settings)
    leave_out(settings, plain)
    return plain


def leaves(settings: Any) -> dict[str, Any]:
    """Every field of a tree of settings by its dotted name, in order of declaration."""
    return dict(_leaves(_whole(settings), ""))


def override(settings: T, values: Mapping[str, Any]) -> T:
    """Return `settings` with the fields named in `values` (dotted names) replaced, read strictly again.

    Setting the `name` of a tagged union ("method.name") to another member starts that member from its own defaults, and
    a field marked `Chooses` those that it names.

    Raises:
        ConfigError: unknown name (with the nearest valid one), wrong type or impossible value.
    """
    data, cls = _whole(settings), type(settings)
    ordered = sorted(values, key=lambda name: (not name.endswith("name"), name.count(".")))
    members = [name for name in ordered if name.endswith("name")]
    for name in members:
        _assign(data, name, values[name])
    rest = [name for name in ordered if name not in members]
    for name in sorted(rest, key=lambda name: not chosen_by(cls, data, name)):  # a choice before what it chooses
        reset(cls, data, name, values[name])
        _assign(data, name, values[name])
    return read(cls, data)


def parse(settings: Any, assignment: str) -> tuple[str, Any]:
    """Split "a.b=c" as typed on a command line; the value is JSON where it can be, else text.

    A field whose value is text in `settings` keeps the text as typed ("1-100-1", but also "5").

    Raises:
        ConfigError: there is no "=".
    """
    name, equals, text = (part.strip() for part in assignment.partition("="))
    if not equals or not name:
        raise ConfigError(f"{assignment!r} is not of the form field=value, for example seed=1")
    if text.lower() in ("none", "null") and not takes_text(type(settings), _whole(settings), name, text):
        return name, None
    if isinstance(leaves(settings).get(name), str):
        return name, text
    try:
        return name, json.loads(text)
    except json.JSONDecodeError:
        lowered = text.lower()
        return name, {"true": True, "false": False}.get(lowered, text)


def assign(settings: T, assignments: Iterable[str]) -> T:
    """Return `settings` with all "a.b=c" as typed: read together, for some are possible only beside one another.

    Raises:
        ConfigError: as `parse` and `override`.
    """
    values: dict[str, Any] = {}
    known = settings
    for assignment in assignments:
        name, value = parse(known, assignment)
        values[name] = value
        with suppress(ConfigError):  # the rest may make it possible; else it is refused below
            known = override(settings, values)
    return override(settings, values)


def refuse_chosen(names: Iterable[str], chosen: Mapping[str, str]) -> None:
    """Refuse what something else chooses for each training: one value for all would put it under others' names.

    Raises:
        ConfigError: one of `names` is, or lies in, a field of `chosen`, which maps it to what chooses it.
    """
    for name in names:
        for field, by in chosen.items():
            if name == field or name.startswith(f"{field}."):
                raise ConfigError(f"--set {name}: {by} chooses it for each training here; use that instead")


def fingerprint(settings: Any) -> str:
    """Twelve hexadecimal digits that are equal for equal settings and differ otherwise (SHA-256 of sorted JSON)."""
    return fingerprint_of(to_dict(settings))


def fingerprint_of(data: Mapping[str, Any]) -> str:
    """The fingerprint of settings that were stored as plain data, maybe by a version that had fewer fields."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def nearest(name: str, known: Iterator[str] | list[str]) -> str:
    """Return " Did you mean 'x'?" for the known name nearest to `name`, or "" where none is near."""
    known = list(known)
    by_last = {k.rsplit(".", 1)[-1]: k for k in known}
    close = difflib.get_close_matches(name, known, 1, 0.6)
    if not close:
        close = [by_last[m] for m in difflib.get_close_matches(name.rsplit(".", 1)[-1], by_last, 1, 0.6)]
    return f" Did you mean {close[0]!r}?" if close else ""


def names(cls: type) -> list[str]:
    """Every dotted name that can be set somewhere under `cls`, over all members of tagged unions."""
    return list(dict.fromkeys(names_below(cls, "")))


# ---------------------------------------------------------------------------------------------------------------------


def _adapter(cls: type[T]) -> pydantic.TypeAdapter[T]:
    """Building one takes a hundred times what using it takes, so each class keeps its own."""
    if cls not in _adapters:
        _adapters[cls] = pydantic.TypeAdapter(cls)
    return _adapters[cls]


def _leaves(data: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _whole(settings: Any) -> dict[str, Any]:
    """Nested plain data with every field."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings)))
    return plain


def _assign(data: dict[str, Any], name: str, value: Any) -> None:
    *path, last = name.split(".")
    here = data
    for part in path:
        if not isinstance(here.get(part), dict):
            here[part] = {}  # unknown, or an optional section: the strict reader decides
        here = here[part]
    if last == "name" and path and here.get("name") != value:
        here.clear()
    here[last] = value


def _explain(cls: type, data: Mapping[str, Any], mistake: Any) -> str:
    name, owner = dotted(cls, mistake["loc"])
    if mistake["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        prefix = name.rsplit(".", 1)[0] + "." if "." in name else ""
        siblings = [prefix + field.name for field in dataclasses.fields(owner)] if owner else []
        if owner and (others := having(cls, name)):  # not misspelt: another method's own, say
            return f"{name}: {tag_of(owner)!r} has no such field; it belongs to {', '.join(map(repr, others))}."
        hint = nearest(name, siblings) or nearest(name, names(cls))
        known = f" Known here: {', '.join(sorted(siblings))}." if siblings and not hint else ""
        return f"{name}: there is no such field.{hint}{known}"
    if mistake["type"] in ("union_tag_invalid", "union_tag_not_found"):
        expected = mistake.get("ctx", {}).get("expected_tags", "")
        given = mistake.get("ctx", {}).get("tag")
        hint = nearest(str(given), [tag.strip("' ") for tag in expected.split(",")])
        return f"{name}.name: {given!r} is not one of {expected}.{hint}"
    message = mistake["msg"].removeprefix("Value error, ")
    where = name or cls.__name__
    if mistake["type"] == "value_error":  # raised by a class's own check, which names its fields
        return f"{name}: {message}" if name else message
    if mistake["type"] == "missing":
        return f"{where}: a value is needed."
    return f"{where}: {mistake['input']!r} was given. {message}."

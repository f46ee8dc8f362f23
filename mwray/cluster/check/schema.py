"""Ray's own opinion of a cluster file: its JSON schema, and what `ray up` checks before it does anything."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import ray.autoscaler
from ray.autoscaler._private.util import prepare_config, validate_config

from mwray.cluster.check.document import Document, Mistake, Place
from mwray.cluster.check.sound import known, meant, sound, unknown
from mwray.config import nearest


@dataclass(frozen=True)
class Opinion:
    """What Ray makes of a cluster file."""

    refused: tuple[Mistake, ...]
    """What Ray would not take."""
    document: Document
    """The file; where something is refused, what is left without it."""
    config: Mapping[str, Any]
    """The whole configuration with Ray's defaults; without them where Ray does not get that far."""


def prepare(document: Document) -> Opinion:
    """Check against Ray's schema, then fill in Ray's defaults as `ray up` does."""
    whole = meant(document, _schema_errors)
    part = sound(whole, _schema_errors)
    misnamed = [mistake for error in _schema_errors(document.data) for mistake in _unknown(document, error)]
    refused = [mistake for error in _schema_errors(whole.data) for mistake in _located(whole, error)]
    refused = list(dict.fromkeys([*misnamed, *refused]))
    # Where a whole setting is gone, what Ray says of the rest may be about nothing but its absence.
    lost = {key for key in whole.data if key in _schema()["properties"] and key not in part.data}
    config = dict(part.data)
    try:
        with _quiet():
            config = prepare_config(copy.deepcopy(config))
            validate_config(config)
    except jsonschema.ValidationError as error:
        refused += [] if lost or refused else _located(part, error)
    except Exception as error:  # Ray raises ValueError, NotImplementedError, AssertionError, ClickException, ...
        refused += [] if lost else [part.mistake(_guess(part, str(error)), str(error))]
    return Opinion(tuple(refused), part, config)


@functools.cache
def _schema() -> dict[str, Any]:
    return dict(json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text()))


def _schema_errors(data: Any) -> list[jsonschema.ValidationError]:
    return list(jsonschema.Draft7Validator(_schema()).iter_errors(data))


def _located(document: Document, error: jsonschema.ValidationError) -> Iterator[Mistake]:
    """One mistake for each setting that the error is about."""
    if unknown(error):
        yield from _unknown(document, error)
    else:
        yield document.mistake(tuple(error.absolute_path), _short(error.message))


def _unknown(document: Document, error: jsonschema.ValidationError) -> Iterator[Mistake]:
    for name in unknown(error):
        place: Place = (*error.absolute_path, name)
        yield document.mistake(place, f"Ray knows no such setting.{nearest(str(name), known(error))}")


def _short(message: str, length: int = 200) -> str:
    return message if len(message) <= length else f"{message[:length]} ..."


def _guess(document: Document, message: str) -> Place:
    """The top-level setting that a message of Ray's names, or where the provider is chosen."""
    named = [key for key in re.findall(r"`(\w+)`", message) if key in document.data]
    return (named[0],) if named else ("provider",)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ray prints what it fills in and what it dislikes; we say it ourselves."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)

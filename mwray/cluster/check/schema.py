"""Ray's own opinion of a cluster file: its JSON schema, and what `ray up` checks before it does anything."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import ray.autoscaler
from ray.autoscaler._private.util import prepare_config, validate_config

from mwray.cluster.check.document import Document, Mistake, Place
from mwray.config import nearest


def prepare(document: Document) -> tuple[list[Mistake], dict[str, Any] | None]:
    """Check against Ray's schema, then fill in Ray's defaults as `ray up` does.

    Returns:
        What Ray would refuse, and the whole configuration with all defaults (None where Ray refuses).
    """
    mistakes = [mistake for error in _schema_errors(document.data) for mistake in _located(document, error)]
    if mistakes:
        return mistakes, None
    try:
        with _quiet():
            prepared: dict[str, Any] = prepare_config(copy.deepcopy(dict(document.data)))
            validate_config(prepared)
    except jsonschema.ValidationError as error:
        return list(_located(document, error)), None
    except Exception as error:  # Ray raises ValueError, NotImplementedError, AssertionError, ClickException, ...
        return [document.mistake(_guess(document, str(error)), str(error))], None
    return [], prepared


def _schema_errors(data: Any) -> Iterator[jsonschema.ValidationError]:
    path = Path(ray.autoscaler.__file__).parent / "ray-schema.json"
    yield from jsonschema.Draft7Validator(json.loads(path.read_text())).iter_errors(data)


def _located(document: Document, error: jsonschema.ValidationError) -> Iterator[Mistake]:
    """One mistake for each setting that the error is about."""
    place: Place = tuple(error.absolute_path)
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = list(error.schema.get("properties", {}))
        for name in error.instance:
            if name not in known:
                yield document.mistake((*place, name), f"Ray knows no such setting.{nearest(str(name), known)}")
    else:
        yield document.mistake(place, _short(error.message))


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

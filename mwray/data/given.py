"""Data of one's own that lie in this process's memory: `data.source=given:...`, known by their content."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from mwray.config import ConfigError
from mwray.data.own import OwnData, OwnFeatures

GIVEN = "given:"
_held: dict[str, tuple[OwnData | OwnFeatures, int]] = {}


@contextmanager
def given(data: OwnData | OwnFeatures) -> Iterator[str]:
    """The name by which `data`, as `mwray.data.own.checked` gives them, are a source for the length of a `with`.

    The name depends on nothing but what they hold: a training that was stopped goes on where the same arrays are given
    again, in another process too, and other arrays are another experiment.
    """
    name = GIVEN + _fingerprint(data)
    _held[name] = (data, _held[name][1] + 1 if name in _held else 1)
    try:
        yield name
    finally:
        users = _held[name][1] - 1
        if users:
            _held[name] = (data, users)
        else:
            del _held[name]


def read(name: str) -> OwnData | OwnFeatures:
    """The data of `name`.

    Raises:
        ConfigError: they are not, or no longer, in this process's memory.
    """
    if name not in _held:
        raise ConfigError(
            f"data.source: {name!r} names arrays that another process, or an earlier call, had in its memory. Give the "
            "same arrays to the same call (mwray.Classifier's fit) again; predictions need none of them"
        )
    return _held[name][0]


def _fingerprint(data: OwnData | OwnFeatures) -> str:
    digest = hashlib.sha256(type(data).__name__.encode())
    for field in dataclasses.fields(data):
        value: Any = getattr(data, field.name)
        if isinstance(value, np.ndarray):
            digest.update(f"{field.name} {value.dtype} {value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data)
        else:
            digest.update(f"{field.name} {value!r}".encode())
    return digest.hexdigest()[:16]

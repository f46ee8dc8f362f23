"""Functions and classes of the user's own, named by import path: networks and data."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from mwray.config import ConfigError


def imported(field: str, name: str) -> Callable[..., Any]:
    """The function or class that `name`, "package.module:function", stands for; `field` is the setting that has it.

    Raises:
        ConfigError: the module cannot be imported on this machine, or has nothing callable of that name.
    """
    module_name, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute, None)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{field}: {module_name!r} of {name!r} cannot be imported ({error}). Install it, or put its folder on "
            "PYTHONPATH."
        ) from error
    if not callable(found):
        raise ConfigError(f"{field}: {module_name!r} has no function or class {attribute!r}, which {name!r} names")
    return found

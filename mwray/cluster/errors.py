"""What an error that Ray raises comes to, in a line."""

from __future__ import annotations

import re

from ray.exceptions import RayActorError, RayTaskError
from ray.train import ControllerError, WorkerGroupError

_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def in_a_line(error: BaseException) -> str:
    """Kind and first line of an error; of one that only says where another was raised, those of the other."""
    while (cause := _cause(error)) is not None:
        error = cause
    lines = [line for line in _ESCAPE.sub("", str(error)).splitlines() if line.strip()] or [""]
    # An actor that could not be made has the traceback in its text, and what was raised last.
    line = lines[-1] if isinstance(error, RayActorError) and error.actor_init_failed else lines[0]
    return f"{type(error).__name__}: {line.strip()}"


def _cause(error: BaseException) -> BaseException | None:
    """What a heading of Ray's or Ray Train's stands for: the names of a task and its process say little to a user."""
    if isinstance(error, RayTaskError):
        return error.cause
    if isinstance(error, ControllerError):
        return error.controller_failure
    if isinstance(error, WorkerGroupError):
        return next(iter(error.worker_failures.values()), None)
    return None

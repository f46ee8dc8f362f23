"""Networks that misbehave, named by import path in the tests of a search."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from torch import nn

MARK = "MWRAY_TEST_MARK"


def plain(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """The smallest that learns anything."""
    channels, height, width = shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, num_classes))


def fails(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Raise, as code of a user's own may."""
    raise LookupError(f"no weights for {num_classes} classes")


def dies_always(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Take the process down each time: a network that needs more memory than there is."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("dead by now")


def dies_once(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Take the process down the first time, as the kernel does when memory runs out."""
    mark = Path(os.environ[MARK])
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(num_classes, shape)

"""Networks that misbehave, named by import path in the tests of a search."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from torch import Tensor, nn

MARK = "MWRAY_TEST_MARK"


def plain(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """The smallest that learns anything."""
    channels, height, width = shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, num_classes))


class Pause(nn.Module):
    """Hand the input on after a while."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.02)
        return x


def slow(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Take time, and next to no work, however many cores there are: some 0.3 s an epoch of digits."""
    return nn.Sequential(Pause(), plain(num_classes, shape))


def fails(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Raise, as code of a user's own may."""
    raise LookupError(f"no weights for {num_classes} classes")


def dies_always(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Take the process down each time: a network that needs more memory than there is."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("dead by now")


class Dies(nn.Module):
    """Hand the input on; take the process down at the thirtieth step, the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        if self.steps == 30:
            _die_the_first_time()
        return x


def dies_later(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Take the process down after some epochs of digits."""
    return nn.Sequential(Dies(), plain(num_classes, shape))


def dies_once(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Take the process down the first time, as the kernel does when memory runs out."""
    _die_the_first_time()
    return plain(num_classes, shape)


def _die_the_first_time() -> None:
    mark = Path(os.environ[MARK])
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)

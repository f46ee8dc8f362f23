"""How a training is carried out on this machine: switches that change its speed and its rounding, and nothing else.

They are no settings of the experiment, as little as the device is: the same run may go on on another machine, and its
folder and fingerprint must not depend on what that machine is best at. What was chosen is kept in `environment.json`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch

from mwray.config import ConfigError, config, parse, read

VARIABLE = "MWRAY_EXECUTION"
Switch = Literal["auto", "on", "off"]


@config
class Execution:
    """Switches of one process; "auto" is what has been found best for the device."""

    graph: Switch = "auto"
    """Capture the whole iteration in a CUDA graph and replay it. "auto": where the device and the method allow it;
    "on": refuse to train where they do not. The numbers are those of the eager path."""
    channels_last: Switch = "auto"
    """Images and weights with channels innermost in memory. "auto": on; convolutions want it so on GPUs, and
    oneDNN's on a CPU take a fifth less time for it (RESULTS.md)."""

    @classmethod
    def from_environment(cls) -> Execution:
        """Read `MWRAY_EXECUTION`, for example "graph=off,channels_last=on"; empty or missing: all "auto".

        An environment variable reaches the processes that Ray starts as well.

        Raises:
            ConfigError: it names no switch, or gives one an impossible value.
        """
        text = os.environ.get(VARIABLE, "")
        try:
            return read(cls, dict(parse(cls(), part) for part in text.split(",") if part.strip()))
        except ConfigError as error:
            raise ConfigError(f"{VARIABLE}={text!r}: {error}") from None

    def layout(self, shape: Sequence[int]) -> torch.memory_format:
        """How images of `shape` and weights lie in memory; feature vectors, of shape (D,), have no channels."""
        return torch.contiguous_format if self.channels_last == "off" or len(shape) == 1 else torch.channels_last


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Multiply in `name` while training, and leave the caller's choice as it was."""
    convolution: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    matmul: Any = torch.backends.cuda.matmul
    before = convolution.fp32_precision, matmul.fp32_precision
    convolution.fp32_precision = matmul.fp32_precision = "tf32" if name == "tf32" else "ieee"
    try:
        yield
    finally:
        convolution.fp32_precision, matmul.fp32_precision = before


def random_state_of_caller(device: torch.device) -> AbstractContextManager[None]:
    """Keep the caller's global generators as they are: dropout and initial weights draw from them here."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])

"""Where a process computes that Ray has started. Neither Ray nor the training is imported here."""

from __future__ import annotations

import socket

import torch

from mwray.worker import DeviceError


def device_of(gpus: float) -> str:
    """The device of a process that was given so many GPUs: Ray shows it no others.

    Raises:
        DeviceError: it was given one, and PyTorch has none.
    """
    if gpus and not torch.cuda.is_available():
        raise DeviceError(
            f"{socket.gethostname()} gave {gpus:g} GPU, and PyTorch {torch.__version__} sees none there: a "
            "build for CPUs, or a driver that is too old? --gpus-per-trial 0 (of train: --gpus 0) trains on CPUs"
        )
    return "cuda" if gpus else "cpu"

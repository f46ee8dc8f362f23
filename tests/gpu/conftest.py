"""Repeatable kernels: with them a captured run must give the bits of an eager one."""

from __future__ import annotations

import os

import pytest
import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts


@pytest.fixture(autouse=True)
def _repeatable():
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield
    torch.backends.cudnn.deterministic = before

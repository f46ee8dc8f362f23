"""Process groups over gloo on this machine, without Ray."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
from torch import multiprocessing

from mwray.process_group import ProcessGroupWorker


def processes(size: int, work: Callable[..., None], *arguments: Any) -> None:
    """Run `work(worker, *arguments)` in each of `size` new processes that form a group; raises what one raised."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_start, (size, port, work, arguments), size)


def _start(rank: int, size: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    worker = ProcessGroupWorker("cpu")
    try:
        work(worker, *arguments)
    finally:
        worker.close()

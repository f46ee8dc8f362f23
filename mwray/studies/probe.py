"""Timing a step of plain training on random images, so that a study can say beforehand how long it may take."""

from __future__ import annotations

import time

import torch
from torch.nn import functional as F

from mwray.data.sizes import CLASSES, SHAPES
from mwray.models.registry import build
from mwray.models.settings import Model

ENOUGH = 0.2
"""Seconds: a step that takes this long is scaled to the batch, not timed at a larger one."""


def seconds_per_image(kind: tuple[str, str], batch_size: int) -> float:
    """Seconds per image of one forward, backward and SGD step, with one thread, or on the GPU if there is one.

    Args:
        kind: data set and network.
        batch_size: timed at 2 images, then 16, then this many, until a step takes 0.2 s.
    """
    source, network = kind
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            model = build(Model(name=network), CLASSES[source], SHAPES[source]).to(device)
            optimizer = torch.optim.SGD(model.parameters(), 1e-3)
            for size in (2, 16, batch_size):
                x = torch.rand(size, *SHAPES[source], device=device)
                y = torch.zeros(size, dtype=torch.long, device=device)
                seconds = min(_step(model, optimizer, x, y) for _ in range(3))
                if seconds > ENOUGH:
                    break
            return seconds / size
    finally:
        torch.set_num_threads(threads)


def _step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> float:
    started = time.perf_counter()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - started

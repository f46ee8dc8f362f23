"""Gradients that are exchanged while the backward pass still runs: measured here, used by nothing else.

Buckets fill from the last layer to the first, as in PyTorch's own data parallelism (Li et al., VLDB 2020, section
3.2), and each is sent when it is full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mwray.process_group import ProcessGroupWorker

BUCKET = 2**20
"""Bytes: PyTorch's first bucket. Its later ones of 25 MiB would hold all of a ResNet-32 ten times over."""


class Bucket:
    """A few neighbouring parameters' gradients, sent when all are there."""

    def __init__(self, places: list[int]) -> None:
        self.places = places
        self.gradients: dict[int, Tensor] = {}
        self.flat: Tensor | None = None
        self.work: Any = None

    def put(self, place: int, gradient: Tensor) -> None:
        """Take a gradient; the last one sends the bucket."""
        self.gradients[place] = gradient
        if len(self.gradients) == len(self.places):
            self.flat = torch.cat([self.gradients[p].reshape(-1) for p in self.places])
            self.work = dist.all_reduce(self.flat, async_op=True)


def overlapped_gradients(loss: Tensor, parameters: Sequence[Tensor], worker: ProcessGroupWorker) -> list[Tensor]:
    """The gradient of `loss` [] by each parameter, averaged over workers while it is being computed."""
    if worker.size == 1:
        return list(torch.autograd.grad(loss, parameters))
    buckets = _buckets(parameters)
    home = {place: bucket for bucket in buckets for place in bucket.places}
    handles = [
        parameter.register_hook(lambda gradient, place=place: home[place].put(place, gradient))
        for place, parameter in enumerate(parameters)
    ]
    try:
        gradients = list(torch.autograd.grad(loss, parameters))
    finally:
        for handle in handles:
            handle.remove()
    for bucket in buckets:
        bucket.work.wait()
        assert bucket.flat is not None
        parts = bucket.flat.div_(worker.size).split([parameters[p].numel() for p in bucket.places])
        for place, part in zip(bucket.places, parts, strict=True):
            gradients[place] = part.view_as(parameters[place])
    return gradients


def _buckets(parameters: Sequence[Tensor]) -> list[Bucket]:
    places: list[list[int]] = [[]]
    held = 0
    for place in reversed(range(len(parameters))):
        if held > BUCKET:
            places.append([])
            held = 0
        places[-1].append(place)
        held += parameters[place].numel() * parameters[place].element_size()
    return [Bucket(group) for group in places if group]

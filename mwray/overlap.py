"""Gradients that travel to the other workers while the backward pass still computes the rest of them.

Buckets fill from the last parameter to the first, as in PyTorch's own data parallelism (Li et al., VLDB 2020, section
3.2): that is about the order in which a backward pass comes by. They are sent in that order whatever comes first, so
that all workers send the same, and parameters that the loss does not reach send zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

BUCKET = 2**20
"""Bytes: PyTorch's first bucket. Its later ones of 25 MiB would hold all of a ResNet-32 ten times over."""

Send = Callable[[Tensor], Any]
"""Begins to sum a flat buffer over all workers, in place, and returns what `wait()` ends it."""


class Bucket:
    """The gradients of a few neighbouring parameters, in one buffer."""

    def __init__(self, places: Sequence[int], parameters: Sequence[Tensor]) -> None:
        self.places, self.parameters = places, [parameters[place] for place in places]
        self.gradients: dict[int, Tensor] = {}
        self.flat = torch.empty(0)
        self.work: Any = None

    @property
    def full(self) -> bool:
        """Whether every gradient is there."""
        return len(self.gradients) == len(self.places)

    def send(self, send: Send) -> None:
        """Send what is there, and zeros for what is not."""
        parts = [
            self.gradients[place] if place in self.gradients else torch.zeros_like(parameter)
            for place, parameter in zip(self.places, self.parameters, strict=True)
        ]
        self.flat = torch.cat([part.detach().reshape(-1) for part in parts])
        self.gradients.clear()
        self.work = send(self.flat)

    def means(self, workers: int) -> list[Tensor]:
        """The mean gradients, shaped like the parameters, once all have been summed."""
        parts = self.flat.div_(workers).split([parameter.numel() for parameter in self.parameters])
        return [part.view(parameter.shape) for part, parameter in zip(parts, self.parameters, strict=True)]


class Overlapped:
    """One backward pass whose gradients are sent bucket by bucket."""

    def __init__(self, parameters: Sequence[Tensor], send: Send) -> None:
        self.buckets = buckets(parameters)
        self._send = send
        self._next = 0
        self._home = {place: bucket for bucket in self.buckets for place in bucket.places}

    def put(self, place: int, gradient: Tensor) -> None:
        """Take a gradient; send every bucket whose turn it is."""
        self._home[place].gradients[place] = gradient
        while self._next < len(self.buckets) and self.buckets[self._next].full:
            self._send_next()

    def rest(self) -> None:
        """The backward pass is over: send what waits for gradients that will not come."""
        while self._next < len(self.buckets):
            self._send_next()

    def _send_next(self) -> None:
        self.buckets[self._next].send(self._send)
        self._next += 1


def buckets(parameters: Sequence[Tensor]) -> list[Bucket]:
    """Neighbours of one type of number, from the last to the first, until a bucket holds `BUCKET` bytes."""
    places: list[list[int]] = []
    held = 0
    for place in reversed(range(len(parameters))):
        parameter = parameters[place]
        if not places or held >= BUCKET or parameters[places[-1][-1]].dtype != parameter.dtype:
            places.append([])
            held = 0
        places[-1].append(place)
        held += parameter.numel() * parameter.element_size()
    return [Bucket(group, parameters) for group in places]


def backward(
    outputs: Tensor, parameters: Sequence[Tensor], weights: Tensor | None, retain_graph: bool, sent: Overlapped
) -> None:
    """Pull `outputs` back to `parameters`, weighted by `weights`, and hand each gradient to `sent` as it comes."""
    handles = [
        parameter.register_hook(lambda gradient, place=place: sent.put(place, gradient))
        for place, parameter in enumerate(parameters)
    ]
    try:
        torch.autograd.grad(outputs, list(parameters), weights, retain_graph=retain_graph, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    sent.rest()

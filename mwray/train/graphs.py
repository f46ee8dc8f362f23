"""Replays an iteration instead of queueing it anew: one CUDA graph for each kind of iteration.

A small network's step is some thousand short kernels, and queueing them from Python takes longer than they take to
run. A graph queues them all at once. It is recorded (captured) while the iteration runs once in Python without
computing; each replay then computes on the same memory. So what differs between iterations must lie in tensors that
stay where they are: inputs are copied into buffers, learning rates are tensors, and state is changed in place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger("mwray")

WARM_UP = 3
"""Iterations of a kind that run eagerly before it is captured: libraries choose their algorithms, optimisers make their
state. They are real iterations of the training."""

Work = Callable[..., None]
"""Device work on tensors: everything that it gives lies in tensors that exist before it."""
Capture = Callable[[Callable[[], None]], Callable[[], object]]
"""Runs a function once without computing, and returns what computes it from then on."""


class CaptureError(RuntimeError):
    """The iteration does something that no graph can hold; says what."""


@dataclass
class _Kind:
    """One kind of iteration: how often it has run, and its graph with its input buffers once there is one."""

    runs: int = 0
    buffers: Sequence[Tensor] = ()
    replay: Callable[[], object] | None = None


class Graphs:
    """Runs kinds of iterations, each eagerly at first and from its captured graph later; the numbers are the same.

    Args:
        capture: makes a graph; `CudaCapture` on a GPU.
        warm_up: eager iterations of each kind before it is captured.
        strict: whether an iteration that cannot be captured is an error; otherwise it goes on eagerly, with a warning.
    """

    def __init__(self, capture: Capture, warm_up: int = WARM_UP, strict: bool = False) -> None:
        self._capture, self._warm_up, self._strict = capture, warm_up, strict
        self._kinds: dict[Hashable, _Kind] = {}
        self._state: Callable[[], Any] = lambda: None
        self._places: Any = None  # of the state when the last graph was captured
        self.captures = 0
        self.replays = 0
        self.refused = False

    def settle(self, state: Callable[[], Any]) -> None:
        """Drop the graphs of memory that was left: `state()` gives the tensors (in nested dicts and lists) as they lie.

        To be called when state may have been replaced: at each epoch's start, where phases change and checkpoints have
        been loaded.
        """
        self._state = state
        if self._places is not None and _places(state()) != self._places:
            self._kinds.clear()
            self._places = None

    def run(self, key: Hashable, work: Work, inputs: Sequence[Tensor]) -> bool:
        """Do `work(*inputs)`; returns whether a graph was replayed without running `work` in Python.

        Args:
            key: equal for iterations that do the same device work in the same memory.
            work: the iteration.
            inputs: small tensors that differ from iteration to iteration; their shapes are part of the key.
        """
        kind = self._kinds.setdefault((key, *(_form(tensor) for tensor in inputs)), _Kind())
        if kind.replay is not None:
            self._feed(kind, inputs)
            kind.replay()
            self.replays += 1
            return True
        kind.runs += 1
        if self.refused or kind.runs <= self._warm_up:
            work(*inputs)
            return False
        kind.buffers = [tensor.clone() for tensor in inputs]
        try:
            kind.replay = self._capture(lambda: work(*kind.buffers))
        except Exception as error:
            self._refuse(error)
            work(*inputs)
            return False
        self.captures += 1
        self._places = _places(self._state())
        kind.replay()
        return False

    def _feed(self, kind: _Kind, inputs: Sequence[Tensor]) -> None:
        for buffer, tensor in zip(kind.buffers, inputs, strict=True):
            buffer.copy_(tensor)

    def _refuse(self, error: Exception) -> None:
        said = str(error).splitlines() or [repr(error)]
        reason = f"the iteration cannot be captured in a CUDA graph: {said[0]}"
        if self._strict:
            raise CaptureError(reason) from error
        self.refused = True
        logger.warning("%s. It goes on eagerly, with the same numbers.", reason)


class CudaCapture:
    """Captures on a stream of its own, each graph with memory of its own.

    Graphs could share their memory, as they never run at the same time; but PyTorch gives a pool up with the last of
    its graphs, and a change of phase drops them all.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __call__(self, work: Callable[[], None]) -> Callable[[], object]:
        """Capture `work`; the device's default generator takes part, so that dropout draws anew in each replay."""
        with torch.cuda.device(self._device):
            graph = torch.cuda.CUDAGraph()
            # Other threads (Ray, TensorBoard) may call CUDA meanwhile: only this one must not wait for the device.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                work()
        return graph.replay


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.dtype


def _places(state: Any) -> Any:
    """Where each tensor of nested `state` lies."""
    if isinstance(state, Tensor):
        return state.data_ptr(), tuple(state.shape)
    if isinstance(state, dict):
        return tuple((key, _places(value)) for key, value in state.items())
    if isinstance(state, list | tuple):
        return tuple(_places(value) for value in state)
    return None

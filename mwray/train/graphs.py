"""Replays an iteration instead of queueing it anew: one CUDA graph for each kind of iteration.

A small network's step is some thousand short kernels, and queueing them from Python takes longer than they take to
run. A graph queues them all at once. It is recorded (captured) while the iteration runs once in Python without
computing; each replay then computes on the same memory. So what differs between iterations must lie in tensors that
stay where they are: inputs are copied into buffers, learning rates are tensors, and state is changed in place.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

logger = logging.getLogger("mwray")

WARM_UP = 3
"""Iterations of a kind that run eagerly before it is captured: libraries choose their algorithms, optimisers make their
state. They are real iterations of the training."""

Work = Callable[..., None]
"""Device work on tensors: everything that it gives lies in tensors that exist before it."""


class Capture(Protocol):
    """Makes graphs."""

    def __call__(self, work: Callable[[], None]) -> Callable[[], object]:
        """Run `work` once without computing, and return what computes it from then on."""

    def renew(self) -> None:
        """Take note that all graphs made so far are gone."""


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
            self.drop()

    def drop(self) -> None:
        """Let go of all graphs, and of the memory that they share: at once, for one may hold what another needs."""
        self._kinds.clear()
        self._places = None
        self._capture.renew()

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
        if kind.replay is None:  # only here, where no traceback holds the memory of the capture any more
            work(*inputs)
            return False
        self.captures += 1
        self._places = _places(self._state())
        kind.replay()
        return False

    def _feed(self, kind: _Kind, inputs: Sequence[Tensor]) -> None:
        for buffer, tensor in zip(kind.buffers, inputs, strict=True):
            buffer.copy_(tensor)

    def _refuse(self, error: BaseException) -> None:
        while isinstance(error.__context__, Exception):  # the first one: what follows it is the capture's own end
            error = error.__context__
        said = str(error).splitlines() or [repr(error)]
        reason = f"the iteration cannot be captured in a CUDA graph: {said[0]}"
        if self._strict:
            raise CaptureError(reason) from error
        self.refused = True
        logger.warning("%s. It goes on eagerly, with the same numbers.", reason)


class CudaCapture:
    """Captures on a stream of its own; the graphs of one training share their memory.

    They may, since they never run at the same time and hand each other nothing: what an iteration gives lies in tensors
    that were there before. PyTorch gives shared memory up with the last of its graphs, so `renew` follows their end.
    The stream is not PyTorch's common one, by which the death of one training's graphs would take cuBLAS's workspace
    from another's (2.14).
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self.renew()

    def renew(self) -> None:
        """Take new memory for the graphs to come."""
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], None]) -> Callable[[], object]:
        """Capture `work`; the device's default generator takes part, so that dropout draws anew in each replay."""
        gc.collect()  # the graphs of a training that is over must not die inside a capture
        with torch.cuda.device(self._device):
            before, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
            # Other threads (Ray, TensorBoard) may call CUDA meanwhile: only this one must not wait for the device.
            capture = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
            try:
                with capture:
                    work()
            except BaseException:
                _leave_capture(before)
                raise
        return graph.replay


def _leave_capture(stream: torch.cuda.Stream) -> None:
    """Put back what PyTorch leaves as it is where a capture fails: the stream, and (2.11) a generator in capture."""
    torch.cuda.set_stream(stream)
    generator = torch.cuda.default_generators[stream.device.index]
    with suppress(RuntimeError):
        generator.graphsafe_set_state(generator.clone_state())


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

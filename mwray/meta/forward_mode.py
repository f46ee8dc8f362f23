"""Tangent of any module by forward-mode automatic differentiation: the whole forward once more, with dual numbers.

Costs three forwards where `mwray.meta.tangent.Linearized` costs two, and asks nothing of the module but that each of
its operations has a forward derivative in PyTorch. Where a model computes something under `no_grad`, forward mode
differentiates it all the same; reverse mode and `Linearized` do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from mwray.meta.rules import dual_level


class Replay:
    """The surroundings of a forward - buffers and random states before it - so that it can be run again as it was."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self._model, self._x = model, x.detach()
        self._random = _random_states(x.device)
        # A buffer that the forward moves and reads (spectral norm's) must start there again. Batch norm's running
        # statistics are either moved or read, never both, and there are many of them.
        kept = [(name, module) for name, module in model.named_modules() if not isinstance(module, _BatchNorm)]
        self._buffers = {
            f"{prefix}.{name}" if prefix else name: buffer.detach().clone()
            for prefix, module in kept
            for name, buffer in module.named_buffers(recurse=False)
        }

    def tangent(self, direction: Mapping[str, Tensor]) -> Tensor | None:
        """Derivative of the forward along `direction` (by parameter name); None if it is zero."""
        if self._x.is_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("forward-mode AD sets the random generators back, which a CUDA graph cannot do")
        with self._surroundings(), torch.no_grad(), dual_level():
            state = self._state()
            for name, parameter in self._model.named_parameters():
                primal = parameter.detach().clone()  # which the forward may write to
                state[name] = forward_ad.make_dual(primal, direction[name]) if name in direction else primal
            outputs = torch.func.functional_call(self._model, state, (self._x,))
            return forward_ad.unpack_dual(outputs).tangent

    def outputs(self) -> Tensor:
        """The forward once more, attached to the parameters, of operations that can be differentiated twice."""
        with self._surroundings(), torch.enable_grad():
            return single_tensor(self._model, torch.func.functional_call(self._model, self._state(), (self._x,)))

    def _state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        return state | {name: buffer.clone() for name, buffer in self._buffers.items() if name in state}

    @contextmanager
    def _surroundings(self) -> Iterator[None]:
        """The random numbers of the recorded forward (dropout masks), and only operations with forward derivatives."""
        after = _random_states(self._x.device)
        fast = torch.backends.mha.get_fastpath_enabled()
        with ExitStack() as stack:
            # torch.compile drops tangents without a word (PyTorch issue 187284): the dual pass must be eager.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            try:
                torch.backends.mha.set_fastpath_enabled(False)
                _set_random_states(self._x.device, self._random)
                yield
            finally:
                _set_random_states(self._x.device, after)
                torch.backends.mha.set_fastpath_enabled(fast)


class Whole:
    """A forward of which no operation was noted down.

    Attributes:
        outputs: model(x), attached to the graph of the model's parameters; buffers moved once, as by any forward.
        written: names of the parameters that the forward has written to.
    """

    def __init__(self, model: nn.Module, forward: Callable[[], Tensor]) -> None:
        self._model, self._parameters = model, dict(model.named_parameters())
        before = versions(self._parameters)
        self.outputs = forward()
        # From here on: a forward may constrain its weights in place.
        self._versions = versions(self._parameters)
        self.written = changed(before, self._versions)

    def set_aside(self) -> AbstractContextManager[AbstractContextManager[object]]:
        """Nothing is known of what the forward made: it all stays."""
        return nullcontext(nullcontext())

    def _check(self, direction: Mapping[str, Tensor]) -> None:
        check_direction(self._model, self._parameters, direction)
        check_unchanged(self._parameters, self._versions)


class ForwardMode(Whole):
    """A recorded forward of `model` on `x` whose tangent runs the model again on dual numbers.

    Raises:
        ValueError: the model returns something else than one tensor.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self._replay = Replay(model, x)
        # Fused attention kernels draw dropout masks that the replay could not draw again.
        with sdpa_kernel(SDPBackend.MATH):
            super().__init__(model, lambda: single_tensor(model, model(x.detach())))

    def tangent(self, direction: Mapping[str, Tensor]) -> Tensor:
        """Derivative of `outputs` by eps at w + eps * direction, eps = 0; same shape as `outputs`, no graph.

        Args:
            direction: by the model's parameter names, each shaped like its parameter; a missing name means zero.

        Raises:
            ValueError: a name that the model does not have, or a wrong shape.
            RuntimeError: the parameters have been changed since the forward.
        """
        self._check(direction)
        tangent = self._replay.tangent(direction)
        return torch.zeros_like(self.outputs) if tangent is None else tangent.clone()


def single_tensor(model: nn.Module, outputs: object) -> Tensor:
    """Return `outputs` if it is one tensor; ValueError otherwise, naming the model's class."""
    if not isinstance(outputs, Tensor):
        raise ValueError(
            f"{type(model).__name__} returns {type(outputs).__name__}; it must return one tensor, "
            "for example the logits: wrap it in a module that does"
        )
    return outputs


def check_direction(model: nn.Module, parameters: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> None:
    """Refuse, with ValueError, a direction with unknown names or wrong shapes."""
    for name, value in direction.items():
        if name not in parameters:
            raise ValueError(
                f"direction has {name!r}, which is no parameter of {type(model).__name__}; "
                "names are those of model.named_parameters(), a tied parameter has its first name only"
            )
        if value.shape != parameters[name].shape:
            raise ValueError(
                f"direction[{name!r}] has shape {tuple(value.shape)}; its parameter has {tuple(parameters[name].shape)}"
            )


def versions(parameters: Mapping[str, Tensor]) -> dict[str, int]:
    """How often each has been written to."""
    return {name: parameter._version for name, parameter in parameters.items()}


def changed(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """Names whose versions differ."""
    return [name for name, version in after.items() if before[name] != version]


def check_unchanged(parameters: Mapping[str, Tensor], before: Mapping[str, int]) -> None:
    """Refuse, with RuntimeError, parameters that have other versions now than they had."""
    if changed(before, versions(parameters)):
        raise RuntimeError("the parameters were changed after the forward: take the tangent before the optimiser steps")


def _random_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return states
    return [*states, torch.cuda.get_rng_state(device)]


def _set_random_states(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)

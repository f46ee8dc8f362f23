"""Tangent of any module by forward-mode automatic differentiation: the whole forward once more, with dual numbers.

Costs three forwards where `mwray.meta.linearized` costs two, and asks nothing of the module but that each of its
operations has a forward derivative in PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


class ForwardMode:
    """A recorded forward of `model` on `x` whose tangent runs the model again on dual numbers.

    Attributes:
        outputs: model(x), attached to the graph of the model's parameters; buffers moved once, as by any forward.

    Raises:
        ValueError: the model returns something else than one tensor.
    """

    outputs: Tensor

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self._model, self._x = model, x.detach()
        self._random = _random_states(x.device)
        # From before the forward: a buffer that the forward moves and reads (spectral norm) must start there again.
        self._buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        self.outputs = single_tensor(model, model(x))

    def tangent(self, direction: Mapping[str, Tensor]) -> Tensor:
        """Derivative of `outputs` by eps at w + eps * direction, eps = 0; same shape as `outputs`, no graph.

        Args:
            direction: by the model's parameter names, each shaped like its parameter; a missing name means zero.

        Raises:
            ValueError: a name that the model does not have, or a wrong shape.
        """
        check_direction(self._model, direction)
        # torch.compile drops tangents without a word (PyTorch issue 187284): the dual pass must be eager.
        with torch.no_grad(), self._replayed(), torch.compiler.set_stance("force_eager"), forward_ad.dual_level():
            state: dict[str, Tensor] = {name: buffer.clone() for name, buffer in self._buffers.items()}
            for name, parameter in self._model.named_parameters():
                primal = parameter.detach()
                state[name] = forward_ad.make_dual(primal, direction[name]) if name in direction else primal
            outputs = torch.func.functional_call(self._model, state, (self._x,))
            tangent = forward_ad.unpack_dual(outputs).tangent
            return torch.zeros_like(self.outputs) if tangent is None else tangent.clone()

    @contextmanager
    def _replayed(self) -> Iterator[None]:
        """Draw the recorded forward's random numbers again (dropout masks), then go on as if nothing was drawn."""
        after = _random_states(self._x.device)
        _set_random_states(self._x.device, self._random)
        try:
            yield
        finally:
            _set_random_states(self._x.device, after)


def single_tensor(model: nn.Module, outputs: object) -> Tensor:
    """Return `outputs` if it is one tensor; ValueError otherwise, naming the model's class."""
    if not isinstance(outputs, Tensor):
        raise ValueError(
            f"{type(model).__name__} returns {type(outputs).__name__}; it must return one tensor, "
            "for example the logits: wrap it in a module that does"
        )
    return outputs


def check_direction(model: nn.Module, direction: Mapping[str, Tensor]) -> None:
    """Refuse, with ValueError, a direction with unknown names or wrong shapes."""
    known = dict(model.named_parameters())
    for name, value in direction.items():
        if name not in known:
            raise ValueError(
                f"direction has {name!r}, which is no parameter of {type(model).__name__}; "
                "names are those of model.named_parameters(), a tied parameter has its first name only"
            )
        if value.shape != known[name].shape:
            raise ValueError(
                f"direction[{name!r}] has shape {tuple(value.shape)}; its parameter has {tuple(known[name].shape)}"
            )


def _random_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random_states(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)

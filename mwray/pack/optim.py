"""Optimisers of K trials as one: settings per trial, all parameters in one vector, each step a handful of operations.

Their arithmetic is that of torch.optim.SGD, Adam and AdamW, element by element; the state goes to and from such ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Rows = Callable[[int, Sequence[Tensor]], list[Tensor]]
"""(k, tensors shaped like the stacked parameters) to the parts that are trial k's, as its own parameters lie."""


def whole_rows(row: int, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The `Rows` of parameters that are stacked as they are."""
    return [tensor[row] for tensor in tensors]


class Flat:
    """Parameters [K, ...] laid one behind the other in one vector, of which they become views."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.size = len(self.parameters[0])
        self.values = torch.cat([p.detach().reshape(-1) for p in self.parameters])
        for parameter, view in zip(self.parameters, self.views(self.values), strict=True):
            parameter.data = view

    def views(self, vector: Tensor) -> list[Tensor]:
        """`vector` cut into pieces shaped like the parameters."""
        parts = vector.split([p.numel() for p in self.parameters])
        return [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]

    def gradient(self) -> Tensor:
        """The parameters' `.grad` as one vector."""
        return torch.cat([_gradient(p).reshape(-1) for p in self.parameters])

    def spread(self, vector: Tensor, values: Sequence[float]) -> None:
        """Put values[k] wherever `vector` belongs to trial k."""
        for row, value in enumerate(values):
            for view in self.views(vector):
                view[row] = value


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


class _Stacked(ABC):
    """What both optimisers share: settings and state of K trials in vectors, and which elements may move."""

    SETTINGS: tuple[str, ...]
    """Of an optimiser's parameter group, of each trial's own."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        optimizers: Sequence[torch.optim.Optimizer],
        rows: Rows = whole_rows,
        masks: Sequence[Tensor] | None = None,
    ) -> None:
        """Take over settings and state of `optimizers`, one for each trial.

        Args:
            parameters: [K, ...] each; they become views of one vector.
            optimizers: torch.optim's own over trial k's own parameters, in one group, alike in all but `SETTINGS`.
            rows: where each trial's parameters lie in the stacked ones.
            masks: 1 where a trial has a parameter; None: everywhere.
        """
        self.flat = Flat(parameters)
        self._rows = rows
        self._own = None if masks is None else torch.cat([mask.reshape(-1) for mask in masks]).bool()
        self._moves = self._own
        self.settings = {name: torch.zeros_like(self.flat.values) for name in self.SETTINGS}
        self._begin(parameters, optimizers[0].param_groups[0])
        self.set_rates(optimizers)
        for row, optimizer in enumerate(optimizers):
            for name, vector in self._named().items():
                for place, parameter in zip(rows(row, self.flat.views(vector)), _parameters(optimizer), strict=True):
                    held = optimizer.state.get(parameter, {}).get(name)
                    if held is not None:
                        place.copy_(held)

    @abstractmethod
    def _begin(self, parameters: Sequence[nn.Parameter], group: Mapping[str, Any]) -> None:
        """Become an optimiser over `parameters` with what `group` fixes for all trials, and with zeros for state."""

    @abstractmethod
    def _named(self) -> dict[str, Tensor]:
        """The vectors of state by the names that torch.optim gives them."""

    def set_rates(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Take every trial's present settings from its own optimiser."""
        for name, vector in self.settings.items():
            self.flat.spread(vector, [float(optimizer.param_groups[0][name]) for optimizer in optimizers])

    def select(self, trials: Sequence[bool]) -> None:
        """Let the next steps move these trials only; the others' parameters and state stay."""
        self._moves = self._own
        if not all(trials):
            mask = torch.zeros_like(self.flat.values)
            self.flat.spread(mask, [float(trial) for trial in trials])
            self._moves = mask.bool() if self._own is None else mask.bool() & self._own

    def _put(self, vector: Tensor, values: Tensor) -> None:
        """Overwrite `vector` by `values` where it may move."""
        vector.copy_(values if self._moves is None else torch.where(self._moves, values, vector))


class StackedSGD(_Stacked, torch.optim.SGD):
    """K times torch.optim.SGD; learning rate, momentum and weight decay of each trial's own, nesterov alike in all.

    A momentum buffer that is not there yet is zero, which takes the same first step (dampening is 0).
    """

    SETTINGS = ("lr", "momentum", "weight_decay")

    def _begin(self, parameters: Sequence[nn.Parameter], group: Mapping[str, Any]) -> None:
        torch.optim.SGD.__init__(self, [{"params": [p]} for p in parameters], lr=0.0)
        self.nesterov = bool(group["nesterov"])
        self.buffer = torch.zeros_like(self.flat.values)
        pieces = {name: self.flat.views(vector) for name, vector in self.settings.items()}
        # So that whoever reads an SGD's groups and state, as the look-ahead does, finds each parameter's own.
        for i, (own, buffer) in enumerate(zip(self.param_groups, self.flat.views(self.buffer), strict=True)):
            own.update({name: pieces[name][i] for name in self.SETTINGS}, nesterov=self.nesterov)
            self.state[own["params"][0]] = {"momentum_buffer": buffer}

    def _named(self) -> dict[str, Tensor]:
        return {"momentum_buffer": self.buffer}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of every trial along its parameters' `.grad`."""
        gradient = self.flat.gradient().addcmul_(self.flat.values, self.settings["weight_decay"])
        buffer = gradient.addcmul(self.buffer, self.settings["momentum"])
        self._put(self.buffer, buffer)
        move = gradient.addcmul_(buffer, self.settings["momentum"]) if self.nesterov else buffer
        self._put(self.flat.values, torch.addcmul(self.flat.values, move, self.settings["lr"], value=-1))

    @torch.no_grad()
    def unload(self, row: int, optimizer: torch.optim.Optimizer) -> None:
        """Copy trial `row`'s momentum into `optimizer`, its own."""
        if optimizer.param_groups[0]["momentum"] == 0:
            return
        for place, parameter in zip(self._rows(row, self.flat.views(self.buffer)), _parameters(optimizer), strict=True):
            optimizer.state[parameter]["momentum_buffer"] = _copy(place, parameter)


def stacked(
    parameters: Sequence[nn.Parameter],
    optimizers: Sequence[torch.optim.Optimizer],
    rows: Rows = whole_rows,
    masks: Sequence[Tensor] | None = None,
) -> StackedSGD | StackedAdam:
    """The one that goes with `optimizers`; arguments as for both of them."""
    kind = StackedAdam if isinstance(optimizers[0], torch.optim.Adam) else StackedSGD
    return kind(parameters, optimizers, rows, masks)


class StackedAdam(_Stacked, torch.optim.Adam):
    """K times torch.optim.Adam or AdamW; learning rate and weight decay of each trial's own, all else alike in all."""

    SETTINGS = ("lr", "weight_decay")

    def _begin(self, parameters: Sequence[nn.Parameter], group: Mapping[str, Any]) -> None:
        alike = {name: group[name] for name in ("betas", "eps", "decoupled_weight_decay")}
        torch.optim.Adam.__init__(self, [{"params": [p]} for p in parameters], lr=0.0)
        (self.b1, self.b2), self.eps, self.decoupled = alike.values()
        self.first, self.second, self.steps = (torch.zeros_like(self.flat.values) for _ in range(3))
        settings = {name: self.flat.views(vector) for name, vector in self.settings.items()}
        state = {name: self.flat.views(vector) for name, vector in self._named().items()}
        for i, own in enumerate(self.param_groups):  # as in `StackedSGD`
            own.update({name: pieces[i] for name, pieces in settings.items()}, **alike)
            self.state[own["params"][0]] = {name: pieces[i] for name, pieces in state.items()}

    def _named(self) -> dict[str, Tensor]:
        return {"step": self.steps, "exp_avg": self.first, "exp_avg_sq": self.second}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of every trial along its parameters' `.grad`."""
        values, decay = self.flat.values, self.settings["weight_decay"]
        if self.decoupled:
            gradient, values = self.flat.gradient(), values * (1 - self.settings["lr"] * decay)
        else:
            gradient = self.flat.gradient().addcmul_(values, decay)
        self._put(self.steps, self.steps + 1)
        self._put(self.first, self.first.lerp(gradient, 1 - self.b1))
        self._put(self.second, (self.second * self.b2).addcmul_(gradient, gradient, value=1 - self.b2))
        taken = self.steps.clamp(min=1)  # of what has never moved, for which any number will do
        scale = (self.second.sqrt() / (1 - self.b2**taken).sqrt()).add_(self.eps)
        rate = self.settings["lr"] / (1 - self.b1**taken)
        self._put(self.flat.values, values - rate * (self.first / scale))

    @torch.no_grad()
    def unload(self, row: int, optimizer: torch.optim.Optimizer) -> None:
        """Copy trial `row`'s moments and number of steps into `optimizer`, its own."""
        parts = {name: self._rows(row, self.flat.views(vector)) for name, vector in self._named().items()}
        group = optimizer.param_groups[0]
        for i, parameter in enumerate(_parameters(optimizer)):
            steps = parts["step"][i].reshape(-1)[0].clone().float()
            if not steps:  # an optimiser that has not stepped holds nothing
                continue
            on_device = group.get("capturable") or group.get("fused")
            optimizer.state[parameter] = {
                "step": steps if on_device else steps.cpu(),
                "exp_avg": _copy(parts["exp_avg"][i], parameter),
                "exp_avg_sq": _copy(parts["exp_avg_sq"][i], parameter),
            }


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]


def _copy(place: Tensor, parameter: nn.Parameter) -> Tensor:
    """State in the layout of its parameter, which fused optimisers ask for."""
    return torch.empty_like(parameter, requires_grad=False).copy_(place)

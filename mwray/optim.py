"""The classifier's optimiser and its schedule: one `learning_rate` feeds the real and the virtual step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Lt

from mwray.config import Chooses, config, later, tag, tagged_or

if TYPE_CHECKING:  # settings are checked before anything heavy loads
    import torch
    from torch import nn

    A = TypeVar("A", bound=torch.optim.Adam)

Share = Annotated[float, Ge(0), Lt(1)]

SAYS: Mapping[str, tuple[str, ...]] = {"steps": ("milestones", "factor"), "cosine": ("final",)}
"""Schedules, and the fields that say something in each alone, with which `Optimizer` has them."""


@config
class Optimizer(ABC):
    """What all optimisers have: a learning rate and its schedule, which holds for one epoch at a time.

    A rate for each epoch, and not for each step, is what the records hold, what a resume finds again, and what methods
    of two phases, stacked trials and captured graphs take over at the start of an epoch.
    """

    name: str
    lr: Annotated[float, Gt(0)]
    schedule: Annotated[Literal["steps", "cosine"], later, Chooses("milestones", "factor", "final")] = "steps"
    """steps: times `factor` at each of the `milestones` (none: constant). cosine: half a cosine from `lr` down to
    `final` times `lr` (Loshchilov and Hutter, ICLR 2017, without restarts). Another schedule starts from its own
    defaults, as another optimiser does."""
    milestones: tuple[Annotated[int, Gt(0)], ...] = ()
    """Epochs (counted from 0) from whose start on the rate is multiplied by `factor` once more."""
    factor: Annotated[float, Gt(0)] = 0.1
    final: Annotated[float, Ge(0), Le(1), later] = 0.0
    """Of cosine: the share of `lr` that the epoch after the last one would have."""
    warm_up: Annotated[int, Ge(0), later] = 0
    """First epochs in which the rate rises by equal steps: n of them have 1 / (n + 1), 2 / (n + 1), ... of the rate.
    A cosine begins after them; milestones count from the start of the run."""

    def __post_init__(self) -> None:
        if any(a >= b for a, b in zip(self.milestones, self.milestones[1:], strict=False)):
            raise ValueError(f"milestones must rise, and {list(self.milestones)} do not")
        for schedule, fields in SAYS.items():
            for field in fields:
                value = getattr(self, field)
                if schedule != self.schedule and value != getattr(Optimizer, field):
                    value = list(value) if isinstance(value, tuple) else value
                    raise ValueError(
                        f"{field}={value} says nothing with schedule={self.schedule}; leave it out, or choose "
                        f"schedule={schedule}"
                    )

    def learning_rate(self, epoch: int, epochs: int) -> float:
        """Learning rate during `epoch` (counted from 0) of a run of `epochs`."""
        rise = min((epoch + 1) / (self.warm_up + 1), 1.0)
        if self.schedule == "steps":
            return float(self.lr * self.factor ** sum(epoch >= milestone for milestone in self.milestones)) * rise
        done = max(epoch - self.warm_up, 0) / max(epochs - self.warm_up, 1)
        return self.lr * rise * (self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2)

    def unreached(self, epochs: int) -> str | None:
        """Which milestones lie beyond the last of `epochs`, in a line for a person; None: none of them."""
        missed = [str(milestone) for milestone in self.milestones if milestone >= epochs]
        if not missed:
            return None
        return (
            f"optimizer.milestones: {' and '.join(missed)} {'is' if len(missed) == 1 else 'are'} never reached with "
            f"epochs={epochs}, and the learning rate does not fall there; set both together"
        )

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter], on_device: bool | None = None) -> torch.optim.Optimizer:
        """Return a fresh optimiser over `parameters`: weight decay on all of them, as in the paper's code.

        `on_device` is that of `sgd`.
        """


@config
class SGD(Optimizer):
    """SGD with momentum (paper, section 4: 0.1, momentum 0.9, weight decay 5e-4, divided by 10)."""

    name: Annotated[Literal["sgd"], later] = "sgd"
    lr: Annotated[float, Gt(0)] = 0.1
    momentum: Share = 0.9
    weight_decay: Annotated[float, Ge(0)] = 5e-4
    nesterov: bool = False
    """Released code of the paper switches it on; the paper says "momentum 0.9" only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum > 0")

    def build(self, parameters: Iterable[nn.Parameter], on_device: bool | None = None) -> torch.optim.SGD:
        """torch.optim.SGD."""
        settings = {"momentum": self.momentum, "weight_decay": self.weight_decay, "nesterov": self.nesterov}
        return sgd(parameters, on_device, lr=self.lr, **settings)


@config
class Adam(Optimizer):
    """Adam (Kingma and Ba, ICLR 2015); a weight decay is part of the gradient, as in torch.optim.Adam."""

    name: Literal["adam"] = "adam"
    lr: Annotated[float, Gt(0)] = 1e-3
    weight_decay: Annotated[float, Ge(0)] = 0.0
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay per step of the means of the gradient and of its square."""
    eps: Annotated[float, Gt(0)] = 1e-8

    def build(self, parameters: Iterable[nn.Parameter], on_device: bool | None = None) -> torch.optim.Adam:
        """torch.optim.Adam."""
        settings = {"betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay}
        return adam(parameters, on_device, lr=self.lr, **settings)


@config
class AdamW(Optimizer):
    """Adam whose weight decay shrinks the weights beside the step (Loshchilov and Hutter, ICLR 2019)."""

    name: Literal["adamw"] = "adamw"
    lr: Annotated[float, Gt(0)] = 1e-3
    weight_decay: Annotated[float, Ge(0)] = 0.01
    """Times the learning rate of the epoch, so that it falls with the schedule."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay per step of the means of the gradient and of its square."""
    eps: Annotated[float, Gt(0)] = 1e-8

    def build(self, parameters: Iterable[nn.Parameter], on_device: bool | None = None) -> torch.optim.AdamW:
        """torch.optim.AdamW."""
        settings = {"betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay}
        return adamw(parameters, on_device, lr=self.lr, **settings)


OptimizerSettings = Annotated[
    Annotated[SGD, tag("sgd")] | Annotated[Adam, tag("adam")] | Annotated[AdamW, tag("adamw")], tagged_or("sgd")
]
"""One of them; experiments of before there was a choice have no name, and mean SGD."""


def sgd(parameters: Iterable[nn.Parameter], on_device: bool | None = None, **settings: Any) -> torch.optim.SGD:
    """torch.optim.SGD with `settings` ("lr" among them).

    With `on_device` (None: on a GPU) its learning rate is a tensor beside the parameters, which its fused kernel reads:
    `set_rate` changes it without a word to the host, and a captured graph sees the change.
    """
    import torch

    parameters, extra = _on_device(parameters, on_device, settings)
    return torch.optim.SGD(parameters, **settings | extra)


def adam(parameters: Iterable[nn.Parameter], on_device: bool | None = None, **settings: Any) -> torch.optim.Adam:
    """torch.optim.Adam with `settings` ("lr" among them); `on_device` as for `sgd`, its count of steps included."""
    import torch

    return _adam(torch.optim.Adam, parameters, on_device, settings)


def adamw(parameters: Iterable[nn.Parameter], on_device: bool | None = None, **settings: Any) -> torch.optim.AdamW:
    """torch.optim.AdamW, as `adam`."""
    import torch

    return _adam(torch.optim.AdamW, parameters, on_device, settings)


def _adam(kind: type[A], parameters: Iterable[nn.Parameter], on_device: bool | None, settings: Mapping[str, Any]) -> A:
    parameters, extra = _on_device(parameters, on_device, settings)
    capturable: dict[str, Any] = {"capturable": True} if extra else {}
    optimizer = kind(parameters, **{**settings, **extra, **capturable})
    optimizer._warned_capturable_if_run_uncaptured = True  # the steps before a capture are eager on purpose
    return optimizer


def _on_device(
    parameters: Iterable[nn.Parameter], on_device: bool | None, settings: Mapping[str, Any]
) -> tuple[list[nn.Parameter], dict[str, Any]]:
    import torch

    parameters = list(parameters)
    device = parameters[0].device
    if not (device.type == "cuda" if on_device is None else on_device):
        return parameters, {}
    return parameters, {"lr": torch.tensor(settings["lr"], dtype=torch.float32, device=device), "fused": True}


def set_gradients(parameters: Iterable[nn.Parameter], gradients: Iterable[torch.Tensor]) -> None:
    """Put each gradient in its parameter's `.grad`, in that parameter's layout.

    A gradient comes back from other workers one number behind the other, and some operations give it transposed, while
    convolutions have their channels innermost. Fused optimisers go by addresses: over another layout CUDA's refuses,
    and the CPU's mixes elements up without a word (PyTorch 2.11 and 2.14).
    """
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = as_laid(gradient, parameter)


def as_laid(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """`tensor` in the layout of `parameter`, whose shape it has; itself where it lies so already."""
    import torch

    # A dimension of one element has no layout, and what its stride says would only change a checkpoint's bytes.
    if all(a == b for a, b, size in zip(tensor.stride(), parameter.stride(), parameter.shape, strict=True) if size > 1):
        return tensor
    return torch.empty_like(parameter, requires_grad=False).copy_(tensor)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group: in place where it is a tensor."""
    import torch

    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def rate_of(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate of the first parameter group, as a number of the host."""
    return float(optimizer.param_groups[0]["lr"])


OWN = ("fused", "foreach", "capturable")
"""Choices of an implementation: those of the optimiser that is there, not of the one that was saved."""


def restore(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load what `optimizer.state_dict()` gave, perhaps on another kind of device: how it computes stays as it is."""
    own = [{name: group[name] for name in OWN if name in group} for group in optimizer.param_groups]
    rates = [group["lr"] for group in optimizer.param_groups]
    saved = [dict(group) | mine for group, mine in zip(state["param_groups"], own, strict=True)]
    optimizer.load_state_dict({**state, "param_groups": saved})
    for parameter, held in optimizer.state.items():  # saved in another layout, or by several workers
        for name, value in held.items():
            if getattr(value, "shape", None) == parameter.shape:
                held[name] = as_laid(value, parameter.detach())
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        loaded = float(group["lr"])
        group["lr"] = loaded if isinstance(rate, float) else rate.fill_(loaded)

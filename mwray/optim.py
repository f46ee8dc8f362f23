"""The classifier's optimiser and its schedule: one `learning_rate(epoch)` feeds the real and the virtual step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Lt

from mwray.config import config

if TYPE_CHECKING:  # settings are checked before anything heavy loads
    import torch
    from torch import nn


@config
class Optimizer:
    """SGD with a step schedule by epoch (paper, section 4: 0.1, momentum 0.9, weight decay 5e-4, divided by 10)."""

    lr: Annotated[float, Gt(0)] = 0.1
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    weight_decay: Annotated[float, Ge(0)] = 5e-4
    nesterov: bool = False
    """Released code of the paper switches it on; the paper says "momentum 0.9" only."""
    milestones: tuple[Annotated[int, Gt(0)], ...] = ()
    """Epochs (counted from 0) from whose start on the rate is multiplied by `factor` once more."""
    factor: Annotated[float, Gt(0)] = 0.1

    def __post_init__(self) -> None:
        if any(a >= b for a, b in zip(self.milestones, self.milestones[1:], strict=False)):
            raise ValueError(f"milestones must rise, and {list(self.milestones)} do not")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum > 0")

    def learning_rate(self, epoch: int) -> float:
        """Learning rate during `epoch` (counted from 0)."""
        return float(self.lr * self.factor ** sum(epoch >= milestone for milestone in self.milestones))

    def build(self, parameters: Iterable[nn.Parameter], on_device: bool | None = None) -> torch.optim.SGD:
        """Return a fresh optimiser over `parameters`: weight decay on all of them, as in the paper's code.

        `on_device` is that of `sgd`.
        """
        settings = {"momentum": self.momentum, "weight_decay": self.weight_decay, "nesterov": self.nesterov}
        return sgd(parameters, on_device, lr=self.lr, **settings)


def sgd(parameters: Iterable[nn.Parameter], on_device: bool | None = None, **settings: Any) -> torch.optim.SGD:
    """torch.optim.SGD with `settings` ("lr" among them).

    With `on_device` (None: on a GPU) its learning rate is a tensor beside the parameters, which its fused kernel reads:
    `set_rate` changes it without a word to the host, and a captured graph sees the change.
    """
    from torch.optim import SGD

    parameters, extra = _on_device(parameters, on_device, settings)
    return SGD(parameters, **settings | extra)


def adam(parameters: Iterable[nn.Parameter], on_device: bool | None = None, **settings: Any) -> torch.optim.Adam:
    """torch.optim.Adam with `settings` ("lr" among them); `on_device` as for `sgd`, its count of steps included."""
    from torch.optim import Adam

    parameters, extra = _on_device(parameters, on_device, settings)
    capturable: dict[str, Any] = {"capturable": True} if extra else {}
    optimizer = Adam(parameters, **settings | extra | capturable)
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

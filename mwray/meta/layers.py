"""Which parameters belong to the last stage of a network: those that `layers="top"` aligns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn


def last_stage(model: nn.Module) -> list[str]:
    """Names of the parameters of the model's last stage, in the model's order.

    A model says which modules these are by an attribute `last_stage`, a tuple of their names, as ours do. Of any other,
    the last third (rounded up) of the modules that hold parameters themselves, in their order of registration: that is
    the last stage of a network of three stages with equally many layers each.

    Raises:
        ValueError: `last_stage` names something that the model does not have.
    """
    named = getattr(model, "last_stage", None)
    if named is not None:
        return within(model, named, f"{type(model).__name__}.last_stage")
    holders = [name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))]
    return within(model, holders[-math.ceil(len(holders) / 3) :], "the last stage")


def within(model: nn.Module, modules: Sequence[str], what: str) -> list[str]:
    """Names of the parameters inside the modules of those names; `what` stands for them in the error.

    Raises:
        ValueError: a name that no parameter lies in.
    """
    names = [name for name, _ in model.named_parameters()]
    for module in modules:
        if not any(_inside(name, module) for name in names):
            raise ValueError(f"{what} names {module!r}, and {type(model).__name__} has no module with parameters there")
    return [name for name in names if any(_inside(name, module) for module in modules)]


def _inside(parameter: str, module: str) -> bool:
    return not module or parameter == module or parameter.startswith(module + ".")

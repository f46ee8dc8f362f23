"""An ATen operation as its schema describes it: its arguments, their defaults, and which of them it overwrites."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

RESIZING = frozenset({"resize", "resize_as", "set"})
"""What PyTorch calls a view made in place, although memory may be lost by it."""
OVERLOADS = {"transpose": "int"}
"""Of functional forms, where it is not called as that of the form in place."""


@dataclass(frozen=True)
class Operation:
    """What the schema of an ATen overload says."""

    func: Any
    functional: Any  # the overload that does the same without overwriting; None: there is none
    name: str  # of the functional form
    defaults: dict[str, Any]
    written: list[str]
    in_place: bool
    reshapes: bool = False  # turns its argument into a view of itself: the memory stays as it was

    @property
    def ours(self) -> bool:
        """Whether it is one of this package: PyTorch runs those with gradients off, inside their own autograd node."""
        return bool(self.func.namespace == "mwray")

    def bind(self, args: Any, kwargs: Any) -> dict[str, Any]:
        """All arguments by name, in the schema's order."""
        arguments = dict(self.defaults)
        arguments.update(zip(self.defaults, args, strict=False))
        arguments.update(kwargs)
        return arguments


@cache
def operation_of(func: Any) -> Operation:
    """What is to be known of the overload `func`."""
    schema = func._schema
    name = func.overloadpacket.__name__
    defaults = {a.name: a.default_value if a.has_default_value() else None for a in schema.arguments}
    written = [a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    in_place = name.endswith("_") and written == ["self"]
    if func.namespace != "aten":
        return Operation(func, None if written else func, f"{func.namespace}::{name}", defaults, written, in_place)
    functional = func
    if in_place:
        name = name[:-1]
        packet = getattr(torch.ops.aten, name, None)
        functional = getattr(packet, OVERLOADS.get(name, func._overloadname), None)
    if in_place and functional is not None and name not in RESIZING and torch.Tag.inplace_view in func.tags:
        return Operation(func, functional, name, defaults, [], in_place=False, reshapes=True)
    return Operation(func, functional, name, defaults, written, in_place)

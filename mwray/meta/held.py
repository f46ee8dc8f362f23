"""What a model itself keeps of a forward: memory that must not be lent away, since the model may read it again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

DEPTH = 3
"""Lists in lists in an attribute: deeper ones are not looked through."""
_OWN = {"_parameters", "_modules"}
"""Of a module's attributes, those that a forward does not make."""
_CODE = (FunctionType, MethodType, BuiltinFunctionType, ModuleType)
_PLAIN = (bool, int, float, str, bytes, type(None), type)


def held_by(model: nn.Module) -> set[int] | None:
    """Storages, by address, of buffers and of tensors in the attributes of `model` and its modules.

    A forward may keep a feature map as a buffer, in a list, or in a cache that it fills once. None where a hook sees
    activations: it may keep them anywhere.
    """
    found: set[int] = set()
    for module in model.modules():
        if any(map(_foreign, (*module._forward_hooks.values(), *module._forward_pre_hooks.values()))):
            return None
        for name, value in vars(module).items():
            if name not in _OWN:
                _look(value, DEPTH, found)
    return found


def _foreign(hook: Any) -> bool:
    """Not PyTorch's own, such as weight_norm's, which keep what they make in the module's attributes."""
    return not (getattr(hook, "__module__", None) or type(hook).__module__).startswith("torch.")


def _look(value: Any, depth: int, found: set[int]) -> None:
    if isinstance(value, Tensor):
        found.add(value.untyped_storage()._cdata)
    elif depth and not isinstance(value, _PLAIN):
        for one in _inside(value):
            _look(one, depth - 1, found)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, list | tuple | set | frozenset):
        return value
    if isinstance(value, (nn.Module, *_CODE)):  # a module in an attribute is among the model's modules, or not its own
        return ()
    return getattr(value, "__dict__", {}).values()

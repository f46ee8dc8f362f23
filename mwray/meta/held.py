"""What a model itself keeps of a forward: memory that must not be lent away, since the model may read it again.

It is looked for twice: before memory is lent, in what the model holds, and while it is lent, at every operation of a
forward, since a model may keep a tensor where nobody looks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_all_modules
from torch.utils._python_dispatch import TorchDispatchMode

DEPTH = 3
"""Lists in lists in an attribute: deeper ones are not looked through."""
MOST = 100
"""Entries of a collection that are looked at: going through a vocabulary of words in every step would cost more."""
_OWN = frozenset(vars(nn.Module())) - {"_buffers"}
"""Attributes that every module has, and in which a forward keeps nothing."""
_CODE = (FunctionType, MethodType, BuiltinFunctionType, ModuleType)
_COLLECTIONS = (list, tuple, set, frozenset, deque)
_PLAIN = (bool, int, float, str, bytes, type(None), type)


def held_by(model: nn.Module) -> set[int] | None:
    """Storages, by address, of buffers and of tensors in the attributes of `model` and its modules.

    A forward may keep a feature map as a buffer, in a list, or in a cache that it fills once. None where a hook sees
    activations: it may keep them anywhere.
    """
    found: set[int] = set()
    modules = list(model.modules())
    hooks = [*of_all_modules._global_forward_hooks.values(), *of_all_modules._global_forward_pre_hooks.values()]
    for module in modules:
        hooks += [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    if any(map(_foreign, hooks)):
        return None
    seen = set(map(id, modules))
    for module in modules:
        for value in _attributes(module):
            _look(value, DEPTH, found, seen)
    return found


class Watch(TorchDispatchMode):
    """Calls `fill`, once, before the first operation on a tensor whose memory, by its storage's address, is `lent`.

    To the model it is then as if nothing had been lent, but for reads that are no operation, such as NumPy's.
    """

    def __init__(self, lent: Iterable[int], fill: Callable[[], None]) -> None:
        super().__init__()
        self._lent, self._fill = set(lent), fill

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func`, on memory that is there."""
        kwargs = kwargs or {}
        if not self._lent.isdisjoint(_storages((*args, *kwargs.values()))):
            self._lent.clear()
            self._fill()
        return func(*args, **kwargs)


def compiled(model: nn.Module) -> bool:
    """Whether a part of it is what torch.compile made, which would run eagerly, without a word, below a `Watch`."""
    return any("_orig_mod" in module._modules or module._compiled_call_impl is not None for module in model.modules())


def _storages(values: Iterable[Any]) -> Iterator[int]:
    """Of the tensors among `values`, or in lists there: the addresses of what their numbers lie in."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _storages(value)
        elif isinstance(value, Tensor) and value.layout is torch.strided:
            yield value.untyped_storage()._cdata
        elif isinstance(value, Tensor) and value.layout in (torch.sparse_coo, torch.sparse_csr):
            yield (value._values() if value.is_sparse else value.values()).untyped_storage()._cdata


def _foreign(hook: Any) -> bool:
    """Not PyTorch's own, such as weight_norm's, which keep what they make in the module's attributes."""
    return not (getattr(hook, "__module__", None) or type(hook).__module__).startswith("torch.")


def _look(value: Any, depth: int, found: set[int], seen: set[int]) -> None:
    if isinstance(value, Tensor):
        found.update(_storages([value]))
    elif depth and not isinstance(value, _PLAIN):
        for one in _inside(value, seen):
            _look(one, depth - 1, found, seen)


def _inside(value: Any, seen: set[int]) -> Iterable[Any]:
    """What a collection or an object holds; `seen` are modules, by address, that are looked through on their own."""
    if isinstance(value, _CODE) or id(value) in seen:
        return ()
    if isinstance(value, nn.Module):  # one that the model uses without having it as its own
        return [part for module in value.modules() for part in _attributes(module)]
    if isinstance(value, Mapping):
        return islice(value.values(), MOST)
    return islice(value, MOST) if isinstance(value, _COLLECTIONS) else _attributes(value)


def _attributes(value: Any) -> list[Any]:
    own = [part for name, part in getattr(value, "__dict__", {}).items() if name not in _OWN]
    if isinstance(value, nn.Module):
        return own
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return own + [getattr(value, name, None) for name in slots if isinstance(name, str)]

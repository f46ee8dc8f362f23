"""A CUDA graph for the CPU: what ran below Python, run again on the same memory.

Like the real one it holds operations and addresses and nothing of Python: a number of the host is frozen at its value,
a tensor that Python has put in another's place is not seen, and whatever would wait for the device is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
WAITS = {
    "_local_scalar_dense": "reads a number from the device",
    "is_nonzero": "asks the device a question",
    "equal": "asks the device a question",
    "nonzero": "makes a tensor whose size the device decides",
    "nonzero_static": "makes a tensor whose size the device decides",
    "masked_select": "makes a tensor whose size the device decides",
    "_unique2": "makes a tensor whose size the device decides",
    "unique_dim": "makes a tensor whose size the device decides",
    "unique_consecutive": "makes a tensor whose size the device decides",
    "bincount": "makes a tensor whose size the device decides",
    "repeat_interleave": "makes a tensor whose size the device decides",
    "lift_fresh": "makes a tensor from numbers of the host",
}
"""Operations during which the host waits for a GPU, or copies unlocked memory of its own to it."""


class Waits(RuntimeError):
    """An operation that would wait for the device."""


class NoWaiting(TorchDispatchMode):
    """Refuses what would make the host wait if the tensors lay on a GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        _refuse_waiting(func, args)
        return func(*args, **kwargs)


class FakeGraph(TorchDispatchMode):
    """Notes, while it is entered, every operation with its tensors; `replay` runs them again into the same results."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self._before: dict[int, tuple[Any, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        _refuse_waiting(func, args)
        _refuse_layouts(func, args)
        for tensor in _written(func, args, kwargs):
            storage = tensor.untyped_storage()
            self._before.setdefault(storage._cdata, (storage, storage.clone()))
        before = tree_map_only(Tensor, Tensor.detach, (args, kwargs))  # some are given another shape later, in place
        results = func(*args, **kwargs)
        if not _is_view(func):
            fresh = [] if _writes(func) else [r.detach() for r in tree_leaves(results) if isinstance(r, Tensor)]
            self.operations.append((func, *before, fresh))
        return results

    def undo(self) -> None:
        """Put back what was written: capturing must change nothing."""
        for storage, before in self._before.values():
            storage.copy_(before)
        self._before.clear()

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, fresh in self.operations:
                results = func(*args, **kwargs)
                again = [r for r in tree_leaves(results) if isinstance(r, Tensor)] if fresh else []
                for old, new in zip(fresh, again, strict=True):
                    if old.data_ptr() != new.data_ptr() and old.numel():
                        old.copy_(new)


class FakeCapture:
    """In the place of `mwray.train.graphs.CudaCapture`."""

    def __init__(self) -> None:
        self.graphs: list[FakeGraph] = []
        self.renewed = 0

    def renew(self) -> None:
        self.renewed += 1

    def __call__(self, work: Callable[[], None]) -> Callable[[], object]:
        random, graph = torch.get_rng_state(), FakeGraph()
        try:
            with graph:
                work()
        finally:
            graph.undo()
            torch.set_rng_state(random)
        self.graphs.append(graph)
        return graph.replay


def _refuse_waiting(func: Any, args: Any) -> None:
    name = func.overloadpacket.__name__
    if name == "equal" and all(tensor.ndim == 0 and tensor.dtype == torch.bool for tensor in args):
        return  # torch 2.11 checks the range of a quantile so, on the CPU and nowhere else
    if name in WAITS:
        raise Waits(f"{func} {WAITS[name]}")
    indices = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else []
    if any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices):
        raise Waits(f"{func} with a mask: makes a tensor whose size the device decides")


def _is_view(func: Any) -> bool:
    """Whether results are views of arguments: they show what is there by themselves."""
    returns = func._schema.returns
    if torch.Tag.inplace_view in func.tags:
        return True
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _writes(func: Any) -> bool:
    return any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments)


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    if func is aten.native_batch_norm.default:  # its schema does not say that it moves running statistics
        return [tensor for tensor in args[3:5] if isinstance(tensor, Tensor)]
    named = dict(zip([a.name for a in func._schema.arguments], args, strict=False)) | kwargs
    written = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return [t for name in written for t in tree_leaves(named.get(name)) if isinstance(t, Tensor)]


def _refuse_layouts(func: Any, args: Any) -> None:
    """CUDA's fused optimisers ask for equal strides of parameters, gradients and state; the CPU's mix elements up."""
    name = func._schema.name.removeprefix("aten::")
    if not name.startswith("_fused_"):
        return
    parameters, *others = (each for each in args if isinstance(each, list) and each and each[0].dim())
    for other in others:
        for parameter, tensor in zip(parameters, other, strict=True):
            if _strides(parameter) != _strides(tensor):
                raise ValueError(f"{name}: strides {tensor.stride()} where the parameter has {parameter.stride()}")


def _strides(tensor: Tensor) -> list[int]:
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]

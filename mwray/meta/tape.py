"""The tape: what a forward did, operation by operation, so that a tangent can follow it later.

It listens below autograd (`TorchDispatchMode`), where every layer has become one of a few ATen operations and where
batch norm's saved statistics, pooling indices and drawn dropout masks are results like any other. So nothing of the
model is traced or rewritten: control flow, hooks, shared modules and in-place activations are simply what they do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from mwray.meta import rules_embedding, rules_exchange, rules_layers, rules_linear
from mwray.meta.operation import Operation, operation_of
from mwray.meta.recompute import Recomputation
from mwray.meta.rules import OVERWRITE_SAFE, RULES, Call, Push, Unsupported, dual_numbers, running_module
from mwray.meta.unseen import HOOK, GradientHook, Unseen

assert rules_embedding and rules_exchange and rules_layers and rules_linear  # imported for the rules they register

HALF = (torch.bfloat16, torch.float16)
Sources = dict[str, Any]
"""By argument name its slot (an int), or for an argument that is a list of tensors a list of slots and None."""


@dataclass(frozen=True)
class Target:
    """Where a result's tangent goes, and what it must look like."""

    slot: int
    shape: torch.Size
    dtype: torch.dtype


@dataclass(frozen=True)
class Entry:
    """One operation of the tape: from the tangents in `sources` to those in `targets`."""

    push: Push
    sources: Sources
    targets: list[Target | None]
    kept: list[Tensor]  # what `push` reads, with its version since the operation returned
    versions: list[int]


class Tape(TorchDispatchMode):
    """Records, while it is entered, the operations through which the tensors `leaves` act.

    A tensor is known by where it lies in memory: autograd hands views on under new identities. Whether a gradient
    flows through it is autograd's own `requires_grad`, so `detach` and `no_grad` in a model mean what they always do.
    `memory` is told of every operation.

    Attributes:
        failure: why no tangent can be taken; None while it can.
        failed_in: the module that ran when that was found, if there was one.
        unseen: what the forward does that only its backward pass will show.
        exchanges: whether it has asked other workers, so that its derivatives are sums over all of them.
    """

    def __init__(self, leaves: Mapping[str, Tensor], memory: Recomputation) -> None:
        super().__init__()
        self._memory = memory
        self.failure: str | None = None
        self.failed_in: nn.Module | None = None
        self.unseen = Unseen()
        self.exchanges = False
        self._entries: list[Entry] = []
        self._dead: list[list[int]] = []  # for each entry, the slots that nobody reads after it
        # The weak reference keeps the storage's address from being given to another one, not its memory.
        self._slots: dict[int, tuple[StorageWeakRef, dict[Any, int]]] = {}
        self._count = 0
        self._unknown: Unsupported | None = None  # why the last result without a slot has none
        self._leaves = {name: self._register(leaf) for name, leaf in leaves.items()}
        self._output: int | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func`, and note it down if the influence of a leaf passes through it."""
        kwargs = kwargs or {}
        # Autograd detaches results when it saves them; a detached tensor carries no gradient anyway.
        if func is torch.ops.aten.detach.default:
            return func(*args, **kwargs)
        operation = operation_of(func)
        arguments = operation.bind(args, kwargs)
        self.exchanges |= operation.ours
        if torch.is_grad_enabled() or operation.ours:
            self._look(arguments.values())
        if self.failure:
            return func(*args, **kwargs)
        if types:
            self._fail(f"it works on tensors of type {types[0].__name__}")
        self._settle()
        results = self._run(operation, dict(arguments), args, kwargs)
        self._memory.note(operation, arguments, results)
        return results

    def _run(self, operation: Operation, arguments: dict[str, Any], args: Any, kwargs: Any) -> Any:
        if not torch.is_grad_enabled() and not operation.ours:
            return operation.func(*args, **kwargs)  # autograd sees nothing of it: what is overwritten keeps its history
        sources = self._sources(operation, arguments)
        if sources and not self.failure:
            return self._note(operation, arguments, sources, args, kwargs)
        self._forget(operation, arguments)
        return operation.func(*args, **kwargs)

    def finish(self, outputs: Tensor) -> None:
        """End the recording: `outputs` is what the forward gave."""
        self._look([outputs])
        self._settle()
        if outputs.requires_grad and not self.failure:
            self._output = self._slot(outputs)
            if self._output is None:
                self._lost("the history of its outputs is not known (overlapping views)")
        self._slots.clear()
        self._prune()

    @property
    def narrow(self) -> bool:
        """Whether a result on it has half precision; true of a tape that failed, for it may have."""
        targets = [target for entry in self._entries for target in entry.targets if target is not None]
        return self.failure is not None or any(target.dtype in HALF for target in targets)

    def overwritten(self) -> bool:
        """Whether something that the tangent pass reads has been changed in place since it was recorded."""
        return any(
            tensor._version != version
            for entry in self._entries
            for tensor, version in zip(entry.kept, entry.versions, strict=True)
        )

    def tangent(self, direction: Mapping[str, Tensor]) -> Tensor | None:
        """The tangent of the outputs for tangents of the leaves (missing: zero); None if it is zero.

        Raises:
            Unsupported: an operation has no derivative, or a gradient's hook is met that may change it.
        """
        live = {slot: direction[name] for name, slot in self._leaves.items() if name in direction}
        hooks = self.unseen.hooks()
        _refuse(hooks, live)
        for entry, dead in zip(self._entries, self._dead, strict=True):
            tangents = _gathered(entry.sources, live)
            if tangents:
                results = entry.push(tangents)
                listed = [results] if isinstance(results, Tensor) else results
                for target, tangent in zip(entry.targets, listed, strict=False):
                    if target is not None and tangent is not None:
                        _refuse(hooks, [target.slot])
                        assert tangent.shape == target.shape
                        live[target.slot] = tangent.to(target.dtype)
            for slot in dead:
                live.pop(slot, None)
        return None if self._output is None else live.get(self._output)

    def _note(self, operation: Operation, arguments: dict[str, Any], sources: Sources, args: Any, kwargs: Any) -> Any:
        """Run the operation and append its entry; what it overwrites is copied first if its rule will read it."""
        self._forget(operation, arguments)
        if operation.in_place and not _reads_no_input(operation.name, sources):
            arguments["self"] = arguments["self"].clone()
        if operation.reshapes:
            arguments["self"] = arguments["self"].detach()  # which keeps its shape
        results = operation.func(*args, **kwargs)
        call = Call(operation.functional, arguments, set(sources))
        call.results = list(results) if isinstance(results, (list, tuple)) else [results]
        try:
            if operation.functional is None:
                raise Unsupported(f"{operation.func} overwrites its argument")
            push = RULES.get(operation.name, dual_numbers)(call)
        except Unsupported as reason:
            # Its results stay unregistered, which matters only if a gradient needs them.
            self._unknown = Unsupported(str(reason), running_module())
        else:
            targets = [self._target(result) for result in call.results]
            self._entries.append(Entry(push, sources, targets, call.kept, []))
        return results

    def _look(self, arguments: Iterable[Any]) -> None:
        reason = self.unseen.look(arguments, self._slot)
        if reason is not None:
            self._fail(reason)

    def _sources(self, operation: Operation, arguments: dict[str, Any]) -> Sources:
        sources: Sources = {}
        for name, value in arguments.items():
            if isinstance(value, Tensor):
                if value.requires_grad:
                    sources[name] = self._slot(value)
            elif isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) and v.requires_grad for v in value):
                sources[name] = [self._slot(v) if isinstance(v, Tensor) and v.requires_grad else None for v in value]
                if any(isinstance(v, Tensor) and v.requires_grad and self._slot(v) is None for v in value):
                    sources[name] = None
            if name in sources and sources[name] is None:
                self._lost(f"{operation.func} takes a tensor of unknown history (overlapping views)")
        return sources

    def _target(self, result: Any) -> Target | None:
        if not isinstance(result, Tensor) or not result.is_floating_point():
            return None
        return Target(self._register(result), result.shape, result.dtype)

    def _slot(self, tensor: Tensor) -> int | None:
        known = self._slots.get(tensor.untyped_storage()._cdata)
        return None if known is None else known[1].get(_place(tensor))

    def _register(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._slots:
            self._slots[storage._cdata] = (StorageWeakRef(storage), {})
        self._count += 1
        self._slots[storage._cdata][1][_place(tensor)] = self._count
        return self._count

    def _forget(self, operation: Operation, arguments: dict[str, Any]) -> None:
        """After a write into memory nothing is known of other views of it."""
        for name in operation.written:
            value = arguments[name]
            if isinstance(value, Tensor):
                self._slots.pop(value.untyped_storage()._cdata, None)

    def _settle(self) -> None:
        """Note the versions of what the last operation kept: autograd counts up only after an operation returns."""
        if self._entries and not self._entries[-1].versions:
            self._entries[-1].versions.extend(tensor._version for tensor in self._entries[-1].kept)

    def _prune(self) -> None:
        """Drop what the outputs do not depend on; find where each slot is read for the last time."""
        needed, entries, self._dead = {self._output}, [], []
        for entry in reversed(self._entries):
            if any(target is not None and target.slot in needed for target in entry.targets):
                fresh = [slot for slot in _slots_of(entry.sources) if slot not in needed]
                needed.update(fresh)
                entries.append(entry)
                self._dead.append(fresh)
        self._entries = entries[::-1]
        self._dead.reverse()

    def _lost(self, found: str) -> None:
        """Fail for a tensor without a slot, by the reason that the operation gave from which it came, if one did."""
        if self._unknown is None:
            self._fail(found)
        else:
            self._fail(str(self._unknown), self._unknown.module)

    def _fail(self, reason: str, module: nn.Module | None = None) -> None:
        if self.failure is None:
            self.failure, self.failed_in = reason, module or running_module()
        self._entries.clear()


def _refuse(hooks: Mapping[int | None, GradientHook], slots: Iterable[int]) -> None:
    for slot in slots:
        if slot in hooks:
            raise Unsupported(HOOK, hooks[slot].module)


def _reads_no_input(name: str, sources: Sources) -> bool:
    return name in OVERWRITE_SAFE or (name in ("mul", "div") and "other" not in sources)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return (tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)


def _slots_of(sources: Sources) -> list[int]:
    values = [s for value in sources.values() for s in (value if isinstance(value, list) else [value])]
    return [slot for slot in values if slot is not None]


def _gathered(sources: Sources, live: Mapping[int, Tensor]) -> dict[str, Any]:
    tangents: dict[str, Any] = {}
    for name, source in sources.items():
        if isinstance(source, list):
            several = [None if slot is None else live.get(slot) for slot in source]
            if any(t is not None for t in several):
                tangents[name] = several
        elif source in live:
            tangents[name] = live[source]
    return tangents

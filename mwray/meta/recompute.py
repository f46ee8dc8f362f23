"""Give back, while another pass needs the memory, what a recorded forward can have again for little.

Between its two pull-backs the training graph of a Meta-Weight-Net step is not read: the meta batch has its forward and
its backward then, whose graph is as large. `Recomputation` notes how results came about. `release` empties the memory
of those that cheap operations made (normalisation, activations, sums: in a residual network half of the graph), and
`restore` runs these operations once more, in the order of the forward, into the same memory. Autograd and the tape
never know: tensors keep their identity, their version and their numbers, in batch norm to rounding.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, UntypedStorage
from torch.multiprocessing.reductions import StorageWeakRef

from mwray.config import ConfigError
from mwray.meta.operation import Operation

aten = torch.ops.aten

Recompute = Literal["nothing", "cheap", "all"]
"""What is given back: nothing; what costs a few passes over memory; convolutions and products too (a forward more)."""

ELEMENTWISE = frozenset(
    {"relu", "threshold", "hardtanh", "leaky_relu", "elu", "silu", "gelu", "mish", "hardswish", "hardsigmoid"}
    | {"sigmoid", "tanh", "neg", "add", "sub", "mul", "div"}
)
NORMS = frozenset({"native_batch_norm", "cudnn_batch_norm", "native_layer_norm", "native_group_norm"})
CHEAP = ELEMENTWISE | NORMS | {"mwray::sync_batch_norm", "softplus", "rsub", "where", "masked_fill", "_softmax"}
CHEAP |= {"constant_pad_nd", "cat", "clone", "_to_copy", "avg_pool2d"}
PRODUCTS = frozenset({"convolution", "_convolution", "addmm", "mm", "bmm", "baddbmm"})
SWITCH = "MWRAY_RECOMPUTE"
"""Environment variable that says what trainings give back: no setting of the experiment, for results are the same."""
CHEAP_PRODUCT = 32
"""Products a number of the result at most: a convolution of a colour image with 3x3 weights has 27."""
SMALLEST = 2**14
"""Bytes; what is smaller is not worth the call."""


class Recipe:
    """An operation to be run again, on the tensors of its arguments."""

    def __init__(self, operation: Operation, names: list[str]) -> None:
        self._func, self._names = operation.functional, names
        packet = getattr(aten, operation.name + "_", None) if operation.name in ELEMENTWISE else None
        self.in_place = getattr(packet, self._func._overloadname, None)
        """The overload that overwrites its first argument; None: there is none, or it is not elementwise."""

    def run(self, values: list[Any]) -> Tensor:
        """The result, in fresh memory."""
        return _first(self._call(self._func, values))

    def run_into(self, target: Tensor, values: list[Any]) -> None:
        """The result, in the memory of `target`."""
        target.copy_(self.run(values))

    def overwrite(self, target: Tensor, rest: list[Any]) -> None:
        """Apply it to `target`, which holds the first argument, in place."""
        self._call(self.in_place, [target, *rest])

    def _call(self, func: Any, values: list[Any]) -> Any:
        given = dict(zip(self._names, values, strict=True))
        named = {a.name: given.pop(a.name) for a in func._schema.arguments if a.kwarg_only and a.name in given}
        return func(*given.values(), **named)


class BatchNorm(Recipe):
    """Batch norm from the statistics it has saved: the kernel of evaluation, one pass over memory in place of two.

    It takes 1 / sqrt(rstd^-2), so that its result is the forward's to rounding, and on some processors to the bit.
    """

    in_place = None

    def __init__(self) -> None:
        pass

    def run(self, values: list[Any]) -> Tensor:
        """From input, weight, bias, saved mean and saved inverse deviation."""
        return _first(aten.native_batch_norm(*self._arguments(values)))

    def run_into(self, target: Tensor, values: list[Any]) -> None:
        """The same into `target`."""
        unused = [values[3].new_empty(0) for _ in range(2)]
        aten.native_batch_norm.out(*self._arguments(values), out=target, save_mean=unused[0], save_invstd=unused[1])

    @staticmethod
    def _arguments(values: list[Any]) -> list[Any]:
        x, weight, bias, mean, rstd = values
        return [x, weight, bias, mean, rstd**-2, False, 0.0, 0.0]


def chosen() -> Recompute:
    """What `MWRAY_RECOMPUTE` says, "cheap" if it says nothing.

    Raises:
        ConfigError: it says something else than "nothing", "cheap" or "all".
    """
    given = os.environ.get(SWITCH) or "cheap"
    for choice in get_args(Recompute):
        if given == choice:
            return cast(Recompute, choice)
    raise ConfigError(f"{SWITCH}={given!r}: it can be {', '.join(get_args(Recompute))}")


@dataclass(eq=False)
class Value:
    """What a piece of memory held after one operation, and how to have it again."""

    storage: StorageWeakRef
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    recipe: Recipe | None = None  # None: it cannot be had again
    inputs: list[Any] = field(default_factory=list)  # `Part`s and constants, in the order of the recipe's arguments
    overwritten: bool = False

    def alive(self) -> bool:
        """Whether the memory is there and still holds this value (or will, after `restore`)."""
        return not self.overwritten and not self.storage.expired()


@dataclass(frozen=True)
class Part:
    """A tensor as it was given to an operation: a window on a value's memory."""

    value: Value
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype


class Recomputation:
    """Notes the operations of a forward; gives memory back and fills it again.

    Args:
        what: see `Recompute`.
    """

    def __init__(self, what: Recompute) -> None:
        self._limit = {"nothing": -1.0, "cheap": CHEAP_PRODUCT, "all": math.inf}[what]
        self._values: dict[int, Value] = {}  # by the address of the storage, which the weak reference keeps taken
        self._order: list[Value] = []
        self._released: list[tuple[Value, UntypedStorage, int]] = []
        self._held: list[UntypedStorage] = []

    def note(self, operation: Operation, arguments: dict[str, Any], results: Any) -> None:
        """Take down an operation that has just run; `arguments` are those it ran with."""
        if self._limit < 0:
            return
        result = _first(results)
        recipe, given = self._recipe(operation, arguments, result, results)
        inputs = [self._part(value) for value in given] if recipe else []
        for name in operation.written:
            self._overwrite(arguments[name])
        if recipe and result.untyped_storage()._cdata not in self._values and _whole(result):
            value = self._register(result)
            value.recipe, value.inputs = recipe, inputs
            self._order.append(value)

    def release(self, keep: Tensor, held: set[int] | None) -> list[int]:
        """Empty the memory of all that can be had again, except that of `keep` and what is `held` (None: all of it).

        Returns:
            What was emptied: addresses of storages.
        """
        if held is None:
            return []
        kept = held | {keep.untyped_storage()._cdata}
        for value in self._order:
            storage = _storage(value) if value.alive() else None
            if storage is None or storage._cdata in kept or storage.nbytes() < SMALLEST or not storage.resizable():
                continue
            if all(self._at_hand(part) for part in _parts(value.inputs)):
                self._released.append((value, storage, storage.nbytes()))
        for _, storage, _ in self._released:
            storage.resize_(0)
        return [storage._cdata for _, storage, _ in self._released]

    def restore(self) -> None:
        """Fill what `release` has emptied."""
        with torch.no_grad():
            for value, storage, size in self._released:
                storage.resize_(size)
                _fill(_window(value, storage), value)
        self._released.clear()
        self._held.clear()

    def _recipe(
        self, operation: Operation, arguments: dict[str, Any], result: Any, results: Any
    ) -> tuple[Recipe | None, list[Any]]:
        """How to have `result` again, and the arguments for it; None: not to be computed again."""
        if operation.functional is None or not isinstance(result, Tensor) or not _strided(arguments.values()):
            return None, []
        if operation.name in PRODUCTS:
            if _products(operation.name, arguments, result) > self._limit:
                return None, []
        elif operation.name not in CHEAP:
            return None, []
        trained = operation.name in ("native_batch_norm", "cudnn_batch_norm") and arguments["training"]
        if trained or operation.ours:  # both begin with input, weight, bias; ours would exchange with other workers
            if self._limit < math.inf or operation.ours:
                return BatchNorm(), [*list(arguments.values())[:3], *results[1:3]]
            # From convolution to convolution rounding would grow: here the whole operation, but for its side effect.
            arguments = arguments | dict.fromkeys(("running_mean", "running_var"))
        return Recipe(operation, list(arguments)), list(arguments.values())

    def _part(self, argument: Any) -> Any:
        if isinstance(argument, (list, tuple)) and any(isinstance(a, Tensor) for a in argument):
            return [self._part(a) for a in argument]
        if not isinstance(argument, Tensor):
            return argument
        value = self._values.get(argument.untyped_storage()._cdata) or self._register(argument)
        return Part(value, argument.shape, argument.stride(), int(argument.storage_offset()), argument.dtype)

    def _register(self, tensor: Tensor) -> Value:
        storage = tensor.untyped_storage()
        offset = int(tensor.storage_offset())
        value = Value(StorageWeakRef(storage), tensor.shape, tensor.stride(), offset, tensor.dtype)
        self._values[storage._cdata] = value
        return value

    def _overwrite(self, argument: Any) -> None:
        """What the memory held is gone; whoever read it before would have to compute it."""
        for tensor in argument if isinstance(argument, (list, tuple)) else [argument]:
            if isinstance(tensor, Tensor):
                value = self._values.pop(tensor.untyped_storage()._cdata, None)
                if value is not None:
                    value.overwritten = True

    def _at_hand(self, part: Part) -> bool:
        """Whether the tensor is in memory now or once it has been restored, or can be computed on the way."""
        value = part.value
        if value.alive():
            self._held.append(_storage(value))
            return True
        return value.recipe is not None and all(self._at_hand(inner) for inner in _parts(value.inputs))


def _strided(arguments: Iterable[Any]) -> bool:
    """Whether each tensor's numbers lie in one piece of memory, as those of sparse ones do not."""
    return all(not isinstance(a, Tensor) or a.layout is torch.strided for a in arguments)


def _parts(inputs: list[Any]) -> list[Part]:
    flat = [part for value in inputs for part in (value if isinstance(value, list) else [value])]
    return [part for part in flat if isinstance(part, Part)]


def _first(results: Any) -> Any:
    return results[0] if isinstance(results, (list, tuple)) and results else results


def _whole(tensor: Tensor) -> bool:
    """Whether it is all that its memory holds."""
    size = tensor.numel() * tensor.element_size()
    return bool(tensor.storage_offset() == 0 and size == tensor.untyped_storage().nbytes())


def _fill(target: Tensor, value: Value) -> None:
    """Compute `value` into `target`, which is laid out as it; an elementwise chain is computed in place."""
    recipe = value.recipe
    assert recipe is not None
    first = value.inputs[0]
    if isinstance(first, Part) and not first.value.alive() and _same(first, value) and recipe.in_place is not None:
        _fill(target, first.value)
        recipe.overwrite(target, [_tensor(argument) for argument in value.inputs[1:]])
    else:
        recipe.run_into(target, [_tensor(argument) for argument in value.inputs])


def _same(part: Part, value: Value) -> bool:
    """Whether `part` is all of its own value and lies as `value` does."""
    inner = part.value
    layout = (value.shape, value.stride, value.offset, value.dtype)
    return (
        layout
        == (part.shape, part.stride, part.offset, part.dtype)
        == (
            inner.shape,
            inner.stride,
            inner.offset,
            inner.dtype,
        )
    )


def _tensor(argument: Any) -> Any:
    """The tensor that a part stands for; constants stand for themselves."""
    if isinstance(argument, list):
        return [_tensor(a) for a in argument]
    if not isinstance(argument, Part):
        return argument
    value = argument.value
    if value.alive():
        return _window(argument, _storage(value))
    assert value.recipe is not None
    again = value.recipe.run([_tensor(a) for a in value.inputs])
    if again.stride() != value.stride:
        again = torch.empty_strided(value.shape, value.stride, dtype=again.dtype, device=again.device).copy_(again)
    return again.as_strided(argument.shape, argument.stride, argument.offset)


def _storage(value: Value) -> UntypedStorage:
    storage: UntypedStorage = UntypedStorage._new_with_weak_ptr(value.storage.cdata)
    return storage


def _window(of: Value | Part, storage: UntypedStorage) -> Tensor:
    """A tensor of its own on that memory: writing to it leaves the versions of all others as they are."""
    return torch.empty(0, dtype=of.dtype, device=storage.device).set_(storage, of.offset, of.shape, of.stride)


def _products(name: str, arguments: dict[str, Any], result: Tensor) -> float:
    """Multiplications for each number of the result."""
    if "convolution" in name:
        if arguments["transposed"]:
            return math.inf
        return arguments["weight"].shape[1:].numel()
    first = next(
        a for key, a in arguments.items() if key in ("mat1", "batch1") or (key == "self" and name[-2:] == "mm")
    )
    return float(first.shape[-1])

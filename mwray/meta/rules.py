"""How one PyTorch operation carries a tangent: the call as it was made, and the table of rules.

A rule is given a `Call` when the operation has just run. It keeps what it needs (what autograd keeps anyway: inputs
of convolutions, results of activations, saved statistics) and returns a `Push`: the map from tangents of the
arguments, by name, to tangents of the results. The rules themselves are in `rules_linear` and `rules_layers`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

Tangents = Mapping[str, Any]
"""By argument name: a tensor, or for an argument that is a list of tensors a list of tensors and None."""
Results = Tensor | Sequence[Tensor | None]
Push = Callable[[Tangents], Results]

RULES: dict[str, Callable[[Call], Push]] = {}
"""By the name of the ATen operation, without the underscore that marks it as working in place."""
OVERWRITE_SAFE: set[str] = set()
"""Operations whose rule never reads the first argument: working in place they need no copy of it."""


class Unsupported(Exception):
    """The operation cannot carry a tangent by a rule; the message says which and why.

    Attributes:
        module: what ran it in the forward, where that is known.
    """

    def __init__(self, reason: str, module: nn.Module | None = None) -> None:
        super().__init__(reason)
        self.module = module


class Call:
    """One operation as it ran: arguments by name, results, and which arguments can have a tangent."""

    def __init__(self, func: Any, arguments: dict[str, Any], active: set[str]) -> None:
        self.func, self.arguments, self.active = func, arguments, active
        self.results: list[Any] = []
        self.kept: list[Tensor] = []

    @property
    def out(self) -> Tensor:
        """The first result, kept for the tangent pass."""
        return self.keep(self.results[0])

    def keep(self, tensor: Tensor) -> Tensor:
        """Mark `tensor` as read by the tangent pass, which then refuses to run if it has been overwritten."""
        self.kept.append(tensor)
        return tensor

    def read(self, *names: str) -> list[Any]:
        """The arguments of those names, kept for the tangent pass."""
        values = [self.arguments[name] for name in names]
        return [self.keep(value) if isinstance(value, Tensor) else value for value in values]

    def without(self, *names: str) -> Callable[..., Any]:
        """The same operation with the arguments `names` left open: nothing of them stays in memory."""
        positional = [a.name for a in self.func._schema.arguments if not a.kwarg_only]
        rest = {name: value for name, value in self.arguments.items() if name not in names}
        for value in rest.values():
            if isinstance(value, Tensor):
                self.keep(value)
        func = self.func

        def again(**given: Any) -> Any:
            every = rest | given
            return func(*[every.pop(name) for name in positional], **every)

        return again


def rule(*names: str, overwrite_safe: bool = False) -> Callable[[Callable[[Call], Push]], Callable[[Call], Push]]:
    """Register a rule for the ATen operations `names`."""

    def register(function: Callable[[Call], Push]) -> Callable[[Call], Push]:
        for name in names:
            RULES[name] = function
        if overwrite_safe:
            OVERWRITE_SAFE.update(names)
        return function

    return register


def total(parts: Iterable[Tensor | None]) -> Tensor:
    """Sum of the parts that are there; the first one must be fresh memory, for the rest is added into it."""
    present = [part for part in parts if part is not None]
    result = present[0]
    for part in present[1:]:
        result = result.add_(part)
    return result


def dual_numbers(call: Call) -> Push:
    """The rule for whatever has none: PyTorch's own forward derivative of this one operation, run once more.

    Costs the operation itself on top, which matters for products and convolutions only - and those have rules.
    """
    if torch.Tag.nondeterministic_seeded in call.func.tags:
        raise Unsupported(f"{call.func} draws random numbers")
    again = call.without(*call.active)
    primal = {name: call.arguments[name] for name in call.active}
    for value in primal.values():
        for tensor in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(tensor, Tensor):
                call.keep(tensor)

    module = running_module()

    def push(tangents: Tangents) -> Results:
        try:
            return _forward_derivative(again, primal, tangents)
        except NotImplementedError:
            pass
        try:
            return _double_backward(again, primal, tangents)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise Unsupported(f"{call.func} has neither a forward nor a second derivative", module) from error

    return push


def running_module() -> nn.Module | None:
    """The innermost module whose `forward` is being run by the caller."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_name == "forward" and isinstance(frame.f_locals.get("self"), nn.Module):
            module: nn.Module = frame.f_locals["self"]
            return module
    return None


@contextmanager
def dual_level() -> Iterator[None]:
    """A `with` in which dual numbers can be made, and in which their first one does not print PyTorch's own warning."""
    _load_decompositions()
    with forward_ad.dual_level():
        yield


@cache
def _load_decompositions() -> None:
    """PyTorch (2.14) loads them with a process's first dual number, by a `torch.jit.script` that it deprecates."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", FutureWarning)
        forward_ad.make_dual(torch.zeros(()), torch.zeros(()))


def _forward_derivative(again: Callable[..., Any], primal: Mapping[str, Any], tangents: Tangents) -> Results:
    with dual_level():
        outputs = again(**{name: _dual(value, tangents.get(name)) for name, value in primal.items()})
        return [forward_ad.unpack_dual(o).tangent if _smooth(o) else None for o in _listed(outputs)]


def _double_backward(again: Callable[..., Any], primal: Mapping[str, Any], tangents: Tangents) -> Results:
    """J t where PyTorch has no forward derivative: J' u is linear in u, so its own pull-back is J."""
    with torch.enable_grad():
        leaves = {name: _leaf(value) for name, value in primal.items()}
        outputs = _listed(again(**leaves))
        smooth = [i for i, output in enumerate(outputs) if _smooth(output) and output.requires_grad]
        cotangents = [torch.zeros_like(outputs[i], requires_grad=True) for i in smooth]
        names = [name for name in primal if isinstance(leaves[name], Tensor) and name in tangents]
        inputs = [leaves[name] for name in names]
        pulled = torch.autograd.grad(
            [outputs[i] for i in smooth], inputs, cotangents, create_graph=True, materialize_grads=True
        )
        given = [tangents[name] for name in names]
        pushed = torch.autograd.grad(pulled, cotangents, given, materialize_grads=True)
    found = dict(zip(smooth, pushed, strict=True))
    return [found.get(i) for i in range(len(outputs))]


def _listed(outputs: Any) -> Sequence[Any]:
    return outputs if isinstance(outputs, (list, tuple)) else [outputs]


def _smooth(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _leaf(value: Any) -> Any:
    return value.detach().requires_grad_() if isinstance(value, Tensor) else value


def _dual(primal: Any, tangent: Any) -> Any:
    if isinstance(primal, (list, tuple)):
        tangents = tangent if tangent is not None else [None] * len(primal)
        return [_dual(p, t) for p, t in zip(primal, tangents, strict=True)]
    if not isinstance(primal, Tensor) or tangent is None:
        return primal.detach() if isinstance(primal, Tensor) else primal
    return forward_ad.make_dual(primal.detach(), tangent)

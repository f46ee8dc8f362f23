"""A training forward that can be differentiated along a direction afterwards: the tangent pass of the meta-gradient.

The meta-gradient of Meta-Weight-Net (Shu et al. 2019, Eq. 6) needs, of the per-sample losses, only their derivative
along one direction in the parameters. So no graph of a graph is built: `record` runs the forward once, and
`Recording.tangent` is one pass in forward mode beside it, at the cost of two forwards.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mwray.meta.duality import ALLOWED, ALLOWED_IN_HALF, Trust, defect
from mwray.meta.forward_mode import (
    ForwardMode,
    Replay,
    changed,
    check_direction,
    check_unchanged,
    single_tensor,
    versions,
)
from mwray.meta.held import Watch, compiled, held_by
from mwray.meta.pull_backs import PullBacks, pulled_back_twice, without_hooks
from mwray.meta.recompute import Recomputation, Recompute
from mwray.meta.rules import Unsupported
from mwray.meta.tape import Tape

log = logging.getLogger("mwray")

Rung = type[ForwardMode] | type[PullBacks]
"""What a model gets instead whose tape cannot be followed."""
COSTS: dict[Rung, str] = {
    ForwardMode: "runs the model again in forward-mode AD, which takes one forward more",
    PullBacks: "is two pull-backs, one through the graph of the other, which take some six forwards more and twice the "
    "memory of the training forward",
}
NAMES: dict[Rung, str] = {ForwardMode: "in forward-mode AD", PullBacks: "by two pull-backs"}

DIFFERS = (
    "its tangent pass is not what its backward pass says: half precision loses so much of a gradient, as in sums over "
    "an embedding's rows, or something on its graph changes gradients; float32 would tell which"
)
HIDDEN = "its backward pass does what no operation of its forward shows, as a hook of a grad_fn can"

_failures: WeakKeyDictionary[nn.Module, Rung] = WeakKeyDictionary()
_trust = Trust()
_warned: set[tuple[type[nn.Module], str]] = set()


class Recording(Protocol):
    """A forward of a model on a batch that has been run once and can be differentiated along directions.

    Attributes:
        outputs: model(x) in the model's present mode, attached to the autograd graph of its own parameters; running
            statistics have moved once.
        written: names of the parameters that the forward has written to.
    """

    outputs: Tensor
    written: list[str]

    def tangent(self, direction: Mapping[str, Tensor]) -> Tensor:
        """Derivative of `outputs` by eps at parameters w + eps * direction, eps = 0, without an autograd graph.

        Batch statistics and dropout masks are those of the recorded forward; parameters, running statistics and the
        state of the random generators stay as they are.

        Args:
            direction: by `model.named_parameters()` names, each shaped like its parameter; a missing name means zero.

        Raises:
            ValueError: a name that the model does not have, or a wrong shape.
            RuntimeError: the parameters have been changed since the forward.
        """

    def set_aside(self) -> AbstractContextManager[AbstractContextManager[object]]:
        """While it is entered, memory of the forward that can be had again is free for others.

        What it gives is to be entered around forwards of the model meanwhile: these may read tensors that the model
        has kept. Nothing else may.

        Raises (at its end):
            RuntimeError: the parameters have been changed since the forward.
        """


def record(model: nn.Module, x: Tensor, recompute: Recompute = "cheap") -> Recording:
    """Run `model` on `x` [B, ...] once, keeping what a tangent pass needs; `recompute` is what `set_aside` gives back.

    A model that does something through which the tangent cannot be followed gets, from the first tangent on, a slower
    recording that needs less of it: dual numbers, or two pull-backs. The logger "mwray" says which, why, and what it
    costs, once for each class of model and reason.

    Raises:
        ValueError: the model returns something else than one tensor.
    """
    trusted = _trust.spend(model)
    if trusted and model in _failures:
        return _failures[model](model, x)
    return Linearized(model, x, recompute, trusted)


class Linearized:
    """A recorded forward whose tangent follows its tape: two forwards' work, nothing computed twice.

    A convolution costs conv(x', W) + conv(x, W'), batch norm one pass from its saved statistics, an activation its
    mask. What the tape keeps is what autograd keeps for the backward pass. The forward itself is the model's own:
    `outputs` has the bits of model(x), and running statistics move once. Compiled models run eagerly in it. Unless the
    model is `trusted`, its tangent is held to a backward pass.

    Raises:
        ValueError: the model returns something else than one tensor.
    """

    outputs: Tensor

    def __init__(self, model: nn.Module, x: Tensor, recompute: Recompute = "cheap", trusted: bool = False) -> None:
        self._model, self._replay, self._trusted = model, Replay(model, x), trusted
        self._parameters = dict(model.named_parameters())
        before = versions(self._parameters)
        self._memory = Recomputation(recompute)
        self._tape = Tape({name: p for name, p in self._parameters.items() if p.requires_grad}, self._memory)
        # Weights that autocast had cast earlier would come to the tape without their history.
        torch.clear_autocast_cache()
        with torch.enable_grad(), torch.compiler.set_stance("force_eager"), self._tape:
            outputs = single_tensor(model, model(x.detach()))
        self._tape.finish(outputs)
        self.outputs = without_hooks(outputs)
        # From here on: a forward may constrain its weights in place.
        self._versions = versions(self._parameters)
        self.written = changed(before, self._versions)

    def tangent(self, direction: Mapping[str, Tensor]) -> Tensor:
        """Derivative of `outputs` along `direction`, as `Recording.tangent` says."""
        check_direction(self._model, self._parameters, direction)
        check_unchanged(self._parameters, self._versions)
        if not all(self._parameters[name].requires_grad for name in direction):
            tangent = self._replay.tangent(direction)  # the tape begins at what has a gradient
        else:
            tangent = self._follow(direction)
        return torch.zeros_like(self.outputs) if tangent is None else tangent.clone()

    @contextmanager
    def set_aside(self) -> Iterator[AbstractContextManager[object]]:
        """Free what the tape has seen cheap operations make, and compute it again at the end, or once it is read."""
        if self._tape.failure is not None:  # it has not seen all
            yield nullcontext()
            return
        lent = self._memory.release(self.outputs, held_by(self._model))
        try:
            yield Watch(lent, self._fill) if lent and not compiled(self._model) else nullcontext()
        finally:
            self._fill()

    def _fill(self) -> None:
        check_unchanged(self._parameters, self._versions)
        with torch.autocast(self.outputs.device.type, enabled=False):
            self._memory.restore()

    def _follow(self, direction: Mapping[str, Tensor]) -> Tensor | None:
        """Along the tape, or by the first rung below it that can."""
        tape = self._tape
        if tape.failure is not None:
            return self._fall_back(direction, tape.failure, tape.failed_in)
        if tape.overwritten():
            return self._fall_back(direction, "it overwrites, in place, what its tangent needs", None)
        try:
            with torch.no_grad(), torch.autocast(self.outputs.device.type, enabled=False):
                tangent = tape.tangent(direction)
        except Unsupported as refusal:
            return self._fall_back(direction, str(refusal), refusal.module)
        if self._trusted or self._agrees(tangent, direction):
            return tangent
        if tape.narrow:  # some backward passes sum up in half precision: it may be these that are wrong
            _trust.give(self._model)
            _warn_once(self._model, DIFFERS)
            return tangent
        return self._fall_back(direction, HIDDEN, None, "hook")

    def _agrees(self, tangent: Tensor | None, direction: Mapping[str, Tensor]) -> bool:
        """Whether a backward pass bears the tangent out; true as well where it cannot be asked or is not finite."""
        if self._tape.exchanges or (self.outputs.is_cuda and torch.cuda.is_current_stream_capturing()):
            return True
        found = defect(self.outputs, self._parameters, direction, tangent)
        agrees = found <= (ALLOWED_IN_HALF if self.outputs.is_cuda or self._tape.narrow else ALLOWED)
        if agrees:
            self._trusted = True
            _trust.give(self._model)
        return agrees or not math.isfinite(found)

    def _fall_back(
        self, direction: Mapping[str, Tensor], reason: str, module: nn.Module | None, kind: str | None = None
    ) -> Tensor | None:
        """By the cheapest rung that can, which `record` takes for this model from now on.

        Forward-mode AD never hears of a hook, and of a custom function what its author wrote down, if anything.
        """
        reason += _noticed_in(self._model, module)
        order: dict[str, list[Rung]] = {
            "": [ForwardMode, PullBacks],
            "function": [PullBacks, ForwardMode],
            "hook": [PullBacks],
        }
        refusals = ""
        for rung in order[kind or self._tape.unseen.kind]:
            try:
                tangent = self._by(rung, direction)
                if not self._agrees(tangent, direction):
                    raise RuntimeError("a backward pass gives it the lie")
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as refusal:  # a NotImplementedError is one
                refusals += f"; {NAMES[rung]}: {str(refusal).splitlines()[0]}"
            else:
                _failures[self._model] = rung
                _warn_once(self._model, f"its tangent pass {COSTS[rung]}: {reason}")
                return tangent
        raise RuntimeError(f"{type(self._model).__name__} has no tangent pass: {reason}{refusals}")

    def _by(self, rung: Rung, direction: Mapping[str, Tensor]) -> Tensor | None:
        if rung is ForwardMode:
            return self._replay.tangent(direction)
        try:
            return pulled_back_twice(self.outputs, self._parameters, direction)
        except RuntimeError:  # such as fused attention, which cannot be differentiated twice: run without it
            return pulled_back_twice(self._replay.outputs(), self._parameters, direction)


def _warn_once(model: nn.Module, text: str) -> None:
    kind = type(model)
    if (kind, text) not in _warned:
        _warned.add((kind, text))
        log.warning("%s: %s", kind.__name__, text)


def _noticed_in(model: nn.Module, module: nn.Module | None) -> str:
    names = [name for name, inner in model.named_modules() if inner is module and name]
    return "" if module is None else f" (in {', '.join([*names, type(module).__name__])})"

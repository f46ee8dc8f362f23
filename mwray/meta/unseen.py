"""What autograd does to gradients on its own, so that no operation of a forward shows it: custom functions, hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.nn.modules._functions import BackwardHookFunction

from mwray.meta.rules import running_module

HOOK = "a backward hook may change its gradient"


class GradientHook:
    """A tensor's hook that tells, once a backward pass has been through it, whether it left the gradient alone.

    Many hooks only look (those of loggers and profilers), and need no other tangent pass than a model without them.
    """

    def __init__(self, hook: Callable[[Tensor], Any], slot: int | None, module: nn.Module | None) -> None:
        self.hook, self.slot, self.module = hook, slot, module
        self._called = self._changed = False

    @property
    def harmless(self) -> bool:
        """Whether it is known to change nothing."""
        return self._called and not self._changed

    def __call__(self, gradient: Tensor) -> Any:
        """What the hook returns."""
        version = gradient._version
        result = self.hook(gradient)
        self._called = True
        self._changed |= gradient._version != version or not (result is None or result is gradient)
        return result


class Unseen:
    """Looks at the tensors of a forward for what only the backward pass will show.

    A custom function may return its input's memory, with any backward. The hooks of tensors are watched from here on.
    """

    def __init__(self) -> None:
        self._hooks: list[GradientHook] = []
        self._function = self._module_hook = False

    def look(self, arguments: Iterable[Any], slot_of: Callable[[Tensor], int | None]) -> str | None:
        """Why the tensors among `arguments` (or in lists there) have no known tangent; None: nothing is wrong.

        `slot_of` says where the tape keeps a tensor's tangent.
        """
        reason = None
        for value in arguments:
            for tensor in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(tensor, Tensor) and tensor.requires_grad:
                    if tensor._backward_hooks:
                        self._watch(tensor, slot_of(tensor))
                    reason = self._refused(tensor) or reason
        return reason

    def hooks(self) -> dict[int | None, GradientHook]:
        """By slot, the tensors' hooks that may have changed a gradient."""
        return {hook.slot: hook for hook in self._hooks if not hook.harmless}

    @property
    def kind(self) -> Literal["", "function", "hook"]:
        """What was found that counts: "hook" also where there are custom functions too."""
        if self._module_hook or self.hooks():
            return "hook"
        return "function" if self._function else ""

    def _watch(self, tensor: Tensor, slot: int | None) -> None:
        hooks: Any = tensor._backward_hooks
        for key, hook in list(hooks.items()):
            if hook not in self._hooks:  # a parameter's may have been watched in an earlier forward
                own = hook.hook if isinstance(hook, GradientHook) else hook
                hooks[key] = GradientHook(own, slot, running_module())
                self._hooks.append(hooks[key])

    def _refused(self, tensor: Tensor) -> str | None:
        node: Any = tensor.grad_fn
        if not isinstance(node, BackwardCFunction):
            return None
        name = type(node).__name__.removesuffix("Backward")  # that of the function
        if name.startswith("GeneratedBackwardFor_mwray_"):  # as PyTorch names the nodes of our own operations
            return None
        if name == BackwardHookFunction.__name__:  # through it a module's hooks get their gradients
            self._module_hook = True
            return HOOK
        self._function = True
        return f"{name} is a custom function"

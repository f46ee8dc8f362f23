"""Initial weights that were learned elsewhere: a file's state dict, and how it is put into a network."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mwray.config import ConfigError
from mwray.models import libraries

ENDINGS = (".pt", ".pth", ".safetensors")
WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Where a training script's checkpoint has the state dict, beside its epoch and optimiser."""
PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel, DistributedDataParallel and torch.compile put before every name, one upon the other."""
NAMED = 3
"""Names that an error lists of each kind."""


def read(path: Path) -> dict[str, Tensor]:
    """The state dict in a file: torch's (.pt, .pth), or .safetensors where safetensors is installed.

    Raises:
        ConfigError: another kind of file, one that is damaged, or one that holds no state dict.
    """
    if path.suffix.lower() not in ENDINGS:
        raise ConfigError(f"model.weights: {path} is no {' or '.join(ENDINGS)} file; save a state dict as one")
    try:
        found = _safetensors(path) if path.suffix.lower() == ".safetensors" else _torch(path)
    except ConfigError:
        raise
    except Exception as error:  # a damaged file makes torch raise nearly anything
        why = str(error).strip().split("\n")[0].rstrip(".")[:200] or type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch tells how to run its code, in bold
            why = "it holds more than tensors, such as a whole network, or is no file of torch.save"
        raise ConfigError(
            f"model.weights: {path} cannot be read ({why}); save the network's state dict alone: "
            "torch.save(network.state_dict(), path)"
        ) from error
    wrapper = next(
        (name for name in WRAPPERS if isinstance(found, Mapping) and isinstance(found.get(name), Mapping)), None
    )
    found = found if wrapper is None else found[wrapper]
    if not isinstance(found, Mapping) or not any(isinstance(value, Tensor) for value in found.values()):
        raise ConfigError(
            f"model.weights: {path} holds no state dict but {type(found).__name__}; needed: tensors by name, as "
            "network.state_dict() gives them"
        )
    return {str(name): value for name, value in found.items() if isinstance(value, Tensor)}


def _torch(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ConfigError(
            f"model.weights: {path} needs safetensors, which is not installed here: pip install safetensors"
        ) from error
    return load_file(path)


def put(network: nn.Module, given: Mapping[str, Tensor], num_classes: int, origin: str, *, head: bool = True) -> str:
    """Put the weights `given` into `network`; returns what came of it, in words.

    The last layer keeps its fresh weights where `given` has it for another number of classes or not at all; `head`
    False: in any case. A first convolution of one channel takes the sum over three given ones (`libraries.build`).

    Raises:
        ConfigError: any other name or shape differs; names `origin` and the first few.
    """
    own = network.state_dict()
    state = _named(given, own)
    last = _last_layer(network, num_classes)
    fresh = set() if last is None else {name for name in own if name.rpartition(".")[0] == last}
    _sum_channels(network, own, state)
    if head and not _other_classes(own, state, fresh):
        fresh = set()
    counters = {name for name in own if name.endswith("num_batches_tracked")}  # files of before torch 0.4.1 have none
    wrong = {
        "missing": [name for name in own if name not in state and name not in fresh | counters],
        "unknown to the network": [name for name in state if name not in own],
        "of another shape": [
            f"{name} {list(state[name].shape)} for {list(own[name].shape)}"
            for name in own
            if name in state and name not in fresh and state[name].shape != own[name].shape
        ],
    }
    if any(wrong.values()):
        raise ConfigError(
            f"model.weights: {origin} does not fit {type(network).__name__}: "
            + "; ".join(_listed(names, what) for what, names in wrong.items() if names)
        )
    network.load_state_dict(own | {name: value for name, value in state.items() if name not in fresh})
    if not fresh:
        return f"model.weights: all {len(own)} tensors are those of {origin}"
    there = state.get(f"{last}.weight")
    why = f"{num_classes} classes, where there are {'none' if there is None else len(there)}"
    return f"model.weights: {origin}; the last layer, {last}, starts fresh" + (f" ({why})" if head else "")


def _named(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`given` without what stands before every name, as long as none of the names is one of the network's `own`."""
    state = dict(given)
    while state and not state.keys() & own.keys():
        prefix = next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _last_layer(network: nn.Module, num_classes: int) -> str | None:
    """Name of the last convolution or linear layer, if it gives `num_classes` outputs."""
    layers = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return layers[-1][0] if layers and len(layers[-1][1].weight) == num_classes else None


def _other_classes(own: Mapping[str, Tensor], state: Mapping[str, Tensor], last: set[str]) -> bool:
    """Whether `state` has the tensors `last` for another number of classes, all else being equal, or none of them."""
    there = {name for name in last if name in state}
    if not there:
        return bool(last)
    same = all(state[name].shape[1:] == own[name].shape[1:] for name in there)
    return same and there == last and any(len(state[name]) != len(own[name]) for name in there)


def _sum_channels(network: nn.Module, own: Mapping[str, Tensor], state: dict[str, Tensor]) -> None:
    try:
        name = libraries.first_convolution(network)[0] + ".weight"
    except StopIteration:
        return
    if name in state and own[name].shape[1] == 1 and state[name].dim() == 4 and state[name].shape[1] == 3:
        state[name] = state[name].sum(1, keepdim=True)


def _listed(names: list[str], what: str) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{what}: {', '.join(names[:NAMED])}{more}"

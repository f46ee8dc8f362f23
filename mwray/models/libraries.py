"""Networks of torchvision and timm by name, "torchvision:resnet50": fitted to images and classes, and their weights."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mwray.config import ConfigError, nearest

PREFIXES = ("torchvision:", "timm:")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation per channel, of pixels in 0..1, that nearly all published weights were trained with."""
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
TRANSFORMING = ("googlenet", "inception_v3")
"""Of torchvision: with its weights they change ImageNet's normalisation to that of `HALVES` themselves. Ours are built
without that step, and get what it would give."""
AUXILIARY = re.compile(r"(aux1|aux2|AuxLogits)\.")
"""Heads beside the last layer, which those two have in their files and are built without here: one tensor comes out."""
DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")
"""Names in the files of torchvision's DenseNets, which are older than its code: norm.1.weight is norm1.weight."""

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def build(name: str, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """The network `name` ("torchvision:NAME" or "timm:NAME"), freshly initialised, of one output [B, num_classes].

    The first convolution of torchvision's network for grey images has the sum of the weights of three channels: it
    gives what it would give of an image with that channel three times. timm makes networks for one channel itself.

    Raises:
        ConfigError: the library is not installed, or has no such network, or that cannot take images of `shape`.
    """
    library, _, network = name.partition(":")
    module = _library(name)
    try:
        built = _torchvision(module, network, num_classes, shape) if library == "torchvision" else None
        built = built or _timm(module, network, num_classes, shape)
        check_takes(built, num_classes, shape)
    except ConfigError:
        raise
    except Exception as error:  # each network has errors of its own for images that it cannot take
        channels, height, width = shape
        raise ConfigError(
            f"model.name: {name!r} cannot take images of {height}x{width} pixels in {channels} channel(s) "
            f"({_line(error)}); pictures in folders are brought to another size by data.image_size, and most of these "
            "networks are made for 224"
        ) from error
    return built


def published(name: str) -> dict[str, Tensor]:
    """The state dict that the library publishes for `name`, for three channels and the classes it was trained on.

    Downloaded where the library's own cache on this machine does not have it.

    Raises:
        ConfigError: it is not on this machine and cannot be downloaded, or there is none.
    """
    library, _, network = name.partition(":")
    module = _library(name)
    try:
        if library == "torchvision":
            _known(name, network, module.list_models(module=module))
            weights = module.get_model_weights(network).DEFAULT
            source = f"put {weights.url} into {torch.hub.get_dir()}/checkpoints"
            model = module.get_model(network, weights=weights)
        else:
            _known_to_timm(module, network)
            found = module.get_pretrained_cfg(network)
            if found is None or not found.has_weights:
                raise ConfigError(
                    f"model.weights: timm publishes no weights for {network!r}; leave it out, or give the path of a "
                    "file that holds some"
                )
            source = "bring timm's cache, ~/.cache/huggingface/hub, from a machine where it could"
            model = module.create_model(network, pretrained=True)
    except ConfigError:
        raise
    except Exception as error:  # of the network, of the disk, of a file that came damaged
        raise ConfigError(
            f"model.weights: the 'pretrained' weights of {name!r} are not on this machine and could not be downloaded "
            f"({_line(error)}); {source}, or give the path of a file that holds them"
        ) from error
    return dict(model.state_dict())


def statistics(name: str) -> Statistics | None:
    """Mean and deviation per channel that the published weights of `name` want; None for other networks.

    Raises:
        ConfigError: as `build`.
    """
    if not name.startswith(PREFIXES):
        return None
    library, _, network = name.partition(":")
    module = _library(name)
    if library == "timm":
        _known_to_timm(module, network)
        found = module.get_pretrained_cfg(network)
        return None if found is None else (tuple(found.mean), tuple(found.std))
    if network in TRANSFORMING:
        return HALVES
    _known(name, network, module.list_models(module=module))
    transforms = module.get_model_weights(network).DEFAULT.transforms()
    return tuple(transforms.mean), tuple(transforms.std)


def hint(network: str) -> str:
    """ " Did you mean 'torchvision:resnet18'?" for the plain name of a classifier of torchvision, or ""."""
    try:
        models = _library("torchvision:")
    except ConfigError:
        return ""
    known = network in models.list_models(module=models)
    return f" Did you mean 'torchvision:{network}'?" if known else ""


def modern(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` of a torchvision network by the names of today, without the heads that are not built here."""
    renamed = {DENSENET.sub(r"\1\2", name): value for name, value in state.items()}
    return {name: value for name, value in renamed.items() if not AUXILIARY.match(name)}


def check_takes(network: nn.Module, num_classes: int, shape: tuple[int, int, int]) -> None:
    """Raise what `network` raises for a batch of such images, or ConfigError if its output is not one [B, C] tensor."""
    try:
        out = _try(network, shape, "meta")  # shapes are followed through all layers, and nothing is computed
    except Exception:  # perhaps of the device alone: a layer may hold a tensor that is no buffer
        out = _try(network, shape, "cpu")
    if not isinstance(out, Tensor) or out.shape != (2, num_classes):
        given = f"a tensor {list(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise ConfigError(
            f"model.name: {type(network).__name__} gives {given} for 2 images; needed: one tensor [2, {num_classes}]"
        )


def _try(network: nn.Module, shape: tuple[int, int, int], device: str) -> Any:
    """What `network`, left as it is, gives of two black images in training mode."""
    named = (*network.named_parameters(), *network.named_buffers())
    state = {name: value.detach().to(device, copy=True) for name, value in named}
    with torch.no_grad():
        return torch.func.functional_call(network.train(), state, (torch.zeros(2, *shape, device=device),))


def _library(name: str) -> ModuleType:
    library, _, network = name.partition(":")
    try:
        return importlib.import_module("torchvision.models" if library == "torchvision" else "timm")
    except ImportError as error:
        raise ConfigError(
            f"model.name: {name!r} needs {library}, which cannot be imported here ({error}): pip install {library}"
        ) from error


def _known(name: str, network: str, known: Iterable[str]) -> None:
    library, _, _ = name.partition(":")
    known = list(known)
    if network not in known:
        hint = nearest(network, known).replace("'", f"'{library}:", 1)
        call = (
            "timm.list_models()" if library == "timm" else "torchvision.models.list_models(module=torchvision.models)"
        )
        raise ConfigError(f"model.name: {library} has no classifier {network!r}.{hint} {call} gives all names")


def _known_to_timm(timm: ModuleType, network: str) -> None:
    base, dot, _ = network.partition(".")
    _known(f"timm:{network}", base, timm.list_models())
    if dot and network not in (tagged := timm.list_pretrained(f"{base}.*")):
        raise ConfigError(f"model.name: timm has no weights {network!r}; known: {', '.join(tagged) or 'none'}")


def _torchvision(models: ModuleType, network: str, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    _known(f"torchvision:{network}", network, models.list_models(module=models))
    channels, height, width = shape
    options: dict[str, Any] = {}
    if network in TRANSFORMING:
        options = {"aux_logits": False, "init_weights": True}
    elif network.startswith("vit_"):
        if height != width:
            raise ValueError("it takes square images")
        options = {"image_size": height}
    elif network.startswith("maxvit"):
        options = {"input_size": (height, width)}
    built: nn.Module = models.get_model(network, num_classes=num_classes, **options)
    if channels == 1:
        name, first = first_convolution(built)
        built.set_submodule(name, _grey(first))
    return built


def _timm(timm: ModuleType, network: str, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    _known_to_timm(timm, network)
    channels, height, width = shape
    found = timm.get_pretrained_cfg(network)
    sized = {"img_size": (height, width)} if found is not None and found.fixed_input_size else {}
    built: nn.Module = timm.create_model(network, num_classes=num_classes, in_chans=channels, **sized)
    return built


def first_convolution(network: nn.Module) -> tuple[str, nn.Conv2d]:
    """The first `nn.Conv2d` in order of registration, which sees the images.

    Raises:
        StopIteration: there is none.
    """
    return next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))


def _grey(first: nn.Conv2d) -> nn.Conv2d:
    """A convolution of one channel that gives what `first` gives of three equal ones."""
    size, stride, dilation = first.kernel_size, first.stride, first.dilation
    grey = nn.utils.skip_init(  # draws nothing
        nn.Conv2d, 1, first.out_channels, size, stride, first.padding, dilation, bias=first.bias is not None
    )
    with torch.no_grad():
        grey.weight.copy_(first.weight.sum(1, keepdim=True))
        if grey.bias is not None and first.bias is not None:
            grey.bias.copy_(first.bias)
    return grey


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")[:200] or type(error).__name__

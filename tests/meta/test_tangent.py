"""The tangent pass: exact against dual numbers and differences, two forwards' work, nothing moved that should not."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mwray.meta import tangent as tangent_module
from mwray.meta.forward_mode import ForwardMode
from mwray.meta.tangent import Linearized, record
from mwray.models.registry import MODELS


class Block(nn.Module):
    """A residual block with batch norm, an in-place activation and an in-place add."""

    def __init__(self, width: int, norm: Callable[[int], nn.Module], activation: nn.Module) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), norm(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, groups=2), norm(width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.activation(self.norm1(self.conv1(x)))))
        y += x
        return self.activation(y)


def residual_net(norm=nn.BatchNorm2d, activation: nn.Module | None = None, drop: float = 0.0) -> nn.Module:
    activation = activation or nn.ReLU(inplace=True)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        norm(8),
        activation,
        Block(8, norm, activation),
        nn.Dropout(drop),
        nn.MaxPool2d(2),
        Block(8, norm, activation),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


class Transformer(nn.Module):
    """Patches of an image, one PyTorch encoder layer, mean over tokens."""

    def __init__(self, drop: float, activation: str = "gelu", norm_first: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.position = nn.Parameter(torch.randn(1, 16, 16) * 0.1)
        self.layer = nn.TransformerEncoderLayer(
            16, 2, 24, dropout=drop, activation=activation, batch_first=True, norm_first=norm_first
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.layer(tokens).mean(1))


class Shared(nn.Module):
    """One batch norm and one convolution used twice, and a weight tied between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(self.norm(self.conv(self.stem(x))).relu())).tanh()
        return self.second(F.gelu(self.first(x.mean((2, 3)))))


def hooked() -> nn.Module:
    net = residual_net()
    net[1].register_forward_hook(lambda module, inputs, output: output * 1.5)
    net[3].register_forward_pre_hook(lambda module, inputs: (inputs[0].sigmoid(),))
    return net


def weight_normed() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(768, 6)), nn.SiLU(), nn.Linear(6, 5)
    )


NETS: dict[str, Callable[[], nn.Module]] = {
    "residual": residual_net,
    "dropout": lambda: residual_net(drop=0.4),
    "group norm": lambda: residual_net(lambda width: nn.GroupNorm(2, width), nn.SiLU(inplace=True)),
    "instance norm": lambda: residual_net(lambda width: nn.InstanceNorm2d(width, affine=True), nn.GELU()),
    "plain batch norm": lambda: residual_net(
        lambda width: nn.BatchNorm2d(width, affine=False), nn.LeakyReLU(inplace=True)
    ),
    "no running": lambda: residual_net(
        lambda width: nn.BatchNorm2d(width, track_running_stats=False), nn.ReLU6(inplace=True)
    ),
    "cumulative": lambda: residual_net(lambda width: nn.BatchNorm2d(width, momentum=None), nn.ELU(inplace=True)),
    "no norm": lambda: residual_net(nn.Identity, nn.Hardswish(inplace=True)),
    "evaluation": lambda: residual_net().eval(),
    "transformer": lambda: Transformer(0.0),
    "transformer, dropout": lambda: Transformer(0.3, "relu", norm_first=True),
    "transformer, evaluation": lambda: Transformer(0.3).eval(),
    "shared": Shared,
    "hooks": hooked,
    "weight norm": weight_normed,
    "resnet8": lambda: MODELS["resnet8"](5, (3, 16, 16)),
    "wide": lambda: MODELS["wrn10-1"](5, (3, 16, 16)),
    "mlp": lambda: MODELS["mlp"](5, (3, 16, 16)),
    "small": lambda: MODELS["small"](5, (3, 16, 16)),
}

WITHOUT_DUAL_NUMBERS = {"weight norm"}  # PyTorch has no forward derivative of its fused kernel


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    tangent_module._warned.clear()
    tangent_module._failures.clear()


def images(n: int = 6, size: int = 16, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, 3, size, size, dtype=dtype)


def random_direction(model: nn.Module) -> dict[str, Tensor]:
    return {name: torch.randn_like(p) for name, p in model.named_parameters()}


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def seeded_record(kind, model: nn.Module, x: Tensor):
    torch.manual_seed(7)
    return kind(model, x)


def differences(model: nn.Module, x: Tensor, direction: dict[str, Tensor], eps: float = 1e-6) -> Tensor:
    """Central difference of the outputs, random numbers as in `seeded_record`; buffers of a copy move."""

    def at(step: float) -> Tensor:
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in moved.named_parameters():
                parameter += step * direction[name]
        torch.manual_seed(7)
        return moved(x).detach()

    return (at(eps) - at(-eps)) / (2 * eps)


@pytest.mark.parametrize("name", NETS)
def test_follows_the_tape_to_the_exact_tangent(name, caplog):
    model, x = NETS[name]().double(), images()
    reference = copy.deepcopy(model)
    direction = random_direction(model)
    recording = seeded_record(Linearized, model, x)
    got = recording.tangent(direction)
    assert not caplog.records, "fell back to dual numbers"
    assert got.shape == recording.outputs.shape and not got.requires_grad
    if name not in WITHOUT_DUAL_NUMBERS:
        assert relative(got, seeded_record(ForwardMode, reference, x).tangent(direction)) < 1e-12
    assert relative(got, differences(model, x, direction)) < 1e-6
    assert torch.equal(recording.tangent(direction), got)


@pytest.mark.parametrize("name", ["residual", "dropout", "group norm", "transformer", "resnet8"])
def test_single_precision(name):
    model, x = NETS[name](), images(dtype=torch.float32)
    direction = random_direction(model)
    got = seeded_record(Linearized, copy.deepcopy(model), x).tangent(direction)
    wide = {key: value.double() for key, value in direction.items()}
    with_masks = "dropout" in name  # drawn per dtype: compare those in single precision
    if with_masks:
        assert relative(got, seeded_record(ForwardMode, model, x).tangent(direction)) < 1e-5
    else:
        assert relative(got.double(), seeded_record(ForwardMode, model.double(), x.double()).tangent(wide)) < 1e-5


@pytest.mark.parametrize("name", ["residual", "group norm", "resnet8", "transformer"])
def test_channels_last(name):
    model, x = NETS[name]().double(), images()
    direction = random_direction(model)
    expected = Linearized(copy.deepcopy(model), x).tangent(direction)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    got = Linearized(last, x.to(memory_format=torch.channels_last)).tangent(direction)
    assert relative(got, expected) < 1e-12


@pytest.mark.parametrize("kind", [Linearized, ForwardMode])
@pytest.mark.parametrize("name", ["dropout", "cumulative", "shared", "no running", "transformer, dropout"])
def test_the_forward_is_the_models_own(kind, name):
    model, x = NETS[name]().double(), images()
    twin = copy.deepcopy(model)
    torch.manual_seed(7)
    outputs = twin(x)
    after = torch.get_rng_state()
    recording = seeded_record(kind, model, x)
    assert torch.equal(recording.outputs, outputs)
    recording.tangent(random_direction_at(model))
    assert torch.equal(torch.get_rng_state(), after) is True
    for (key, mine), (_, theirs) in zip(model.state_dict().items(), twin.state_dict().items(), strict=True):
        assert torch.equal(mine, theirs), key
    mine = torch.autograd.grad(recording.outputs.square().sum(), list(model.parameters()))
    theirs = torch.autograd.grad(outputs.square().sum(), list(twin.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def random_direction_at(model: nn.Module) -> dict[str, Tensor]:
    """A direction that draws nothing from the global generator."""
    generator = torch.Generator().manual_seed(1)
    return {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in model.named_parameters()}


def test_missing_names_are_zero():
    model, x = residual_net().double(), images()
    direction = random_direction(model)
    some = {name: value for name, value in direction.items() if "norm2" in name or name.startswith("9")}
    padded = {name: some.get(name, torch.zeros_like(value)) for name, value in direction.items()}
    recording = Linearized(model, x)
    assert relative(recording.tangent(some), recording.tangent(padded)) < 1e-14
    assert recording.tangent({}).equal(torch.zeros_like(recording.outputs))


def test_each_parameter_alone():
    """Every rule meets every combination of present and absent tangents."""
    model, x = residual_net().double(), images(3)
    recording, oracle = Linearized(copy.deepcopy(model), x), ForwardMode(model, x)
    for name, value in random_direction(model).items():
        got, expected = recording.tangent({name: value}), oracle.tangent({name: value})
        # A bias before batch norm has no effect at all: compare absolutely.
        assert (got - expected).abs().max() < 1e-10, name


def test_frozen_parameters():
    model, x = residual_net().double(), images()
    model[0].requires_grad_(False)
    direction = random_direction(model)
    trained = {name: value for name, value in direction.items() if not name.startswith("0.")}
    oracle = ForwardMode(copy.deepcopy(model), x)
    recording = Linearized(model, x)
    assert relative(recording.tangent(trained), oracle.tangent(trained)) < 1e-12
    assert relative(recording.tangent(direction), oracle.tangent(direction)) < 1e-12


def test_two_pull_backs_and_a_tangent_between():
    """<u, J v> = <J' u, v>, with the graph used as the meta step uses it."""
    model, x = residual_net(drop=0.2).double(), images()
    direction = random_direction(model)
    recording = Linearized(model, x)
    cotangent = torch.randn_like(recording.outputs)
    parameters = list(model.parameters())
    first = torch.autograd.grad(recording.outputs, parameters, cotangent, retain_graph=True)
    got = (recording.tangent(direction) * cotangent).sum()
    second = torch.autograd.grad(recording.outputs, parameters, cotangent)
    pulled = sum((g * direction[n]).sum() for g, n in zip(first, direction, strict=True))
    assert float(abs(got - pulled) / abs(pulled)) < 1e-12
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def convolution_flops(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["resnet32", "wrn16-4"])
def test_costs_two_forwards_at_most(name):
    """The count that the saving stands on: no convolution of the forward is run again for the tangent."""
    model, x = MODELS[name](10, (3, 32, 32)), images(2, 32, torch.float32)
    forward = convolution_flops(lambda: model(x))
    recordings = []
    assert convolution_flops(lambda: recordings.append(record(model, x))) == forward
    direction = random_direction(model)
    assert 1.9 * forward < convolution_flops(lambda: recordings[0].tangent(direction)) <= 2 * forward
    assert convolution_flops(lambda: ForwardMode(model, x).tangent(direction)) > 3.9 * forward  # recorded and replayed


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside held at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        for result in results if isinstance(results, (list, tuple)) else [results]:
            if isinstance(result, Tensor):
                storage = result.untyped_storage()
                self.live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.live = {key: value for key, value in self.live.items() if not value[0].expired()}
        self.bytes = max(self.bytes, sum(size for _, size in self.live.values()))
        return results


def test_memory_stays_near_plain_training():
    model, x = MODELS["resnet20"](10, (3, 32, 32)), images(16, 32, torch.float32)
    direction, parameters = random_direction(model), list(model.parameters())
    with Peak() as plain:
        torch.autograd.grad(model(x).square().sum(), parameters)
    with Peak() as ours:
        recording = record(model, x)
        torch.autograd.grad(recording.outputs.sum(), parameters, retain_graph=True)
        recording.tangent(direction)
        torch.autograd.grad(recording.outputs.sum(), parameters)
    assert ours.bytes < 1.2 * plain.bytes


def test_half_precision_by_autocast():
    """Master weights, batch statistics and direction stay in float32; no worse than bfloat16's own gradients."""
    model, x = residual_net(), images(32, dtype=torch.float32)
    direction, parameters = random_direction(model), list(model.parameters())
    oracle = ForwardMode(copy.deepcopy(model), x)
    cotangent = torch.randn_like(oracle.outputs)
    exact = torch.autograd.grad(model(x), parameters, cotangent)
    with torch.autocast("cpu", torch.bfloat16):
        model(x)  # fills autocast's cache of cast weights
        recording = Linearized(model, x)
        inside = recording.tangent(direction)
    assert recording.outputs.dtype == torch.bfloat16
    assert torch.equal(recording.tangent(direction), inside)
    rough = torch.autograd.grad(recording.outputs, parameters, cotangent.bfloat16())
    gradient_error = relative(*(torch.cat([g.flatten() for g in gradients]) for gradients in (rough, exact)))
    assert relative(inside.float(), oracle.tangent(direction)) < gradient_error < 0.3


class StraightThrough(torch.autograd.Function):
    """Rounds, with the derivative of the identity."""

    @staticmethod
    def forward(x):
        return x.round()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient

    @staticmethod
    def jvp(ctx, tangent):
        return tangent.clone()


class Rounded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(768, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(StraightThrough.apply(self.body(x.flatten(1)) * 5))


def test_falls_back_to_dual_numbers_and_says_so_once(caplog):
    x = images()
    with caplog.at_level(logging.WARNING, logger="mwray"):
        for _ in range(2):
            model = Rounded().double()
            for _ in range(2):
                direction = random_direction(model)
                got = record(model, x).tangent(direction)
                assert relative(got, ForwardMode(model, x).tangent(direction)) < 1e-12
    assert len(caplog.records) == 1
    assert "Rounded" in caplog.text and "custom function" in caplog.text


class Stopped(nn.Module):
    """Gradients stopped in three ways, and noise shaped like an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(768, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x.flatten(1)).tanh()
        with torch.no_grad():
            scale = h.abs().mean()
        gate = (h.detach() > 0).double() + torch.rand_like(h)
        return self.head(h * gate / scale + h.detach().exp())


def test_stopped_gradients_stop_tangents():
    """Reverse mode is the definition: <u, J v> = <J' u, v>."""
    model, x = Stopped().double(), images()
    direction, recording = random_direction(model), Linearized(model, x)
    cotangent = torch.randn_like(recording.outputs)
    pulled = torch.autograd.grad(recording.outputs, list(model.parameters()), cotangent, retain_graph=True)
    expected = sum((g * direction[n]).sum() for g, n in zip(pulled, direction, strict=True))
    got = (recording.tangent(direction) * cotangent).sum()
    assert recording._tape.failure is None
    assert float(abs(got - expected) / abs(expected)) < 1e-12


class Overlapping(nn.Module):
    """Writes through one view and reads another: the tape must not guess."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(768, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x.flatten(1)) * 1
        h[:, :3].mul_(h[:, 3:] * 1)
        canvas = torch.zeros(len(x), 8, dtype=x.dtype)
        canvas[:, 1:7] = h.sin()
        return canvas.cumsum(1)


def test_overlapping_views_are_right():
    model, x = Overlapping().double(), images()
    direction = random_direction(model)
    got = record(model, x).tangent(direction)
    assert relative(got, differences(model, x, direction)) < 1e-7


def test_spectral_norm_starts_the_replay_from_its_old_vectors(caplog):
    model = nn.Sequential(nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(768, 6)), nn.Linear(6, 5))
    model, x = model.double(), images()
    direction, recording = random_direction(model), record(model, x)
    cotangent = torch.randn_like(recording.outputs)
    pulled = torch.autograd.grad(recording.outputs, list(model.parameters()), cotangent, retain_graph=True)
    expected = sum((g * direction[n]).sum() for g, n in zip(pulled, direction, strict=True))
    assert float(abs((recording.tangent(direction) * cotangent).sum() - expected) / abs(expected)) < 1e-12


@pytest.mark.parametrize("kind", [Linearized, ForwardMode])
def test_compiled_models_keep_their_tangent(kind):
    model, x = residual_net().double(), images()
    direction = random_direction(model)
    expected = ForwardMode(copy.deepcopy(model), x).tangent(direction)
    compiled = torch.compile(model, backend="eager")
    named = {f"_orig_mod.{name}": value for name, value in direction.items()}
    assert relative(kind(compiled, x).tangent(named), expected) < 1e-12


@pytest.mark.parametrize("kind", [Linearized, ForwardMode])
def test_refuses_what_cannot_be_right(kind):
    model, x = residual_net().double(), images()
    recording = kind(model, x)
    with pytest.raises(ValueError, match=r"'weight', which is no parameter of Sequential"):
        recording.tangent({"weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"direction\['9.bias'\] has shape \(4,\); its parameter has \(5,\)"):
        recording.tangent({"9.bias": torch.zeros(4).double()})
    with torch.no_grad():
        model[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="before the optimiser steps"):
        recording.tangent({})
    with pytest.raises(ValueError, match="Pair returns tuple; it must return one tensor"):
        kind(Pair(), x)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x

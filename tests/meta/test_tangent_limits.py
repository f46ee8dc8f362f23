"""The tangent pass at its edges: what it costs, what it keeps, where it falls back, what it refuses."""

from __future__ import annotations

import copy
import gc
import logging
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import Peak
from mwray.meta import tangent as tangent_module
from mwray.meta.forward_mode import ForwardMode
from mwray.meta.tangent import Linearized, record
from mwray.models.registry import MODELS
from tests.meta.tangent_nets import differences, images, random_direction, relative, residual_net


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    tangent_module._warned.clear()
    tangent_module._failures.clear()


def convolution_flops(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["resnet32", "wrn16-4"])
def test_costs_two_forwards_at_most(name):
    """The count that the saving stands on: no convolution of the forward is run again for the tangent."""
    model, x = MODELS[name](10, (3, 32, 32)), images(2, 32, torch.float32)
    forward = convolution_flops(lambda: model(x))
    assert convolution_flops(lambda: record(model, x)) == forward
    recording, direction = record(model, x), random_direction(model)  # made without the counter's hooks
    first = convolution_flops(lambda: recording.tangent(direction))
    again = convolution_flops(lambda: recording.tangent(direction))
    assert 1.9 * forward < again <= 2 * forward
    assert again + 1.9 * forward < first <= again + 2 * forward  # with the backward pass that bears it out
    assert convolution_flops(lambda: ForwardMode(model, x).tangent(direction)) > 3.9 * forward  # recorded and replayed


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


def test_memory_goes_with_the_recording():
    """Without a reference cycle: waiting for the garbage collector would keep two steps' activations."""
    model, x = residual_net(), images(dtype=torch.float32)
    gc.collect()
    gc.disable()
    try:
        recording = record(model, x)
        recording.tangent(random_direction(model))
        kept = {StorageWeakRef(t.untyped_storage()) for entry in recording._tape._entries for t in entry.kept}
        owned = {StorageWeakRef(t.untyped_storage()) for t in [x, *model.state_dict().values()]}
        kept -= owned
        assert len(kept) > 10 and not any(reference.expired() for reference in kept)
        del recording
        assert all(reference.expired() for reference in kept)
    finally:
        gc.enable()


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


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.body = kind(48, 4, batch_first=True, num_layers=2, bidirectional=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.transpose(1, 2).flatten(2))[0][:, -1])


@pytest.mark.parametrize(("kind", "followed"), [(nn.RNN, True), (nn.GRU, False), (nn.LSTM, False)])
def test_recurrent_networks(kind, followed, caplog):
    """PyTorch transposes their states in place, and overwrites gates that are views of one tensor."""
    model, x = Recurrent(kind).double(), images()
    direction = random_direction(model)
    assert relative(record(model, x).tangent(direction), differences(model, x, direction)) < 1e-7
    assert followed == (not caplog.records)
    assert followed or "takes a tensor of unknown history (overlapping views) (in body, " in caplog.text


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


def test_no_warning_of_pytorch_s_own_reaches_a_user():
    """In a process of its own: the warning comes once in each."""
    code = (
        "import torch; from mwray.meta.forward_mode import ForwardMode\n"
        "model, x = torch.nn.Linear(3, 2), torch.randn(4, 3)\n"
        "direction = {name: torch.ones_like(p) for name, p in model.named_parameters()}\n"
        "ForwardMode(model, x).tangent(direction)"
    )
    done = subprocess.run([sys.executable, "-W", "error::FutureWarning", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

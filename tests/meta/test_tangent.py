"""The tangent pass: exact against dual numbers and differences, and nothing moved that should not move."""

from __future__ import annotations

import copy

import pytest
import torch

from mwray.meta import tangent as tangent_module
from mwray.meta.forward_mode import ForwardMode
from mwray.meta.tangent import Linearized
from tests.meta.tangent_nets import (
    NETS,
    WITHOUT_DUAL_NUMBERS,
    differences,
    images,
    random_direction,
    random_direction_at,
    relative,
    residual_net,
    seeded_record,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    tangent_module._warned.clear()
    tangent_module._failures.clear()


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
def test_channels_last(name, caplog):
    model, x = NETS[name]().double(), images()
    direction = random_direction(model)
    expected = Linearized(copy.deepcopy(model), x).tangent(direction)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    got = Linearized(last, x.to(memory_format=torch.channels_last)).tangent(direction)
    assert relative(got, expected) < 1e-12
    assert not caplog.records, "fell back to dual numbers"


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

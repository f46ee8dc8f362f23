"""A tangent is held to a backward pass: what is true passes, in every precision; what is not is found."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import Tensor, nn

from mwray.meta import tape as tape_module
from mwray.meta.duality import ALLOWED, ALLOWED_IN_HALF, PERIOD, Trust, defect
from mwray.meta.forward_mode import ForwardMode
from mwray.meta.pull_backs import PullBacks
from mwray.meta.tangent import Linearized, record
from mwray.models.half import Bfloat16
from tests.meta.tangent_nets import NETS, images, random_direction, relative, residual_net


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def found(model: nn.Module, x: Tensor, share: float = 1.0) -> float:
    """The defect of `share` times the tangent along a random direction."""
    recording, direction = record(model, x), random_direction(model)
    tangent = share * recording.tangent(direction)
    return defect(recording.outputs, dict(model.named_parameters()), direction, tangent)


@pytest.mark.parametrize("name", NETS)
def test_rounding_is_far_from_what_counts(name):
    """In bfloat16 this is also how the tape's rules meet its mixture of types."""
    model, x = NETS[name](), images(8)
    assert found(model.double(), x) < 1e-12
    assert found(model.float(), x.float()) < ALLOWED / 100
    narrow = Bfloat16(model)
    assert found(narrow, x.float()) < ALLOWED_IN_HALF / 3
    assert isinstance(record(narrow, x.float()), Linearized)


@pytest.mark.parametrize("share", [0.5, 0.99, 1.01, 1.5, -1.0])
def test_a_wrong_tangent_is_found(share):
    assert found(residual_net().double(), images(), share) > ALLOWED


def test_a_tangent_that_leaves_samples_out_is_found():
    model, x = residual_net(lambda width: nn.GroupNorm(2, width)).double(), images()
    recording, direction = record(model, x), random_direction(model)
    tangent = recording.tangent(direction)
    tangent[3:] = 0
    assert defect(recording.outputs, dict(model.named_parameters()), direction, tangent) > ALLOWED


def test_edges():
    model = nn.Linear(3, 2)
    parameters, x = dict(model.named_parameters()), torch.ones(4, 3)
    zero = {name: torch.zeros_like(p) for name, p in parameters.items()}
    assert math.isnan(defect(model(x), parameters, zero, None))
    assert math.isnan(defect(model(x), parameters, {}, None))
    assert defect(model(x), parameters, {}, torch.ones(4, 2)) > ALLOWED  # nothing moves, and yet it is said to
    assert defect(model(x).sum(), parameters, zero | {"bias": torch.ones(2)}, torch.tensor(8.0)) < 1e-6
    assert math.isnan(defect(model(x) * math.inf, parameters, zero | {"bias": torch.ones(2)}, torch.ones(4, 2)))


def test_sparse_gradients():
    model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(8, 3)).double()
    rows = torch.randint(9, (5, 2))
    recording, direction = record(model, rows), random_direction(model)
    tangent = recording.tangent(direction)
    assert defect(recording.outputs, dict(model.named_parameters()), direction, tangent) < 1e-12


def test_an_operation_with_a_wrong_rule_does_not_pass(monkeypatch, caplog):
    """Whatever the reason: a tangent that backward passes give the lie is not used."""
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.Tanh(), nn.Linear(8, 5)).double(), images()
    direction = random_direction(model)
    expected = PullBacks(model, x).tangent(direction)
    wrong = dict(tape_module.RULES)
    wrong["tanh"] = lambda call: lambda tangents: 2 * tangents["self"]
    monkeypatch.setattr(tape_module, "RULES", wrong)
    with caplog.at_level(logging.WARNING, logger="mwray"):
        assert relative(record(model, x).tangent(direction), expected) < 1e-12
    assert "two pull-backs" in caplog.text and isinstance(record(model, x), PullBacks)


def test_numbers_that_are_not_finite_tell_nothing(caplog):
    """A training that diverges goes on to say so itself."""
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.bias.fill_(math.inf)
    tangent = record(model, torch.full((4, 3), 1e30)).tangent({"weight": torch.full((2, 3), 1e30)})
    assert not tangent.isfinite().all() and not caplog.records


def test_a_step_that_goes_nowhere_earns_no_trust(caplog):
    """A learning rate that rises from zero."""

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(768, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.body(x.flatten(1)).tanh()
            outputs: Tensor = self.head(hidden)
            hidden.grad_fn.register_prehook(lambda to_outputs: tuple(-g for g in to_outputs))
            return outputs

    model, x = Late().double(), images()
    direction = random_direction(model)
    tangent = record(model, x).tangent({name: torch.zeros_like(v) for name, v in direction.items()})
    assert not tangent.any() and not caplog.records
    assert relative(record(model, x).tangent(direction), PullBacks(model, x).tangent(direction)) < 1e-12


def test_a_hidden_backward_that_is_not_linear_is_refused():
    class Clipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(768, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.body(x.flatten(1))
            hidden.grad_fn.register_prehook(lambda to_outputs: tuple(g.sign() for g in to_outputs))
            outputs: Tensor = self.head(hidden)
            return outputs

    model = Clipped().double()
    with pytest.raises(RuntimeError, match="Clipped has no tangent pass: its backward pass .*gives it the lie"):
        Linearized(model, images()).tangent(random_direction(model))


def test_trust_ends_with_a_new_hook_and_after_a_while():
    model, trust = residual_net(), Trust()
    assert not trust.spend(model)
    trust.give(model)
    assert [trust.spend(model) for _ in range(PERIOD)] == [True] * (PERIOD - 1) + [False]
    for hook in (
        lambda: model[0].weight.register_hook(lambda gradient: None),
        lambda: model[3].norm1.register_forward_hook(lambda module, given, made: None),
        lambda: model[3].norm1.register_forward_pre_hook(lambda module, given: None),
        lambda: model[-1].register_full_backward_hook(lambda module, to_input, to_output: None),
        lambda: model[-1].register_full_backward_pre_hook(lambda module, to_output: None),
    ):
        trust.give(model)
        assert trust.spend(model)
        handle = hook()
        assert not trust.spend(model)
        trust.give(model)
        handle.remove()
        assert not trust.spend(model)
    trust.give(model)
    trust.clear()
    assert not trust.spend(model)


def test_a_hook_that_comes_later_is_found(caplog):
    """Also where the tape was left behind long ago, for dual numbers."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.GRU(48, 8, batch_first=True), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            outputs: Tensor = self.head(self.body(x.transpose(1, 2).flatten(2))[0][:, -1])
            return outputs

    tape, dual, x = residual_net(nn.Identity).double(), Recurrent().double(), images()
    for model in (tape, dual):
        record(model, x).tangent(random_direction(model))
    assert isinstance(record(tape, x), Linearized) and isinstance(record(dual, x), ForwardMode)
    tape[-1].register_forward_hook(lambda module, given, made: given[0].register_hook(lambda g: 0.1 * g) and None)
    dual.head.weight.register_hook(lambda gradient: 0.1 * gradient)
    for model in (tape, dual):
        direction = random_direction(model)
        assert relative(record(model, x).tangent(direction), PullBacks(model, x).tangent(direction)) < 1e-12
        assert isinstance(record(model, x), PullBacks)


def test_half_precision_that_loses_a_gradient_is_told_and_not_blamed_on_the_tangent(caplog):
    """A row used 2,400 times: the tangent counts in float32, PyTorch's backward pass adds up in bfloat16."""
    model, rows = nn.Embedding(4, 8, scale_grad_by_freq=True).bfloat16(), torch.zeros(600, 4, dtype=torch.long)
    with caplog.at_level(logging.WARNING, logger="mwray"):
        for _ in range(2):
            tangent = record(model, rows).tangent({"weight": torch.ones_like(model.weight)})
            assert float(tangent.detach()[0, 0, 0]) == pytest.approx(1 / 2400, rel=1e-2)
    assert len(caplog.records) == 1 and "Embedding: its tangent pass is not what its backward pass says" in caplog.text
    assert isinstance(record(model, rows), Linearized)

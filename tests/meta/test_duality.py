"""A tangent is held to a backward pass: what is true passes, in every precision; what is not is found."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import Tensor, nn

from mwray.meta import tape as tape_module
from mwray.meta.duality import ALLOWED, defect
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
    assert found(model.float(), x.float()) < ALLOWED / 1000
    narrow = Bfloat16(model)
    assert found(narrow, x.float()) < ALLOWED / 3
    assert isinstance(record(narrow, x.float()), Linearized)


@pytest.mark.parametrize("share", [0.5, 0.9, 1.1, 1.5, -1.0])
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
    assert defect(model(x), parameters, zero, None) == 0
    assert defect(model(x), parameters, {}, None) == 0
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

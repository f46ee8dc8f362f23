"""The virtual step by itself, against the step of PyTorch's own optimiser."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from mwray.meta.gradient import look_ahead
from tests.meta.test_step import OPTIMIZERS

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_look_ahead_of_the_optimizer_is_its_next_step_and_its_derivative(name, steps):
    """The first step too, before which there is no state; the derivative is that of the step, by differences."""
    model = nn.Linear(4, 3)
    optimizer = OPTIMIZERS[name](model)
    for group in optimizer.param_groups:
        group.update({"eps": 0.1} if "eps" in group else {})  # else Adam's first step is +-lr, whatever the gradient
    parameters, slopes = list(model.parameters()), [torch.randn(3, 4), torch.randn(3)]

    def move(gradients: list[Tensor]) -> list[Tensor]:
        """Where the real optimiser goes, which is not there afterwards."""
        before, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g.clone()
        optimizer.step()
        found = [p.detach().clone() for p in parameters]
        model.load_state_dict(before)
        optimizer.load_state_dict(state)
        return found

    for _ in range(steps):
        for p in parameters:
            p.grad = torch.randn_like(p)
        optimizer.step()
    ahead = look_ahead(optimizer, parameters, slopes, "optimizer")
    torch.testing.assert_close(ahead.parameters, move(slopes), rtol=1e-12, atol=1e-14)
    meta, direction = ([torch.randn_like(p) for p in parameters] for _ in range(2))
    pulled = ahead.pull_back(meta)
    up, down = (move([g + e * d for g, d in zip(slopes, direction, strict=True)]) for e in (1e-6, -1e-6))
    by_differences = sum(float((m * (a - b)).sum()) / 2e-6 for m, a, b in zip(meta, up, down, strict=True))
    by_derivative = sum(float((p * d).sum()) for p, d in zip(pulled, direction, strict=True))
    assert by_derivative == pytest.approx(by_differences, rel=1e-5)

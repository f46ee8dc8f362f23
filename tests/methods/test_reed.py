"""Bootstrapping: where the gradient flows and where it does not."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mwray.methods.losses import entropy
from mwray.methods.settings import BaseModelSettings, ReedSettings
from tests.methods.setups import batches, make_setup, same, started


def logits_and_labels() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(8, 4, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(4, (8,), generator=generator)


@pytest.mark.parametrize(("settings", "beta"), [(ReedSettings(), 0.8), (ReedSettings(beta=0.5), 0.5)])
def test_the_hard_gradient_is_that_of_cross_entropy_against_a_constant_blend(settings, beta):
    logits, y = logits_and_labels()
    method = started(settings, make_setup())
    (ours,) = torch.autograd.grad(method.objective(logits, y).sum(), logits)
    guess = logits.detach().argmax(1)
    target = beta * F.one_hot(y, 4).double() + (1 - beta) * F.one_hot(guess, 4).double()
    torch.testing.assert_close(ours, logits.detach().softmax(1) - target)  # p - q: all of it, so none through q


@pytest.mark.parametrize(("beta", "ends_at_the_label"), [(0.8, True), (0.6, True), (0.4, False), (0.2, False)])
def test_a_guess_resists_being_taught_a_wrong_label_by_heart_below_one_half_only(beta, ends_at_the_label):
    """A network that can fit every label moves each sample's logits freely. With the guess at class 0 the loss of label
    1 is least at p_1 = beta: above one half the guess turns into the label on the way there, and nothing is left of it.
    """
    method = started(ReedSettings(beta=beta), make_setup())
    logits = torch.tensor([[4.0, 0.0]], dtype=torch.float64, requires_grad=True)  # sure of class 0
    for _ in range(2000):
        (gradient,) = torch.autograd.grad(method.objective(logits, torch.tensor([1])).sum(), logits)
        logits = (logits - 0.5 * gradient).detach().requires_grad_()
    p = float(logits.detach().softmax(1)[0, 1])
    assert p == pytest.approx(1.0 if ends_at_the_label else beta, abs=0.01)


def test_the_soft_form_regularises_the_entropy():
    logits, y = logits_and_labels()
    method = started(ReedSettings(form="soft"), make_setup())
    p = logits.softmax(1)
    expected = 0.95 * F.cross_entropy(logits, y, reduction="none") - 0.05 * (p * p.log()).sum(1)
    torch.testing.assert_close(method.objective(logits, y), expected)
    assert torch.autograd.gradcheck(lambda z: method.objective(z, y), logits)


def test_a_soft_guess_held_constant_would_teach_nothing():
    logits, _ = logits_and_labels()
    guess = logits.detach().softmax(1)
    (held,) = torch.autograd.grad(-(guess * logits.log_softmax(1)).sum(), logits, retain_graph=True)
    (flowing,) = torch.autograd.grad(entropy(logits).sum(), logits)
    assert held.abs().max() < 1e-15
    assert flowing.abs().max() > 0.01


@pytest.mark.parametrize("form", ["hard", "soft"])
def test_full_trust_in_labels_is_basemodel(form):
    setup = make_setup()
    ours, base = started(ReedSettings(form=form, beta=1.0), setup), started(BaseModelSettings(), setup)
    for batch in batches(setup):
        ours.update(batch, None)
        base.update(batch, None)
    assert same(ours.state(), base.state())

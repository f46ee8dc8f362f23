"""Focal loss against written-out numbers, cross-entropy and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from mwray.config import ConfigError
from mwray.methods.losses import focal_weight, sigmoid_focal, softmax_focal
from mwray.methods.settings import BaseModelSettings, FocalSettings
from tests.methods.setups import batches, make_setup, parameters, same, started


def logits_and_labels(classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(7, classes, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(classes, (7,), generator=generator)


def test_the_softmax_form_is_the_written_formula():
    logits, y = logits_and_labels()
    p = logits.softmax(1)[torch.arange(7), y]
    torch.testing.assert_close(softmax_focal(logits, y, 2.0), -((1 - p) ** 2) * p.log())


def test_with_gamma_0_both_forms_are_cross_entropies():
    logits, y = logits_and_labels()
    torch.testing.assert_close(softmax_focal(logits, y, 0.0), F.cross_entropy(logits, y, reduction="none"))
    binary = F.binary_cross_entropy_with_logits(logits, F.one_hot(y, 5).double(), reduction="none").sum(1)
    torch.testing.assert_close(sigmoid_focal(logits, y, 0.0), binary)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_the_sigmoid_form_is_that_of_torchvision(gamma):
    logits, y = logits_and_labels()
    ops = pytest.importorskip("torchvision.ops")
    theirs = ops.sigmoid_focal_loss(logits, F.one_hot(y, 5).double(), alpha=-1, gamma=gamma).sum(1)
    torch.testing.assert_close(sigmoid_focal(logits, y, gamma), theirs)


@pytest.mark.parametrize("form", [softmax_focal, sigmoid_focal])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_gradient_is_that_of_differences(form, gamma):
    logits, y = logits_and_labels()
    assert torch.autograd.gradcheck(lambda z: form(z, y, gamma), logits)


@pytest.mark.parametrize("form", [softmax_focal, sigmoid_focal])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_a_certain_sample_has_a_finite_gradient(form, gamma):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)  # certainly right, certainly wrong
    (gradient,) = torch.autograd.grad(form(logits, torch.tensor([0, 0]), gamma).sum(), logits)
    assert gradient.isfinite().all()
    assert gradient[0].abs().max() == 0
    assert gradient[1].abs().max() > 0.9


def test_the_drawn_curve_is_the_factor_in_the_loss():
    method = started(FocalSettings(gamma=2.0), make_setup())
    step = method.update(batches(make_setup())[0], None)
    curve = method.curve()
    torch.testing.assert_close(curve(step.losses), step.weights)
    assert focal_weight(torch.tensor(math.log(2)), 2.0) == pytest.approx(0.25)


def test_with_gamma_0_training_is_that_of_basemodel():
    setup = make_setup()
    ours, base = started(FocalSettings(gamma=0.0), setup), started(BaseModelSettings(), setup)
    for batch in batches(setup):
        ours.update(batch, None)
        base.update(batch, None)
    assert same(ours.state(), base.state())


def test_the_sigmoid_form_starts_each_class_at_its_share_and_never_decays_that_bias():
    setup = make_setup(lr=0.1, momentum=0.0, weight_decay=0.5)
    method = started(FocalSettings(form="sigmoid"), setup)
    layer = method.classifier.network.layers[-1]
    torch.testing.assert_close(layer.bias.sigmoid(), torch.full((10,), 0.1))
    before = layer.bias.clone(), layer.weight.clone()
    for parameter in method.classifier.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    method.classifier.optimizer.step()
    assert torch.equal(layer.bias, before[0])
    torch.testing.assert_close(layer.weight, before[1] * (1 - 0.1 * 0.5))
    held = [p for group in method.classifier.optimizer.param_groups for p in group["params"]]
    assert len(held) == len(list(method.classifier.network.parameters())) == len({id(p) for p in held})
    assert parameters(method.classifier.network).isfinite().all()


def test_the_sigmoid_form_refuses_a_network_without_a_last_linear_layer():
    setup = make_setup(model="tests.methods.test_focal:headless")
    with pytest.raises(ConfigError, match="model.name: this method needs a network that ends in an nn.Linear with 10"):
        started(FocalSettings(form="sigmoid"), setup)


def headless(num_classes: int, shape: tuple[int, int, int]) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(shape[0], num_classes, shape[1:]), torch.nn.Flatten())

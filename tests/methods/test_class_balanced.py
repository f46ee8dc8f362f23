"""Class-Balanced weights against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from mwray.config import ConfigError
from mwray.data.splits import Subset
from mwray.methods.class_balanced import class_weights
from mwray.methods.settings import BaseModelSettings, ClassBalancedSettings
from tests.methods.setups import batches, make_setup, parameters, started


def test_weights_of_three_classes_by_hand():
    # beta 0.9: E_1 = 1, E_2 = 1 + 0.9, E_3 = 1 + 0.9 + 0.81; the inverses, scaled to sum to 3.
    inverse = torch.tensor([1.0, 1 / 1.9, 1 / 2.71], dtype=torch.float64)
    torch.testing.assert_close(class_weights(torch.tensor([1, 2, 3]), 0.9), 3 * inverse / inverse.sum())


def test_beta_0_weighs_all_alike_and_beta_near_1_by_inverse_size():
    counts = torch.tensor([5000, 500, 50])
    torch.testing.assert_close(class_weights(counts, 0.0), torch.ones(3, dtype=torch.float64))
    inverse = 1 / counts.double()
    torch.testing.assert_close(class_weights(counts, 1 - 1e-12), 3 * inverse / inverse.sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid", "focal"])
def test_equal_classes_weigh_one(loss):
    setup = make_setup(noise="none", rate=0.0)  # 20 of each class
    method = started(ClassBalancedSettings(loss=loss), setup)
    torch.testing.assert_close(method.class_weights, torch.ones(10))
    assert method.findings()[0] == pytest.approx({"weight_lowest": 1.0, "weight_highest": 1.0})


def test_with_equal_classes_the_step_is_that_of_basemodel():
    setup = make_setup(noise="none", rate=0.0)
    ours, base = started(ClassBalancedSettings(), setup), started(BaseModelSettings(), setup)
    for batch in batches(setup):
        ours.update(batch, None)
        base.update(batch, None)
    torch.testing.assert_close(parameters(ours.classifier.network), parameters(base.classifier.network))


def test_the_loss_is_the_weight_times_the_loss_and_is_not_divided_by_the_weights():
    setup = make_setup(None, noise="none", rate=0.0, imbalance=10.0)
    method = started(ClassBalancedSettings(beta=0.99), setup)
    logits, y = torch.randn(6, 10), torch.tensor([0, 1, 9, 9, 5, 0])
    counts = torch.bincount(setup.splits.train.observed, minlength=10)
    assert counts[0] // 10 == counts[9]
    expected = class_weights(counts, 0.99).float()[y] * F.cross_entropy(logits, y, reduction="none")
    torch.testing.assert_close(method.objective(logits, y), expected)
    step = method.show(logits, y, expected)
    torch.testing.assert_close(step.losses, F.cross_entropy(logits, y, reduction="none"))


def test_a_class_without_images_is_refused_by_name():
    setup = make_setup(noise="none", rate=0.0)
    train = setup.splits.train
    kept = train.observed != 3
    fewer = Subset(train.images[kept], train.observed[kept], train.true[kept], train.index[kept])
    setup = replace(setup, splits=replace(setup.splits, train=fewer))
    with pytest.raises(ConfigError, match="'class-balanced' needs training samples of every class, and none .* '3'"):
        started(ClassBalancedSettings(), setup)

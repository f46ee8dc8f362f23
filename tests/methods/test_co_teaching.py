"""Co-teaching: the schedule, the exchange of picks, and the case where nothing is forgotten."""

from __future__ import annotations

import pytest
import torch

from mwray.methods.base_model import BaseModel
from mwray.methods.classifier import Classifier
from mwray.methods.co_teaching import forget, smallest
from mwray.methods.settings import BaseModelSettings, CoTeachingSettings
from tests.methods.setups import batches, make_setup, parameters, same, started


def test_without_forgetting_it_is_two_plain_networks():
    setup = make_setup()
    method = started(CoTeachingSettings(forget_rate=0.0), setup, epoch=3)
    plain = started(BaseModelSettings(), setup)
    assert isinstance(plain, BaseModel)
    other = started(BaseModelSettings(), setup)
    other.classifier = Classifier(setup, "second")
    for batch in batches(setup):
        method.update(batch, None)
        plain.update(batch, None)
        other.update(batch, None)
    for network, alone in zip(method.networks, (plain, other), strict=True):
        torch.testing.assert_close(parameters(network.network), parameters(alone.classifier.network))
    assert not torch.allclose(parameters(method.networks[0].network), parameters(method.networks[1].network))
    x = batches(setup)[0].x
    torch.testing.assert_close(method.predict(x), plain.predict(x))


def test_each_network_learns_from_the_others_easy_samples():
    setup = make_setup(momentum=0.0, weight_decay=0.0)
    method = started(CoTeachingSettings(forget_rate=0.4, ramp_epochs=1), setup, epoch=1)
    copies = [setup.make_model(name) for name in ("init", "second")]
    batch = batches(setup)[0]
    losses = [torch.nn.functional.cross_entropy(copy(batch.x), batch.y, reduction="none") for copy in copies]
    step = method.update(batch, None)
    for k in (0, 1):
        picks = losses[1 - k].argsort()[:30]
        gradients = torch.autograd.grad(losses[k][picks].mean(), list(copies[k].parameters()), retain_graph=True)
        for ours, before, gradient in zip(
            method.networks[k].network.parameters(), copies[k].parameters(), gradients, strict=True
        ):
            torch.testing.assert_close(ours, before - 0.1 * gradient)
    assert step.weights.nonzero().flatten().tolist() == sorted(losses[1].argsort()[:30].tolist())
    assert method.findings()[0]["share_kept"] == pytest.approx(0.6)


def test_the_share_forgotten_rises_to_tau():
    settings = CoTeachingSettings(ramp_epochs=10)
    assert [forget(settings, 0.4, epoch) for epoch in (0, 5, 10, 50)] == pytest.approx([0.0, 0.2, 0.4, 0.4])
    assert forget(CoTeachingSettings(exponent=2.0), 0.4, 5) == pytest.approx(0.1)


def test_by_default_tau_is_the_share_of_wrong_labels():
    setup = make_setup()
    train = setup.splits.train
    wrong = int((train.observed != train.true).sum())
    assert 0.2 < wrong / len(train) < 0.5
    assert started(CoTeachingSettings(), setup).forget_rate == pytest.approx(wrong / len(train))


def test_ties_are_broken_by_position_so_that_all_workers_agree():
    losses = torch.tensor([[1.0, 2.0], [1.0, 1.0], [1.0, 3.0], [0.0, 1.0]])
    assert smallest(losses, 2).T.tolist() == [[True, False, False, True], [False, True, False, True]]


def test_at_least_one_sample_is_kept():
    setup = make_setup()
    method = started(CoTeachingSettings(forget_rate=0.999, ramp_epochs=1), setup, epoch=1)
    step = method.update(batches(setup)[0], None)
    assert step.weights.sum() == 1


def test_the_published_optimiser_decays_from_two_fifths_on_and_loses_its_momentum():
    setup = make_setup(epochs=10)
    method = started(CoTeachingSettings(optimizer="adam"), setup, epoch=3)
    group = method.networks[1].optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-3, (0.9, 0.999), 0)
    method.epoch_start(7)
    assert group["lr"] == pytest.approx(1e-3 * 3 / 6)
    assert group["betas"][0] == 0.1
    restored = started(CoTeachingSettings(optimizer="adam"), setup, epoch=0)
    method.update(batches(setup)[0], None)
    restored.restore(method.state())
    assert same(restored.state(), method.state())

"""Meta-Weight-Net as a method: warm-up, skipped updates, class-wise weights, what it keeps for a transfer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from mwray.config import ConfigError
from mwray.meta.settings import MetaSettings, WeightNetSettings
from mwray.methods.settings import BaseModelSettings, MWNetSettings
from tests.methods.meta_batches import check_two_workers, meta_batch, run
from tests.methods.setups import batches, make_setup, parameters, same, started

VARIANTS = {
    "paper": MWNetSettings(),
    "warm-up": MWNetSettings(meta=MetaSettings(warm_up=1)),
    "every third": MWNetSettings(meta=MetaSettings(every=3)),
    "through": MWNetSettings(meta=MetaSettings(input="through")),
    "by class": MWNetSettings(weight_net=WeightNetSettings(conditioning="class", shape="1-10-1")),
}


def theta(method) -> torch.Tensor:
    return parameters_to_vector(method.meta.weight_net.parameters()).detach().clone()


def test_the_warm_up_is_basemodel_and_leaves_the_weight_net_alone():
    setup = make_setup(epochs=3, model="small")
    ours = started(MWNetSettings(meta=MetaSettings(warm_up=2)), setup)
    base = started(BaseModelSettings(), setup)
    before = theta(ours)
    run(ours, setup, 2)
    run(base, setup, 2)
    torch.testing.assert_close(parameters(ours.classifier.network), parameters(base.classifier.network))
    assert torch.equal(theta(ours), before)
    assert (ours.curve(), ours.trajectory) == (None, [])
    run(ours, setup, 3, first=2)
    assert not torch.equal(theta(ours), before)
    assert ours.curve() is not None
    assert len(ours.trajectory) == 1


def test_skipped_steps_show_the_newest_meta_loss_and_stay_finite():
    setup = make_setup()
    method = started(MWNetSettings(meta=MetaSettings(every=3)), setup)
    steps = [method.update(batch, meta_batch(setup)) for batch in batches(setup)]
    losses = [float(step.scalars["meta_loss"]) for step in steps]
    assert losses[0] == losses[1] == losses[2] != losses[3]


def test_it_keeps_every_epochs_weight_net_and_the_range_of_losses():
    setup = make_setup(epochs=3)
    method = started(MWNetSettings(), setup)
    low, high = [], []
    for epoch in range(3):
        method.epoch_start(epoch)
        for batch in batches(setup):
            losses = method.update(batch, meta_batch(setup)).losses
            low.append(float(losses.min()))
            high.append(float(losses.max()))
        method.epoch_end(epoch)
        assert torch.equal(method.trajectory[epoch], theta(method))
    assert method.loss_range.tolist() == pytest.approx([min(low), max(high)])


def test_class_wise_weights_are_shown_as_curves():
    setup = make_setup(epochs=1)
    method = run(started(VARIANTS["by class"], setup), setup, 1)
    numbers, arrays = method.findings()
    assert (numbers, arrays["class_weight"].shape) == ({}, (10, 100))
    losses = arrays["class_loss"]
    torch.testing.assert_close(method.curve()(losses), arrays["class_weight"].mean(0))
    ones = torch.ones(100, dtype=torch.int64)
    torch.testing.assert_close(method.meta.weights(losses, 3 * ones), arrays["class_weight"][3])


@pytest.mark.parametrize("name", VARIANTS)
def test_a_resume_changes_nothing(name):
    setup = make_setup(epochs=3)
    whole = run(started(VARIANTS[name], setup), setup, 3)
    saved = copy.deepcopy(run(started(VARIANTS[name], setup), setup, 2).state())
    again = started(VARIANTS[name], setup)
    again.restore(saved)
    run(again, setup, 3, first=2)
    assert same(whole.state(), again.state())


@pytest.mark.parametrize("name", VARIANTS)
def test_two_workers_are_one(name):
    check_two_workers(VARIANTS[name], rtol=1e-3, atol=1e-4)


def test_a_warm_up_as_long_as_the_run_is_refused():
    settings = MWNetSettings(meta=MetaSettings(warm_up=4))
    with pytest.raises(ConfigError, match="method.meta.warm_up: 4 epochs .* at most 3 would do"):
        started(settings, make_setup(epochs=4))


def test_the_environment_says_what_is_computed_again(monkeypatch):
    setup = make_setup()
    ends_of = {}
    for choice in ("nothing", "cheap", "all"):
        monkeypatch.setenv("MWRAY_RECOMPUTE", choice)
        method = started(MWNetSettings(), setup)
        assert method.meta.rule.recompute == choice
        method.update(batches(setup)[0], meta_batch(setup))
        ends_of[choice] = parameters(method.classifier.network)
    torch.testing.assert_close(ends_of["cheap"], ends_of["nothing"])
    torch.testing.assert_close(ends_of["all"], ends_of["nothing"], rtol=0, atol=0)
    monkeypatch.setenv("MWRAY_RECOMPUTE", "most")
    with pytest.raises(ConfigError, match="MWRAY_RECOMPUTE='most': it can be nothing, cheap, all"):
        started(MWNetSettings(), setup)

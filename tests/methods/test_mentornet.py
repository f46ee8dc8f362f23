"""MentorNet: the predefined rule by hand, the data-driven mentor on samples whose answer is known, the two phases."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from mwray.config import ConfigError, read
from mwray.methods.mentor import MentorNetwork, Predefined, fit
from mwray.methods.settings import BaseModelSettings, MentorNetSettings
from mwray.methods.wrong_labels import wrong_labels
from tests.methods.meta_batches import check_resume, check_two_workers, meta_batch, run
from tests.methods.setups import batches, make_setup, parameters, started

PLAIN = {"dropout": 0.0, "late_dropout": 0.0}


def test_the_predefined_rule_in_its_three_parts():
    rule = Predefined(burn_in=0.18, gamma=2.0)
    losses = torch.tensor([0.1, 1.0, 3.0, 9.0])
    distances = losses - 1
    assert rule(losses, distances, 0.18).tolist() == [1, 1, 1, 1]
    assert rule(losses, distances, 0.19).tolist() == [1, 1, 0, 0]
    assert rule(losses, distances, 0.89).tolist() == [1, 1, 0, 0]
    assert rule(losses, distances, 0.9).tolist() == [1, 1, 0, 0]  # 1 - 2/2 = 0
    assert rule(losses, distances - 1, 0.95).tolist() == [1, 1, 0.5, 0]


def test_the_moving_percentile_and_the_step_by_hand():
    settings = MentorNetSettings(curriculum="predefined", percentile=0.5, decay=0.25, **PLAIN)
    setup = make_setup(epochs=2)
    method = started(settings, setup, epoch=1)  # progress 0.5: weight 1 below the threshold
    threshold = None
    for batch in batches(setup, size=40, count=3):
        network = copy.deepcopy(method.classifier.network)
        losses = F.cross_entropy(network(batch.x), batch.y, reduction="none")
        fresh = losses.detach().quantile(0.5)
        threshold = fresh if threshold is None else 0.25 * threshold + 0.75 * fresh
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        optimizer.load_state_dict(copy.deepcopy(method.classifier.optimizer.state_dict()))
        kept = (losses.detach() <= threshold).float()
        (kept * losses).mean().backward()  # over the whole batch, not over those kept
        optimizer.step()
        step = method.update(batch, None)
        assert torch.equal(step.weights, kept)
        torch.testing.assert_close(parameters(method.classifier.network), parameters(network))
    assert method.findings()[0]["threshold"] == pytest.approx(float(threshold))


def test_weights_of_one_are_basemodel():
    """In the burn-in every weight is one."""
    setup = make_setup(epochs=10)
    settings = MentorNetSettings(curriculum="predefined", burn_in=0.9, **PLAIN)
    ours, base = started(settings, setup), started(BaseModelSettings(), setup)
    for batch in batches(setup):
        ours.update(batch, None)
        base.update(batch, None)
    torch.testing.assert_close(parameters(ours.classifier.network), parameters(base.classifier.network))


def test_dropout_leaves_out_its_share_first_much_then_little():
    setup = make_setup(None, epochs=10)
    settings = MentorNetSettings(curriculum="predefined", burn_in=0.99, dropout=0.5, late_dropout=0.1)
    shares = []
    for epoch in (0, 5):
        method = started(settings, setup, epoch)
        weights = torch.cat([method.update(batch, None).weights for batch in batches(setup, 100, 10)])
        shares.append(float((weights == 0).float().mean()))
    assert shares == pytest.approx([0.5, 0.1], abs=0.06)


def test_the_mentor_learns_a_rule_that_is_in_what_it_saw():
    """Right labels are those with a loss below 1 + progress."""
    generator = torch.Generator().manual_seed(0)
    losses, progress = 4 * torch.rand(4000, generator=generator), torch.rand(4000, generator=generator)
    right = (losses < 1 + progress).float()
    samples = torch.stack([losses, losses - 1.5, progress], 1)
    mentor = MentorNetwork(burn_in=0.18)
    assert fit(mentor, samples, right, seed=0) > 0.95
    grid = torch.tensor([0.2, 3.5])
    weights = mentor.weights(grid, grid - 1.5, 0.5)
    assert weights[0] > 0.9
    assert weights[1] < 0.1
    assert torch.equal(weights, mentor.weights(grid, grid - 1.5, 0.99))  # not told how late it is
    assert mentor.weights(grid, grid - 1.5, 0.17).tolist() == [1, 1]  # burn-in
    again = MentorNetwork(burn_in=0.18)
    fit(again, samples, right, seed=0)
    assert torch.equal(parameters(mentor), parameters(again))


def test_wrong_labels_are_wrong_and_follow_the_noise():
    setup = make_setup(noise="flip2", rate=0.4)
    splits = setup.splits
    labels = wrong_labels(splits, 0.5, "same", seed=1)
    wrong = labels != splits.meta.true
    assert int(wrong.sum()) == 25
    assert bool((splits.transition[splits.meta.true[wrong], labels[wrong]] > 0).all())
    assert torch.equal(labels, wrong_labels(splits, 0.5, "same", seed=1))
    uniform = wrong_labels(splits, 0.5, "uniform", seed=1)
    assert int((uniform != splits.meta.true).sum()) == 25
    assert bool((splits.transition[splits.meta.true, uniform] == 0).any())
    clean = replace(splits, transition=torch.eye(10, dtype=torch.float64))
    assert int((wrong_labels(clean, 0.5, "same", seed=1) != splits.meta.true).sum()) == 25
    assert int((wrong_labels(clean, 0.001, "same", seed=1) != splits.meta.true).sum()) == 1


def test_data_driven_phases():
    setup = make_setup(None, epochs=4)
    settings = MentorNetSettings(first_epochs=2, **PLAIN)
    start = parameters(setup.make_model("init"))
    method = started(settings, setup)
    assert (method.needs_meta, method.curve()) == (True, None)
    run(method, setup, 2)
    assert bool((method.seen[:, :, 2] == 4).all())  # every clean image was met in each step of both epochs
    losses = F.cross_entropy(method.predict(meta_batch(setup).x), method.labels, reduction="none")
    wrong = method.right == 0
    assert losses[wrong].mean() > losses[~wrong].mean()
    method.epoch_start(2)
    assert method.needs_meta is False
    assert torch.equal(parameters(method.classifier.network), start)
    assert method.findings()[0]["mentor_accuracy"] > 0.6
    frozen = parameters(method.mentor)
    run(method, setup, 4, first=3)
    assert torch.equal(parameters(method.mentor), frozen)
    curve = method.curve()(torch.linspace(0, 6, 20))
    assert curve[0] > curve[-1]


@pytest.mark.parametrize("stop", [1, 2])
def test_a_resume_in_either_phase_changes_nothing(stop):
    check_resume(MentorNetSettings(first_epochs=1), stop)


@pytest.mark.parametrize("curriculum", ["predefined", "data-driven"])
def test_two_workers_are_one(curriculum):
    """Percentiles are those of the whole batch."""
    check_two_workers(MentorNetSettings(curriculum=curriculum), rtol=1e-3, atol=1e-4)


def test_refusals_name_what_would_do():
    with pytest.raises(ConfigError, match="first_epochs is for curriculum='data-driven'"):
        read(MentorNetSettings, {"curriculum": "predefined", "first_epochs": 3})
    setup = make_setup()
    meta = setup.splits.meta
    none = replace(meta, images=meta.images[:0], observed=meta.observed[:0], true=meta.true[:0], index=meta.index[:0])
    setup = replace(setup, splits=replace(setup.splits, meta=none))
    with pytest.raises(ConfigError, match="data.num_meta: the data-driven mentor .* method.curriculum=predefined"):
        started(MentorNetSettings(), setup)
    started(MentorNetSettings(curriculum="predefined"), setup)

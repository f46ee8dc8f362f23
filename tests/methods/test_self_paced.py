"""Self-paced learning: who is kept, how the threshold moves, and how the pace rises."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mwray.config import ConfigError, read
from mwray.methods.self_paced import pace
from mwray.methods.settings import BaseModelSettings, SelfPacedSettings
from tests.methods.setups import batches, make_setup, same, started


def test_the_threshold_is_a_moving_average_of_percentiles():
    setup = make_setup()
    method = started(SelfPacedSettings(percentile=0.6, decay=0.75, burn_in=0), setup)
    expected = None
    for batch in batches(setup):
        step = method.update(batch, None)
        fresh = np.quantile(step.losses.numpy(), 0.6)
        expected = fresh if expected is None else 0.75 * expected + 0.25 * fresh
        assert float(method.threshold) == pytest.approx(expected, rel=1e-5)
        assert torch.equal(step.weights, (step.losses < method.threshold).float())


def test_the_first_step_keeps_the_percentile():
    setup = make_setup()
    method = started(SelfPacedSettings(percentile=0.7, burn_in=0), setup)
    method.update(batches(setup)[0], None)
    assert method.findings()[0]["share_kept"] == pytest.approx(0.7)


def test_the_step_is_the_sum_over_the_kept_divided_by_the_batch_size():
    setup = make_setup(momentum=0.0, weight_decay=0.0)
    method = started(SelfPacedSettings(percentile=0.5, burn_in=0), setup)
    reference = setup.make_model("init")
    batch = batches(setup)[0]
    losses = torch.nn.functional.cross_entropy(reference(batch.x), batch.y, reduction="none")
    kept = losses.argsort()[:25]
    gradients = torch.autograd.grad(losses[kept].sum() / 50, list(reference.parameters()))
    expected = [p - 0.1 * g for p, g in zip(reference.parameters(), gradients, strict=True)]
    method.update(batch, None)
    for ours, wanted in zip(method.classifier.network.parameters(), expected, strict=True):
        torch.testing.assert_close(ours, wanted)


def test_linear_weights_fall_from_one_at_no_loss_to_zero_at_the_threshold():
    method = started(SelfPacedSettings(form="linear", burn_in=0), make_setup())
    method.threshold = torch.tensor(2.0)
    weights = method._weights(torch.tensor([0.0, 0.5, 2.0, 3.0]))
    assert weights.tolist() == [1.0, 0.75, 0.0, 0.0]
    method.threshold = torch.tensor(0.0)
    assert method._weights(torch.tensor([1.0])).tolist() == [0.0]


@pytest.mark.parametrize("settings", [SelfPacedSettings(percentile=1.0), SelfPacedSettings(burn_in=1)])
def test_when_all_are_in_it_is_basemodel(settings):
    setup = make_setup()
    ours, base = started(settings, setup), started(BaseModelSettings(), setup)
    for batch in batches(setup):
        ours.update(batch, None)
        base.update(batch, None)
    assert same(ours.state()["classifier"], base.state())


def test_the_pace_rises_from_the_first_epoch_to_the_end_of_the_ramp():
    ramp = SelfPacedSettings(percentile=0.5, last_percentile=1.0, ramp_epochs=6)
    assert [pace(ramp, epoch, 20) for epoch in (0, 1, 5, 6, 19)] == pytest.approx([0.5, 0.6, 1.0, 1.0, 1.0])
    whole = SelfPacedSettings(percentile=0.5, last_percentile=0.9)
    assert pace(whole, 9, 10) == 0.9
    assert pace(SelfPacedSettings(percentile=0.5), 9, 10) == 0.5


def test_precision_is_the_share_of_right_labels_among_the_kept():
    setup = make_setup()
    method = started(SelfPacedSettings(percentile=0.5, burn_in=0), setup)
    train = setup.splits.train
    kept = []
    for batch in batches(setup):
        step = method.update(batch, None)
        kept.append(batch.index[step.weights > 0])
    chosen = torch.cat(kept)
    expected = (train.observed[chosen] == train.true[chosen]).double().mean()
    assert method.findings()[0]["precision"] == pytest.approx(float(expected))


def test_a_ramp_that_leads_nowhere_is_refused():
    with pytest.raises(ConfigError, match="ramp_epochs is given without last_percentile"):
        read(SelfPacedSettings, {"ramp_epochs": 3})

"""Fine-tuning and meta-only: which images move the network, at which rate, and when; the shared clock of two phases."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mwray.config import ConfigError
from mwray.methods.phases import Phases
from mwray.methods.settings import BaseModelSettings, FineTuningSettings, MetaOnlySettings
from tests.methods.meta_batches import check_resume, check_two_workers, meta_batch, run
from tests.methods.setups import batches, make_setup, parameters, started


def test_phases_share_the_schedule():
    phases = Phases.of(None, 0.5, 40)
    assert (phases.first, phases.total) == (20, 40)
    assert [phases.schedule_epoch(e) for e in (0, 1, 17, 18, 19)] == [0, 2, 34, 36, 38]
    assert [phases.schedule_epoch(e) for e in (20, 38, 39)] == [0, 36, 38]
    assert [phases.second(e) for e in (19, 20)] == [False, True]
    assert [phases.progress(e) for e in (0, 10, 19, 20, 30)] == pytest.approx([0, 0.5, 0.95, 0, 0.5])
    assert Phases.of(None, 0.9, 2).first == 1
    assert Phases.of(None, 0.01, 10).first == 1
    uneven = Phases.of(3, 0.5, 10)
    assert [uneven.schedule_epoch(e) for e in range(10)] == [0, 3, 6, 0, 1, 2, 4, 5, 7, 8]


def plain_sgd(network, pairs, lr, **settings) -> torch.Tensor:
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    for batch in pairs:
        optimizer.zero_grad()
        F.cross_entropy(network.train()(batch.x), batch.y).backward()
        optimizer.step()
    return parameters(network)


@pytest.mark.parametrize("model", ["mlp", "small"])
def test_meta_only_is_plain_training_on_the_clean_images(model):
    setup = make_setup(model=model)
    method = started(MetaOnlySettings(), setup)
    clean = meta_batch(setup)
    for batch in batches(setup):
        step = method.update(batch, clean)
        assert step.losses.shape == batch.y.shape
    reference = setup.make_model("init")
    torch.testing.assert_close(parameters(method.classifier.network), plain_sgd(reference, [clean] * 4, 0.1))
    for ours, plain in zip(method.classifier.network.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(ours, plain)  # running statistics are those of the clean images


def test_fine_tuning_is_basemodel_and_then_small_steps_on_clean_images():
    setup = make_setup(epochs=3, milestones=(2,))
    method = started(FineTuningSettings(first_epochs=2, lr=0.003), setup)
    run(method, setup, 2)
    base = started(BaseModelSettings(), setup)
    for epoch, rate in enumerate([0.1, 0.1]):  # epochs 0 and 1 of the schedule, stretched: 0 and 1
        base.epoch_start(epoch)
        for group in base.classifier.optimizer.param_groups:
            group["lr"] = rate
        for batch in batches(setup):
            base.update(batch, None)
    torch.testing.assert_close(parameters(method.classifier.network), parameters(base.classifier.network))
    assert method.findings()[0] == pytest.approx({"phase": 1, "lr": 0.1})

    method.epoch_start(2)
    assert method.findings()[0] == pytest.approx({"phase": 2, "lr": 0.003})
    optimizer, network, clean = base.classifier.optimizer, base.classifier.network, meta_batch(setup)
    optimizer.param_groups[0]["lr"] = 0.003
    for batch in batches(setup):
        method.update(batch, clean)
        optimizer.zero_grad()
        F.cross_entropy(network(clean.x), clean.y).backward()
        optimizer.step()
    torch.testing.assert_close(parameters(method.classifier.network), parameters(network))


def test_the_default_tunes_in_the_last_tenth():
    setup = make_setup(epochs=20)
    phases = [started(FineTuningSettings(), setup, epoch).findings()[0]["phase"] for epoch in (0, 17, 18, 19)]
    assert phases == [1, 1, 2, 2]


@pytest.mark.parametrize("stop", [1, 2])
def test_a_resume_in_either_phase_changes_nothing(stop):
    check_resume(FineTuningSettings(first_epochs=2), stop)


@pytest.mark.parametrize("settings", [FineTuningSettings(first_epochs=1), MetaOnlySettings()])
def test_two_workers_are_one(settings):
    check_two_workers(settings)


def test_a_first_phase_as_long_as_the_run_is_refused():
    with pytest.raises(ConfigError, match="method.first_epochs: 9 epochs"):
        started(FineTuningSettings(first_epochs=9), make_setup())

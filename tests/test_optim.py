"""The classifier's optimiser: rates against PyTorch's schedulers, refusals, experiments that have no name for it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.optim import lr_scheduler

from mwray import optim
from mwray.config import ConfigError, assign, fingerprint, fingerprint_of, leaves, names, override, read, to_dict
from mwray.data.settings import Data
from mwray.experiment import Experiment
from mwray.models.settings import Model
from mwray.optim import SGD, Adam, AdamW
from mwray.recipes import recipe

OLD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False, "milestones": [30, 36], "factor": 0.1}
"""The optimiser of the recipe digits as it was stored when there was SGD by steps alone."""


def of_torch(make, epochs, lr=0.3):
    """The rates that a scheduler of PyTorch's gives, one for each epoch."""
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr)
    scheduler, found = make(optimizer), []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def rising(optimizer, warm_up):
    return lr_scheduler.LinearLR(optimizer, 1 / (warm_up + 1), total_iters=warm_up)


@pytest.mark.parametrize("warm_up", [1, 4, 11])
@pytest.mark.parametrize("final", [0.0, 0.05, 1.0])
def test_a_cosine_after_a_warm_up_is_pytorchs_sequence_of_both(warm_up, final):
    def both(optimizer):
        fall = lr_scheduler.CosineAnnealingLR(optimizer, 12 - warm_up, eta_min=final * 0.3)
        return lr_scheduler.SequentialLR(optimizer, [rising(optimizer, warm_up), fall], [warm_up])

    settings = AdamW(lr=0.3, schedule="cosine", final=final, warm_up=warm_up)
    found = [settings.learning_rate(epoch, 12) for epoch in range(12)]
    assert found == pytest.approx(of_torch(both, 12), rel=1e-9)
    assert found[0] == pytest.approx(0.3 / (warm_up + 1)) and found[warm_up] == 0.3


def test_a_cosine_alone_is_pytorchs_and_its_last_epoch_still_learns():
    settings = SGD(lr=0.3, schedule="cosine")
    found = [settings.learning_rate(epoch, 20) for epoch in range(20)]
    assert found == pytest.approx(of_torch(lambda o: lr_scheduler.CosineAnnealingLR(o, 20), 20), rel=1e-9)
    assert found[10] == pytest.approx(0.15) and 0 < found[19] < 0.003
    assert settings.learning_rate(0, 1) == 0.3


def test_steps_with_a_warm_up_are_pytorchs_product_of_both():
    def both(optimizer):
        fall = lr_scheduler.MultiStepLR(optimizer, [2, 7], gamma=0.2)
        return lr_scheduler.ChainedScheduler([rising(optimizer, 4), fall])

    settings = Adam(lr=0.3, milestones=(2, 7), factor=0.2, warm_up=4)
    assert [settings.learning_rate(e, 10) for e in range(10)] == pytest.approx(of_torch(both, 10), rel=1e-9)


def test_steps_without_a_warm_up_have_the_bits_that_they_always_had():
    settings = recipe("digits").optimizer
    for epoch in range(40):
        assert settings.learning_rate(epoch, 40) == float(0.1 * 0.1 ** sum(epoch >= m for m in (30, 36)))


def test_an_experiment_of_before_is_sgd_and_keeps_its_fingerprint():
    assert to_dict(recipe("digits"))["optimizer"] == OLD
    stored = {**to_dict(recipe("digits")), "optimizer": OLD}
    assert read(Experiment, stored) == recipe("digits")
    assert fingerprint(read(Experiment, stored)) == fingerprint_of(stored)
    assert fingerprint(SGD(lr=0.1, milestones=(30, 36))) == fingerprint_of(OLD)
    changed = override(recipe("digits"), {"optimizer.schedule": "cosine"})
    assert fingerprint(changed) != fingerprint(recipe("digits"))
    assert read(Experiment, to_dict(changed)) == changed
    assert {"image_size", "normalization"}.isdisjoint(to_dict(Data()))
    assert set(to_dict(Model())) == {"name", "batch_norm"}


def test_every_field_is_listed_whether_or_not_it_is_stored():
    shown = leaves(recipe("digits"))
    assert (shown["optimizer.name"], shown["optimizer.schedule"], shown["optimizer.warm_up"]) == ("sgd", "steps", 0)
    assert {"optimizer.betas", "optimizer.eps", "optimizer.final", "optimizer.nesterov"} <= set(names(Experiment))


def test_another_optimiser_starts_from_its_own_defaults():
    values = to_dict(override(recipe("digits"), {"optimizer.name": "adamw"}))["optimizer"]
    assert values["lr"] == 1e-3 and values["weight_decay"] == 0.01 and values["milestones"] == []
    adam = override(recipe("digits"), {"optimizer.name": "adam", "optimizer.lr": 0.01}).optimizer
    assert (adam.lr, adam.weight_decay) == (0.01, 0.0)
    defaults = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]).defaults
    assert {name: tuple(v) if name == "betas" else v for name, v in values.items() if name in defaults} == {
        name: defaults[name] for name in ("lr", "weight_decay", "betas", "eps")
    }
    back = override(recipe("digits"), {"optimizer.name": "adamw", "optimizer.warm_up": 2})
    assert override(back, {"optimizer.name": "sgd"}).optimizer == SGD()


def test_another_schedule_starts_from_its_own_defaults():
    cosine = assign(recipe("digits"), ["optimizer.schedule=cosine", "optimizer.final=0.1", "optimizer.lr=0.2"])
    assert (cosine.optimizer.milestones, cosine.optimizer.final, cosine.optimizer.lr) == ((), 0.1, 0.2)
    steps = assign(cosine, ["optimizer.milestones=[3]", "optimizer.schedule=steps"])
    assert (steps.optimizer.milestones, steps.optimizer.final, steps.optimizer.lr) == ((3,), 0.0, 0.2)
    assert override(recipe("digits"), {"optimizer.schedule": "steps"}) == recipe("digits")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["optimizer.schedule=cosine", "optimizer.milestones=[3]"], "milestones=[3] says nothing with schedule=cosine"),
        (["optimizer.schedule=cosine", "optimizer.factor=0.5"], "factor=0.5 says nothing with schedule=cosine"),
        (
            ["optimizer.final=0.1"],
            "final=0.1 says nothing with schedule=steps; leave it out, or choose schedule=cosine",
        ),
        (["optimizer.final=1.5", "optimizer.schedule=cosine"], "optimizer.final: 1.5 was given"),
        (["optimizer.warm_up=40"], "optimizer.warm_up: 40 epochs of rising learning rate leave none of epochs=40"),
        (["optimizer.warm_up=-1"], "optimizer.warm_up: -1 was given"),
        (["optimizer.schedule=linear"], "optimizer.schedule: 'linear' was given"),
        (["optimizer.name=adamx"], "optimizer.name: 'adamx' is not one of 'sgd', 'adam', 'adamw'. Did you mean 'adam"),
        (
            ["optimizer.name=adamw", "optimizer.momentum=0.9"],
            "optimizer.momentum: 'adamw' has no such field; it belongs",
        ),
        (["optimizer.betas=[0.9, 0.99]"], "optimizer.betas: 'sgd' has no such field; it belongs to 'adam', 'adamw'."),
        (["optimizer.name=adam", "optimizer.betas=[0.9, 1.0]"], "optimizer.betas.1: 1.0 was given"),
        (["optimizer.name=adam", "optimizer.eps=0"], "optimizer.eps: 0 was given"),
    ],
)
def test_what_says_nothing_or_cannot_be_is_refused_in_a_line(typed, message):
    with pytest.raises(ConfigError) as caught:
        assign(recipe("digits"), typed)
    assert str(caught.value).startswith("optimizer") and message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("settings", [SGD(), Adam(weight_decay=0.1), AdamW(betas=(0.8, 0.9))], ids=lambda s: s.name)
def test_state_goes_from_one_device_to_another(settings):
    """From an optimiser of the host to one as a GPU has it, fused and with its numbers on the device, and back."""
    nets = [torch.nn.Linear(3, 2) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    host, device = settings.build(nets[0].parameters()), settings.build(nets[1].parameters(), on_device=True)
    x = torch.rand(4, 3)
    for step in range(6):
        if step in (2, 4):
            source, sink = (host, device) if step == 2 else (device, host)
            optim.set_rate(source, settings.lr / step)
            optim.restore(sink, copy.deepcopy(source.state_dict()))
            assert optim.rate_of(sink) == pytest.approx(settings.lr / step)
        for net, optimizer in zip(nets, (host, device), strict=True):
            optimizer.zero_grad()
            net(x).pow(2).mean().backward()
            optimizer.step()
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert isinstance(device.param_groups[0]["lr"], torch.Tensor) and isinstance(host.param_groups[0]["lr"], float)
    assert device.param_groups[0]["fused"] and not host.param_groups[0]["fused"]


def test_milestones_beyond_the_end_are_told_and_a_cosine_has_none():
    assert SGD(milestones=(3, 5)).unreached(6) is None
    assert "5 is never reached with epochs=5" in (SGD(milestones=(3, 5)).unreached(5) or "")
    assert AdamW(schedule="cosine").unreached(1) is None
    assert math.isclose(recipe("digits").learning_rate(35), 0.01)

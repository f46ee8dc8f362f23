"""S-Model: the layer against the written formula, its start from the confusion, and the case where it does nothing."""

from __future__ import annotations

import copy

import pytest
import torch

from mwray.config import ConfigError
from mwray.methods.noise_layer import NoiseLayer
from mwray.methods.s_model import adapted_loss
from mwray.methods.settings import BaseModelSettings, SModelSettings
from mwray.methods.transition import empirical, error, normalised
from tests.methods.setups import batches, make_setup, parameters, same, started


def train(method, setup, epochs):
    for epoch in epochs:
        method.epoch_start(epoch)
        for batch in batches(setup):
            method.update(batch, None)
        method.epoch_end(epoch)


@pytest.mark.parametrize("features", [0, 6])
def test_the_loss_is_minus_the_log_of_the_mixed_probabilities(features):
    generator = torch.Generator().manual_seed(0)
    layer = NoiseLayer(4, features).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    logits, h = torch.randn(5, 4, generator=generator).double(), torch.randn(5, 6, generator=generator).double()
    y = torch.tensor([0, 3, 1, 1, 2])
    for b in range(5):
        raw = layer.bias if features == 0 else (layer.weight * h[b]).sum(-1) + layer.bias
        mixed = logits[b].softmax(0) @ raw.softmax(1)
        ours = adapted_loss(logits, layer(h if features else None), y)[b]
        torch.testing.assert_close(ours, -mixed[y[b]].log())


def test_the_gradients_of_network_and_layer_are_those_of_differences():
    layer = NoiseLayer(3, 2).double()
    y = torch.tensor([0, 2])

    def loss(logits, h, bias, weight):
        return adapted_loss(logits, torch.func.functional_call(layer, {"bias": bias, "weight": weight}, (h,)), y)

    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3), (2, 2), (3, 3), (3, 3, 2)]
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("form", ["simple", "complex"])
def test_with_an_identity_layer_it_is_basemodel(form):
    setup = make_setup()
    ours, base = started(SModelSettings(form=form, first_epochs=1), setup), started(BaseModelSettings(), setup)
    train(ours, setup, [0])
    train(base, setup, [0])
    ours.epoch_start(1)
    base.epoch_start(1)
    with torch.no_grad():
        ours.layer.bias.copy_(torch.eye(10) * 1000)  # the softmax of its rows is the identity to the last bit
    for batch in batches(setup):
        ours.update(batch, None)
        base.update(batch, None)
    torch.testing.assert_close(
        parameters(ours.classifier.network), parameters(base.classifier.network), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("counts", ["hard", "soft"])
def test_the_layer_starts_from_the_confusion_of_the_first_phase(counts):
    setup = make_setup()
    method = started(SModelSettings(first_epochs=2, counts=counts), setup)
    train(method, setup, [0, 1])
    everything = batches(setup, 200, 1)[0]
    guess = method.predict(everything.x).softmax(1)
    expected = torch.zeros(10, 10)
    for row, label in zip(guess, everything.y, strict=True):
        if counts == "hard":
            expected[row.argmax(), label] += 1
        else:
            expected[:, label] += row
    never = expected.sum(1) == 0  # a class that is never predicted is taken to keep its label
    expected[never] = torch.eye(10)[never]
    method.epoch_start(2)
    estimated = method.layer(None)[0].exp()
    torch.testing.assert_close(estimated, expected / expected.sum(1, keepdim=True), rtol=1e-4, atol=1e-6)


def test_the_first_phase_is_basemodel_and_predictions_leave_the_layer_out():
    setup = make_setup()
    method, base = started(SModelSettings(first_epochs=2), setup), started(BaseModelSettings(), setup)
    train(method, setup, [0, 1])
    train(base, setup, [0, 1])
    assert torch.equal(parameters(method.classifier.network), parameters(base.classifier.network))
    assert method.findings() == ({"phase": 1.0}, {})
    train(method, setup, [2])
    x = batches(setup)[0].x
    method.classifier.network.eval()
    torch.testing.assert_close(method.predict(x), method.classifier.network(x).detach())
    numbers, arrays = method.findings()
    assert arrays["transition_estimated"].sum(1).tolist() == pytest.approx([1.0] * 10, abs=1e-5)
    assert numbers["transition_error"] == pytest.approx(
        error(arrays["transition_estimated"], empirical(setup.splits.train, 10))
    )


def test_the_layer_learns_at_the_networks_rate_and_never_decays():
    setup = make_setup(milestones=(2,))
    method = started(SModelSettings(first_epochs=1), setup, epoch=3)
    assert [(g["lr"], g["weight_decay"]) for g in method.optimizer.param_groups] == [(pytest.approx(0.01), 0.0)]


def test_the_first_phase_is_over_when_the_loss_on_what_it_holds_out_has_stopped_falling():
    setup = make_setup(epochs=12)
    method = started(SModelSettings(patience=2), setup)
    held_out = method.held_out
    assert held_out is not None and len(held_out.index) == 20
    phases, best = [], {}
    for epoch in range(4):
        method.epoch_start(epoch)
        phases.append(method.adapting)
        held_out.losses.append([3.0, 2.0, 2.5, 2.25][epoch])  # in place of what `look` would measure
        if held_out.losses[-1] == min(held_out.losses):
            best = held_out.best = copy.deepcopy(method.classifier.state())
        for batch in batches(setup):
            method.update(batch, None)
    assert phases == [False] * 4 and held_out.over
    method.epoch_start(4)
    assert method.adapting
    assert same(method.classifier.state()["network"], best["network"])
    assert method.classifier.optimizer.param_groups[0]["lr"] == setup.learning_rate(4)
    torch.testing.assert_close(method.layer(None)[0].exp(), normalised(method._confusion()).float())


def test_the_first_phase_takes_half_of_the_run_at_most():
    setup = make_setup(epochs=6)
    method = started(SModelSettings(patience=100), setup)
    train(method, setup, range(3))
    assert not method.adapting
    method.epoch_start(3)
    assert method.adapting


def test_what_is_held_out_teaches_nothing_and_its_loss_is_that_of_observed_labels():
    setup = make_setup()
    method = started(SModelSettings(), setup)
    held_out = method.held_out
    assert held_out is not None
    everything = batches(setup, 200, 1)[0]
    losses = torch.ones(200, requires_grad=True)
    held_out.mean_of_others(losses, everything).backward()
    expected = torch.full((200,), 1 / 180)
    expected[held_out.index] = 0
    torch.testing.assert_close(losses.grad, expected)
    held_out.look(method.classifier)
    logits = method.predict(everything.x)[held_out.index]
    own = torch.nn.functional.cross_entropy(logits, setup.splits.train.observed[held_out.index])
    assert held_out.losses == [pytest.approx(float(own), rel=1e-5)]


def test_a_first_phase_as_long_as_the_run_is_refused():
    with pytest.raises(ConfigError, match="method.first_epochs: 4 epochs .* epochs=4 .* at most 3 would do"):
        started(SModelSettings(first_epochs=4), make_setup(epochs=4))


def test_a_transition_is_rows_of_shares_and_its_error_a_mean_distance():
    counts = torch.tensor([[3.0, 1.0], [0.0, 0.0]])
    assert normalised(counts).tolist() == [[0.75, 0.25], [0.0, 1.0]]
    assert error(torch.eye(2), torch.tensor([[0.75, 0.25], [0.0, 1.0]])) == pytest.approx(0.125)
    setup = make_setup(num_train=None, noise="flip2")
    assert error(empirical(setup.splits.train, 10), setup.splits.transition) < 0.08

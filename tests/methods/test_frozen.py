"""A frozen weight net weighs as the source's did; its file survives to the bit and refuses what it is not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from mwray import transfer
from mwray.config import ConfigError, override, read, to_dict
from mwray.methods.learned_weight_net import LearnedWeightNet, WeightNetError
from mwray.methods.settings import BaseModelSettings, FrozenSettings
from mwray.models.weight_net import WeightNet
from mwray.recipes import recipe
from mwray.records import RecordError
from mwray.train.loop import train
from mwray.worker import LocalWorker
from tests.methods.meta_batches import ends
from tests.methods.setups import batches, make_setup, parameters, started


def learned(shape: str = "1-5-1", epochs: int = 4) -> LearnedWeightNet:
    torch.manual_seed(0)
    vectors = [parameters_to_vector(WeightNet(shape).parameters()).detach() for _ in range(epochs)]
    return LearnedWeightNet(shape, vectors[-1], (0.01, 5.5), torch.stack(vectors), {"seed": 3})


def inline(net: LearnedWeightNet, **options) -> FrozenSettings:
    return FrozenSettings(shape=net.shape, parameters=tuple(net.parameters.tolist()), **options)


def test_a_file_gives_back_the_same_bits(tmp_path):
    net = learned()
    path = transfer.save(net, tmp_path / "nets" / "a.json")
    again = transfer.load(path)
    assert (again.shape, again.loss_range, again.source) == (net.shape, net.loss_range, net.source)
    assert torch.equal(again.parameters, net.parameters)
    assert torch.equal(again.trajectory, net.trajectory)
    bare = LearnedWeightNet("1-5-1", net.parameters)
    assert transfer.load(transfer.save(bare, tmp_path / "b.json")).trajectory is None


def test_a_net_is_built_as_it_was():
    net = learned()
    losses = torch.linspace(0, 5, 7)
    for progress, row in ((None, 3), (0.0, 0), (0.3, 1), (0.99, 3), (1.0, 3)):
        expected = WeightNet("1-5-1")
        torch.nn.utils.vector_to_parameters(net.trajectory[row], expected.parameters())
        assert torch.equal(net.build(progress)(losses), expected(losses))


@pytest.mark.parametrize("weight_map", ["normalized", "mean"])
def test_the_step_is_that_of_the_weighted_loss(weight_map):
    setup, net = make_setup(), learned()
    method = started(inline(net, weight_map=weight_map), setup)
    network = setup.make_model("init")
    optimizer = setup.make_optimizer(network.parameters())
    for batch in batches(setup):
        losses = F.cross_entropy(network(batch.x), batch.y, reduction="none")
        values = net.build()(losses.detach())
        optimizer.zero_grad()
        (losses * values / (values.sum() if weight_map == "normalized" else len(values))).sum().backward()
        optimizer.step()
        torch.testing.assert_close(method.update(batch, None).weights, values)
    torch.testing.assert_close(parameters(method.classifier.network), parameters(network))


def test_a_constant_weight_net_is_basemodel():
    setup = make_setup()
    constant = LearnedWeightNet("1-3-1", torch.zeros(10))  # sigmoid(0) for every loss
    ours, base = started(inline(constant), setup), started(BaseModelSettings(), setup)
    for batch in batches(setup):
        ours.update(batch, None)
        base.update(batch, None)
    torch.testing.assert_close(parameters(ours.classifier.network), parameters(base.classifier.network))


def test_a_trajectory_goes_along(tmp_path):
    setup, net = make_setup(epochs=8), learned()
    path = transfer.save(net, tmp_path / "a.json")
    method = started(FrozenSettings(file=str(path), use="trajectory"), setup)
    losses = torch.linspace(0, 5, 7)
    for epoch, row in ((0, 0), (1, 0), (2, 1), (7, 3)):
        method.epoch_start(epoch)
        assert torch.equal(method.curve()(losses), net.build(row / 4)(losses))
    bare = transfer.save(LearnedWeightNet("1-5-1", net.parameters), tmp_path / "b.json")
    with pytest.raises(ConfigError, match="method.use: 'trajectory' cannot be had from .*: it holds no trajectory"):
        started(FrozenSettings(file=str(bare), use="trajectory"), setup)


def test_a_net_that_tells_classes_apart_is_kept_and_used_where_the_classes_are_as_many(tmp_path):
    small = {"epochs": 1, "optimizer.milestones": [], "data.num_train": 200, "data.num_test": 100, "model.name": "mlp"}
    source = override(recipe("digits"), {**small, "method.weight_net.conditioning": "class"})
    train(source, tmp_path / "run", worker=LocalWorker("cpu"))
    path = transfer.save(transfer.from_run(tmp_path / "run"), tmp_path / "net.json")
    net = transfer.load(path)
    assert net.classes == 10
    setup = make_setup()
    batch = batches(setup)[0]
    method = started(FrozenSettings(file=str(path)), setup)
    step = method.update(batch, None)
    every = net.build().all_classes(step.losses)  # [B, 10]
    expected = torch.stack([row[label] for row, label in zip(every, batch.y, strict=True)])
    torch.testing.assert_close(step.weights, expected)
    torch.testing.assert_close(method.curve()(step.losses), every.mean(1))
    with pytest.raises(WeightNetError, match="1-100-1' has 301 parameters, and 1210 were given"):
        LearnedWeightNet(net.shape, net.parameters)
    fewer = LearnedWeightNet("1-2-1", torch.zeros(2 + 2 + 6 + 3), classes=3)
    with pytest.raises(ConfigError, match="tells 3 classes apart, and the data has 10; take a weight net"):
        started(FrozenSettings(file=str(transfer.save(fewer, tmp_path / "three.json"))), setup)


def test_a_file_is_also_found_by_its_name_alone(tmp_path, monkeypatch):
    net, setup = learned(), make_setup()
    path = transfer.keep(net, tmp_path / "nets")
    assert transfer.keep(net, tmp_path / "nets") == path and len(list(path.parent.iterdir())) == 1
    monkeypatch.setenv("MWRAY_WEIGHT_NETS", f"{tmp_path}:{path.parent}")
    method = started(FrozenSettings(file=path.name), setup)
    assert torch.equal(method.learned.parameters, net.parameters)
    monkeypatch.delenv("MWRAY_WEIGHT_NETS")
    with pytest.raises(ConfigError, match=f"method.file: {path.name} cannot be used: .*No such file"):
        started(FrozenSettings(file=path.name), setup)


def test_losses_beyond_those_it_was_learned_on_are_counted(tmp_path):
    setup = make_setup()
    net = replace(learned(), loss_range=(0.0, 2.4))
    method = started(FrozenSettings(file=str(transfer.save(net, tmp_path / "a.json"))), setup)
    step = method.update(batches(setup)[0], None)
    assert float(step.scalars["method.share_above_range"]) == pytest.approx(float((step.losses > 2.4).float().mean()))


def test_from_a_run_to_other_data(tmp_path):
    """The whole way: learn on 40 % noise, keep, train with it frozen."""
    small = {"epochs": 2, "optimizer.milestones": [1], "data.num_train": 300, "data.num_test": 100, "model.name": "mlp"}
    source = override(recipe("digits"), small)
    train(source, tmp_path / "source", worker=LocalWorker("cpu"))
    net = transfer.from_run(tmp_path / "source")
    assert (net.shape, len(net.trajectory), net.source) == ("1-100-1", 2, to_dict(source))
    assert 0 <= net.loss_range[0] < 2 < net.loss_range[1]
    path = transfer.save(net, tmp_path / "net.json")
    target = override(recipe("digits-flip"), {**small, "method.name": "frozen", "method.file": str(path)})
    target = override(target, {"data.num_meta": 0})
    summary = train(target, tmp_path / "target", worker=LocalWorker("cpu"))
    assert summary["test.last"] > 0.2

    train(override(source, {"method.name": "base", "epochs": 2}), tmp_path / "base", worker=LocalWorker("cpu"))
    with pytest.raises(WeightNetError, match="a run of 'base' learns no weight net; take one of 'mwnet'"):
        transfer.from_run(tmp_path / "base")
    with pytest.raises(RecordError, match="there is no such file"):
        transfer.from_run(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "not a weight net, or cut short: not JSON"),
        (lambda text: "PK\x03\x04", "not JSON"),
        (lambda text: json.dumps({"epochs": 3}), "JSON of another kind"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "written in version 2 .* reads version 1"),
        (lambda text: text.replace('"1-5-1"', '"1-6-1"'), "damaged: its content does not fit its checksum"),
        (lambda text: text.replace("5.5", "5.6"), "damaged"),
    ],
)
def test_what_is_no_weight_net_is_refused_and_the_file_is_named(tmp_path, damage, message):
    path = tmp_path / "net.json"
    path.write_text(damage(learned().to_text()))
    with pytest.raises(WeightNetError, match=f"net.json cannot be used: .*{message}"):
        transfer.load(path)
    with pytest.raises(ConfigError, match=f"method.file: .*net.json cannot be used: .*{message}"):
        started(FrozenSettings(file=str(path)), make_setup())


def test_impossible_nets_are_refused():
    with pytest.raises(WeightNetError, match="parameters: a weight net '1-5-1' has 16 parameters, and 3 were given"):
        LearnedWeightNet("1-5-1", torch.zeros(3))
    with pytest.raises(WeightNetError, match="finite"):
        LearnedWeightNet("1-5-1", torch.full((16,), torch.nan))
    with pytest.raises(ConfigError, match="method.parameters or method.shape: .*16 parameters, and 2 were given"):
        started(FrozenSettings(shape="1-5-1", parameters=(1.0, 2.0)), make_setup())
    with pytest.raises(ConfigError, match="method.file: nowhere.json cannot be used: No such file"):
        started(FrozenSettings(file="nowhere.json"), make_setup())
    for given in ({}, {"file": "a", "shape": "1-1-1", "parameters": [1.0]}, {"shape": "1-1-1"}):
        with pytest.raises(ConfigError, match="give either file, or shape and parameters"):
            read(FrozenSettings, given)


def test_a_file_that_changed_since_the_run_began_is_refused(tmp_path):
    setup, path = make_setup(), tmp_path / "net.json"
    transfer.save(learned(), path)
    state = started(FrozenSettings(file=str(path)), setup).state()
    started(FrozenSettings(file=str(path)), setup).restore(state)
    other = learned()
    transfer.save(replace(other, parameters=other.parameters + 1), path)
    with pytest.raises(ConfigError, match="another weight net than when this run began"):
        started(FrozenSettings(file=str(path)), setup).restore(state)


def test_two_workers_are_one():
    """On a net without batch norm: with it each worker has its own batch statistics."""

    settings = inline(learned())

    def build(setup):
        return started(settings, setup)

    (alone,) = ends(build, 1, epochs=2)
    for other in ends(build, 2, epochs=2):
        torch.testing.assert_close(other, alone, rtol=1e-4, atol=1e-5)

"""The cheaper orders and parts of the step: each is exactly what it says, and costs what it says."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mwray import MetaWeightNet
from mwray.config import ConfigError, read
from mwray.meta.layers import last_stage
from mwray.meta.settings import MetaSettings
from mwray.models.registry import MODELS
from mwray.models.weight_net import WeightNet
from tests.meta import oracle
from tests.meta.team import together
from tests.meta.test_step import MAPS, OPTIMIZERS, batches, relative, sgd, small_net, warmed_up

pytestmark = pytest.mark.usefixtures("double_precision")


def resnet8() -> nn.Module:
    return MODELS["resnet8"](3, (1, 8, 8))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("weight_map", MAPS)
def test_lagged_takes_the_real_step_and_its_exact_gradient(weight_map, name):
    """theta's gradient is that of the meta loss after the real step; w moves by the weights from before."""
    batch, meta = batches()
    model, weight_net = small_net(), WeightNet("1-10-1")
    optimizer = warmed_up(model, name, batch)
    loss, expected = oracle.meta_gradient(model, optimizer, weight_net, batch, meta, weight_map, "optimizer")
    other, plain = copy.deepcopy((model, optimizer))
    losses = F.cross_entropy(other.train()(batch[0]), batch[1], reduction="none")
    values = weight_net(losses.detach()).detach()
    plain.zero_grad()
    (oracle.weights_of(values, weight_map) * losses).sum().backward()
    plain.step()

    step = MetaWeightNet(model, optimizer, weight_net, weight_map=weight_map, order="lagged").step(batch, meta)
    assert relative([p.grad for p in weight_net.parameters()], expected) < 1e-9
    for (key, mine), theirs in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-13, msg=key)
    torch.testing.assert_close(step.values, values)
    at_new = F.cross_entropy(copy.deepcopy(model).train()(meta[0]), meta[1]).detach()
    assert float(step.meta_loss) == pytest.approx(float(loss), rel=1e-12) == pytest.approx(float(at_new), rel=1e-9)


def test_lagged_is_exact_in_all_but_the_weights_of_the_real_step():
    """Its second step's weights are the weight net after the first: one step late, no more."""
    batch, meta = batches()
    model = small_net()
    mwn = MetaWeightNet(model, sgd(model), "1-10-1", order="lagged")
    before = copy.deepcopy(mwn.weight_net)
    first = mwn.step(batch, meta)
    torch.testing.assert_close(first.values, before(first.losses).detach())
    between = copy.deepcopy(mwn.weight_net)
    second = mwn.step(batch, meta)
    torch.testing.assert_close(second.values, between(second.losses).detach())
    assert not torch.equal(second.values, mwn.weights(second.losses))


@pytest.mark.parametrize("order", ["exact", "lagged"])
@pytest.mark.parametrize("name", ["plain", "nesterov", "adam"])
@pytest.mark.parametrize("weight_map", MAPS)
def test_top_is_the_exact_gradient_of_a_step_of_the_last_stage(weight_map, name, order):
    """With order "lagged" the lower layers move too, as a constant."""
    batch, meta = batches()
    model, weight_net = resnet8(), WeightNet("1-10-1")
    optimizer = warmed_up(model, name, batch)
    top = last_stage(model)
    kind = "optimizer" if order == "lagged" else "sgd"
    limits = {"aligned": top.__contains__} | ({"moved": top.__contains__} if order == "exact" else {})
    loss, expected = oracle.meta_gradient(model, optimizer, weight_net, batch, meta, weight_map, kind, **limits)
    mwn = MetaWeightNet(model, optimizer, weight_net, weight_map=weight_map, order=order, layers="top")
    step = mwn.step(batch, meta)
    assert relative([p.grad for p in weight_net.parameters()], expected) < 1e-9
    assert float(step.meta_loss) == pytest.approx(float(loss), rel=1e-12)


def test_named_layers_add_up_to_all_of_them():
    """The inner products are sums over parameters: those of the parts add up to the whole."""
    batch, meta = batches()
    model, weight_net, found = resnet8(), WeightNet("1-5-1"), {}
    for name, layers in {
        "all": "all",
        "top": "top",
        "rest": ["conv1", "bn1", "stage1", "stage2"],
        "stage3": ["stage3", "linear"],
    }.items():
        net, weigher = copy.deepcopy((model, weight_net))
        found[name] = MetaWeightNet(net, sgd(net), weigher, order="lagged", layers=layers).step(batch, meta).alignment
    torch.testing.assert_close(found["top"], found["stage3"], rtol=0, atol=0)
    torch.testing.assert_close(found["top"] + found["rest"], found["all"])
    assert relative([found["top"]], [found["all"]]) > 1e-3


def test_last_stages():
    assert {name.split(".")[0] for name in last_stage(MODELS["resnet32"](10, (3, 32, 32)))} == {"stage3", "linear"}
    assert {name.split(".")[0] for name in last_stage(MODELS["wrn10-1"](10, (3, 32, 32)))} == {"group3", "bn", "linear"}
    assert last_stage(MODELS["mlp"](10, (1, 8, 8))) == ["layers.3.weight", "layers.3.bias"]
    assert last_stage(small_net()) == ["5.weight", "5.bias"]
    assert last_stage(nn.Linear(3, 2)) == ["weight", "bias"]
    wrong = small_net()
    wrong.last_stage = ("head",)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="Sequential.last_stage names 'head', and Sequential has no module"):
        last_stage(wrong)


def convolutions(**choices) -> float:
    """FLOPs of convolutions and products in a step, in units of a forward's."""
    model = MODELS["resnet32"](10, (3, 16, 16)).float()
    x, y = torch.randn(4, 3, 16, 16, dtype=torch.float32), torch.randint(10, (4,))
    mwn = MetaWeightNet(model, sgd(model), WeightNet("1-5-1").float(), **choices)
    with FlopCounterMode(display=False) as forward:
        model(x)
    mwn.step((x, y), (x, y))  # the first one holds the tangent pass to a backward pass of its own
    with FlopCounterMode(display=False) as step:
        mwn.step((x, y), (x, y))
    return step.get_total_flops() / forward.get_total_flops()


def test_each_order_costs_its_count():
    """A forward is 1, a backward 2, a tangent pass 2; the last stage is a third of ResNet-32."""
    assert convolutions() == pytest.approx(10, abs=0.1)
    assert convolutions(order="lagged") == pytest.approx(8, abs=0.1)
    assert convolutions(layers="top") == pytest.approx(4 + 6 / 3, abs=0.1)
    assert convolutions(order="lagged", layers="top") == pytest.approx(4 + 4 / 3, abs=0.1)


@pytest.mark.parametrize("choices", [{"order": "lagged"}, {"layers": "top"}], ids=str)
def test_two_workers_are_one_process_on_the_whole_batch(choices):
    """Without batch norm; the weights' sum runs over both shares."""
    (x, y), (xm, ym) = batches(n=8, m=6)
    model, net = small_net(batch_norm=False), WeightNet("1-5-1")

    def run(worker, share):
        own, weigher = copy.deepcopy((model, net))
        mwn = MetaWeightNet(own, sgd(own, momentum=0.9), weigher, worker=worker, **choices)
        for _ in range(2):
            mwn.step((x[share], y[share]), (xm[share], ym[share]))
        return [*own.parameters(), *weigher.parameters()]

    # Of six meta images, three each; of eight training images, four each.
    parts = together(2, lambda worker: run(worker, slice(worker.rank, None, 2)))
    for mine, theirs, whole in zip(*parts, run(None, slice(None)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
        torch.testing.assert_close(mine, whole, rtol=1e-9, atol=1e-12)


def test_refusals():
    model = small_net()
    with pytest.raises(ValueError, match="order is 'late'; it can be 'exact', 'lagged'"):
        MetaWeightNet(model, sgd(model), order="late")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="order='lagged' makes the look-ahead the real step"):
        MetaWeightNet(model, sgd(model), order="lagged", input="through")
    with pytest.raises(ValueError, match="order='lagged' knows torch.optim.SGD, Adam and AdamW, not RMSprop"):
        MetaWeightNet(model, torch.optim.RMSprop(model.parameters()), order="lagged")
    with pytest.raises(ValueError, match="layers is 'bottom'; it can be 'all', 'top' or a list"):
        MetaWeightNet(model, sgd(model), layers="bottom")
    with pytest.raises(ValueError, match="layers names 'fc', and Sequential has no module"):
        MetaWeightNet(model, sgd(model), layers=["fc"])
    with pytest.raises(ValueError, match=r"the optimizer trains none of these parameters, '5.weight' for one"):
        MetaWeightNet(model, torch.optim.SGD(model[:2].parameters(), lr=0.1), layers="top")
    with pytest.raises(ConfigError, match="order=lagged makes the look-ahead the real step"):
        read(MetaSettings, {"order": "lagged", "input": "through"})

"""What `MetaWeightNet` refuses, before it has moved anything: each time with what would do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mwray import MetaWeightNet

X, Y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
META = (torch.randn(3, 4), torch.tensor([0, 1, 2]))


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3))


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("batch", "meta", "message"),
    [
        ((X[:0], Y[:0]), META, r"batch holds no sample: its inputs are \[0, 4\]"),
        ((X, Y), (X[:0], Y[:0]), "meta holds no sample"),
        ((X.numpy(), Y.numpy()), META, r"batch is \(ndarray, ndarray\); it must be a pair of tensors"),
        ((X, Y), X, r"meta is \(Tensor\); it must be a pair of tensors"),
    ],
)
def test_a_batch_that_is_none(batch, meta, message):
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        MetaWeightNet(model, sgd(model)).step(batch, meta)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("criterion", "shape"),
    [
        (nn.CrossEntropyLoss(), r"\[\]"),
        (lambda outputs, y: (outputs - F.one_hot(y, 3)) ** 2, r"\[6, 3\]"),
        (lambda outputs, y: F.cross_entropy(outputs, y, reduction="none")[:, None], r"\[6, 1\]"),
    ],
)
def test_a_criterion_that_gives_not_one_loss_for_each_sample(criterion, shape):
    model = net()
    with pytest.raises(ValueError, match=rf"of the shape {shape} for 6 samples.*reduction='none'"):
        MetaWeightNet(model, sgd(model), criterion=criterion).step((X, Y), META)


def test_a_criterion_of_ones_own_without_reduction_is_the_default():
    steps = []
    for criterion in ({}, {"criterion": nn.CrossEntropyLoss(reduction="none")}):
        torch.manual_seed(0)
        model = net()
        steps.append(MetaWeightNet(model, sgd(model), **criterion).step((X, Y), META))
    torch.testing.assert_close(steps[0].losses, steps[1].losses)
    torch.testing.assert_close(steps[0].alignment, steps[1].alignment)


class Own(nn.Module):
    """A weight net that gives what `form` makes of the weights [n]."""

    def __init__(self, form):
        super().__init__()
        self.slope, self.form = nn.Parameter(torch.tensor(-1.0)), form

    def forward(self, losses):
        return self.form((self.slope * losses).sigmoid())


@pytest.mark.parametrize("input", ["detached", "through"])
@pytest.mark.parametrize(
    ("form", "shape"), [(lambda v: v[:, None], r"\[6, 1\]"), (torch.mean, r"\[\]"), (lambda v: v[:2], r"\[2\]")]
)
def test_a_weight_net_that_gives_not_one_weight_for_each_loss(form, shape, input):
    model = net()
    before = copy.deepcopy(model.state_dict())
    weigher = MetaWeightNet(model, sgd(model), Own(form), input=input)
    message = rf"weight_net gave {shape} for losses \[6\]; it must give \[6\]"
    for meta in (META, None):
        with pytest.raises(ValueError, match=message):
            weigher.step((X, Y), meta)
    with pytest.raises(ValueError, match=message):
        weigher.weights(torch.ones(6))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_weight_net_of_ones_own_that_gives_one_for_each_learns():
    model = net()
    weigher = MetaWeightNet(model, sgd(model), Own(lambda v: v))
    weigher.step((X, Y), META)
    assert weigher.weights(torch.ones(6)).shape == (6,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 1.5}, "every is 1.5"),
        ({"tau": 0.0}, "tau is 0.0"),
        ({"tau": float("nan")}, "tau is nan"),
        ({"weight_net": None}, "weight_net is None; give a shape such as '1-100-1'"),
        ({"weight_net": "1-0-1"}, "'1-0-1' is not the shape of a weight net"),
    ],
)
def test_a_setting_that_cannot_be(settings, message):
    model = net()
    with pytest.raises(ValueError, match=message):
        MetaWeightNet(model, sgd(model), **settings)


def test_model_and_optimiser_of_the_right_kind():
    model = net()
    with pytest.raises(ValueError, match="model is SGD; it must be an nn.Module"):
        MetaWeightNet(sgd(model), model)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="optimizer is generator; it must be a torch.optim.Optimizer"):
        MetaWeightNet(model, model.parameters())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="optimizer is LBFGS, which computes the loss anew by a closure"):
        MetaWeightNet(model, torch.optim.LBFGS(model.parameters()))


def test_a_scheduler_around_the_step_is_no_closure():
    model = net()
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    MetaWeightNet(model, optimizer).step((X, Y), META)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_gradients_of_the_real_step_can_be_clipped_by_a_hook():
    model = net()
    optimizer, before = sgd(model), [p.detach().clone() for p in model.parameters()]

    def clip(*_: object) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)

    optimizer.register_step_pre_hook(clip)
    MetaWeightNet(model, optimizer).step((X, Y), META)
    moved = sum(float((a - b).detach().square().sum()) for a, b in zip(before, model.parameters(), strict=True)) ** 0.5
    assert moved == pytest.approx(1e-4, rel=1e-2)

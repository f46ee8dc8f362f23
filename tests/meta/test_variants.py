"""The variants of Meta-Weight-Net against double backward: input through the loss, classes, every k steps, workers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from mwray import MetaWeightNet
from mwray.models.class_weight_net import ClassWeightNet
from mwray.models.weight_net import WeightNet
from tests.meta import oracle
from tests.meta.team import together
from tests.meta.test_step import MAPS, Constant, batches, relative, sgd, small_net, warmed_up

pytestmark = pytest.mark.usefixtures("double_precision")


def gradients(net: nn.Module) -> list[torch.Tensor]:
    return [p.grad for p in net.parameters()]


@pytest.mark.parametrize("batch_norm", [True, False], ids=["bn", "no-bn"])
@pytest.mark.parametrize("look_ahead", ["sgd", "optimizer"])
@pytest.mark.parametrize("weight_map", MAPS)
@pytest.mark.parametrize("by_class", [False, True], ids=["loss", "loss-and-class"])
@pytest.mark.parametrize("through", [False, True], ids=["detached", "through"])
def test_gradient_is_that_of_double_backward(through, by_class, weight_map, look_ahead, batch_norm):
    batch, meta = batches()
    model = small_net(batch_norm)
    weight_net = ClassWeightNet("1-10-10-1", 3) if by_class else WeightNet("1-10-10-1")
    optimizer = warmed_up(model, "nesterov", batch)
    loss, expected = oracle.meta_gradient(
        model, optimizer, weight_net, batch, meta, weight_map, look_ahead, through=through, by_class=by_class
    )
    mwn = MetaWeightNet(
        model,
        optimizer,
        weight_net,
        weight_map=weight_map,
        look_ahead=look_ahead,
        input="through" if through else "detached",
        conditioning="class" if by_class else "none",
    )
    step = mwn.step(batch, meta)
    assert relative(gradients(weight_net), expected) < 1e-9
    assert float(step.meta_loss) == pytest.approx(float(loss), rel=1e-12)


def test_through_and_detached_differ_and_agree_where_the_weight_does_not_depend_on_the_loss():
    batch, meta = batches()
    found = {}
    for choice in ("detached", "through"):
        for name, net in (("learned", WeightNet("1-10-1")), ("constant", Constant())):
            torch.manual_seed(1)
            model = small_net()
            with torch.no_grad():
                for p in net.parameters():
                    p.fill_(0.3)
            mwn = MetaWeightNet(model, sgd(model), net, weight_map="mean", input=choice)
            mwn.step(batch, meta)
            found[choice, name] = gradients(net)
    assert relative(found["through", "learned"], found["detached", "learned"]) > 1e-3
    torch.testing.assert_close(found["through", "constant"], found["detached", "constant"])


def test_the_actual_step_uses_factors_whatever_the_input_is():
    """The released long-tail code computes the weights of the actual step without a graph."""
    batch, meta = batches()
    model = small_net()
    mwn = MetaWeightNet(model, sgd(model), input="through")
    reference = copy.deepcopy(model)
    step = mwn.step(batch, meta)
    torch.testing.assert_close(step.weights, step.values / step.values.sum())
    loss = (step.weights * nn.functional.cross_entropy(reference.train()(batch[0]), batch[1], reduction="none")).sum()
    loss.backward()
    for new, old in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(new, old - 0.1 * old.grad)


def test_class_weights_come_from_the_class_of_the_label():
    net = ClassWeightNet("1-6-1", 4)
    losses, classes = torch.rand(9), torch.tensor([0, 3, 1, 1, 2, 0, 3, 3, 2])
    table = net.all_classes(losses)
    assert table.shape == (9, 4)
    torch.testing.assert_close(net(losses, classes), torch.stack([table[i, c] for i, c in enumerate(classes)]))
    assert sum(p.numel() for p in ClassWeightNet("1-100-1", 10).parameters()) == 1210


def test_the_weight_net_moves_every_third_step_only_and_a_resume_keeps_count():
    batch, meta = batches()
    model = small_net()
    optimizer = sgd(model)
    mwn = MetaWeightNet(model, optimizer, "1-5-1", every=3)
    moved, meta_losses = [], []
    for number in range(7):
        before = [p.detach().clone() for p in mwn.weight_net.parameters()]
        step = mwn.step(batch, meta)
        moved.append(any(not torch.equal(a, b) for a, b in zip(before, mwn.weight_net.parameters(), strict=True)))
        assert (step.alignment is None) == (not moved[-1])
        meta_losses.append(float(step.meta_loss))
        if number == 3:
            saved = copy.deepcopy(mwn.state_dict())
    assert moved == [True, False, False, True, False, False, True]
    assert meta_losses[0] == meta_losses[2] != meta_losses[3] == meta_losses[5]
    again = MetaWeightNet(model, optimizer, "1-5-1", every=3)
    again.load_state_dict(saved)
    assert [again.learns, float(again.state.meta_loss)] == [False, meta_losses[3]]


def test_a_step_between_two_updates_is_a_weighted_step_from_the_weights_as_they_are():
    batch, meta = batches()
    model = small_net()
    mwn = MetaWeightNet(model, sgd(model), every=2)
    mwn.step(batch, meta)
    reference = copy.deepcopy(model)
    losses = nn.functional.cross_entropy(reference.train()(batch[0]), batch[1], reduction="none")
    values = mwn.weights(losses.detach())
    (losses * values / values.sum()).sum().backward()
    mwn.step(batch, meta)
    for new, old in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(new, old - 0.1 * old.grad)
    for new, old in zip(model.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(new, old)


@pytest.mark.parametrize("by_class", [False, True], ids=["loss", "loss-and-class"])
@pytest.mark.parametrize("weight_map", MAPS)
@pytest.mark.parametrize("through", ["detached", "through"])
def test_two_workers_take_the_step_of_one(through, weight_map, by_class):
    """Without batch norm: with it each worker has batch statistics of its own."""
    (x, y), (meta_x, meta_y) = batches(m=8)
    start = small_net(batch_norm=False)
    start_net = ClassWeightNet("1-8-1", 3) if by_class else WeightNet("1-8-1")

    def train(worker, part, meta_part):
        model, net = copy.deepcopy(start), copy.deepcopy(start_net)
        options = {"weight_map": weight_map, "input": through, "conditioning": "class" if by_class else "none"}
        mwn = MetaWeightNet(model, sgd(model, momentum=0.9), net, worker=worker, **options)
        for _ in range(3):
            mwn.step((x[part], y[part]), (meta_x[meta_part], meta_y[meta_part]))
        return [*model.parameters(), *net.parameters()]

    alone = train(None, slice(None), slice(None))
    halves = [slice(0, 6), slice(6, 12)], [slice(0, 4), slice(4, 8)]
    for parameters in together(2, lambda worker: train(worker, halves[0][worker.rank], halves[1][worker.rank])):
        torch.testing.assert_close(parameters, alone, rtol=1e-10, atol=1e-12)


def test_refusals_name_what_would_do():
    model = small_net()
    with pytest.raises(ValueError, match="input is 'both'; it can be 'detached', 'through'"):
        MetaWeightNet(model, sgd(model), input="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"give weight_net=ClassWeightNet\('1-100-1', num_classes\)"):
        MetaWeightNet(model, sgd(model), conditioning="class")
    with pytest.raises(ValueError, match="every is 0; it can be 1"):
        MetaWeightNet(model, sgd(model), every=0)


def squared(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).square()


def test_outputs_of_one_number_a_sample_as_a_regression_has_them():
    model, weight_net = nn.Sequential(small_net(), nn.Tanh(), nn.Linear(3, 1), nn.Flatten(0)), WeightNet("1-10-1")
    batch, meta = ((x, torch.randn(len(x), generator=torch.Generator().manual_seed(len(x)))) for x, _ in batches())
    optimizer = sgd(model)
    _, expected = oracle.meta_gradient(
        model, optimizer, weight_net, batch, meta, "normalized", "sgd", criterion=squared
    )
    MetaWeightNet(model, optimizer, weight_net, criterion=squared).step(batch, meta)
    assert relative(gradients(weight_net), expected) < 1e-9


class Masked(nn.Module):
    """Attention over the 64 pixels, of which one sees none and all but a third see some."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.head = nn.Linear(1, 12), nn.Linear(4, 3)
        self.mask = torch.rand(64, 64, generator=torch.Generator().manual_seed(2)) > 0.3
        self.mask[5] = False

    def forward(self, x):
        q, k, v = self.project(x.flatten(2).mT).chunk(3, -1)
        return self.head(F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask).mean(1))


def test_a_row_of_attention_that_is_masked_as_a_whole_weighs_nothing():
    model, weight_net, (batch, meta) = Masked(), WeightNet("1-10-1"), batches()
    with sdpa_kernel(SDPBackend.MATH):  # the only one with a second derivative
        _, expected = oracle.meta_gradient(model, sgd(model), weight_net, batch, meta, "normalized", "sgd")
    assert all(g.isfinite().all() for g in expected)
    MetaWeightNet(model, sgd(model), weight_net).step(batch, meta)
    assert relative(gradients(weight_net), expected) < 1e-9


def test_a_weight_net_made_here_is_as_precise_as_the_model_and_no_less_than_float32():
    for dtype, own in ((torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)):
        model = small_net().to(dtype)
        made = MetaWeightNet(model, sgd(model)).weight_net
        assert {p.dtype for p in made.parameters()} == {own}
    batch, meta = batches()
    MetaWeightNet(model := small_net(), sgd(model)).step(batch, meta)  # all of it float64


def test_weights_stay_in_float32_where_the_caller_s_autocast_rounds():
    model = small_net().float()
    batch, meta = ((x.float(), y) for x, y in batches())
    with torch.autocast("cpu", torch.bfloat16):
        step = MetaWeightNet(model, sgd(model)).step(batch, meta)
    assert step.values.dtype == step.weights.dtype == torch.float32
    assert float(step.weights.sum()) == pytest.approx(1, abs=1e-6)

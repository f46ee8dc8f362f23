"""One iteration of Algorithm 1 against double backward, closed forms and plain training."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mwray import MetaWeightNet
from mwray.models.registry import build
from mwray.models.settings import Model
from mwray.models.weight_net import WeightNet
from tests.meta import oracle

MAPS = ("normalized", "mean", "detached")


def small_net(batch_norm: bool = True) -> nn.Module:
    norm = nn.BatchNorm2d(4) if batch_norm else nn.Identity()
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 3))


def batches(classes: int = 3, channels: int = 1, size: int = 8, n: int = 12, m: int = 9, seed: int = 0) -> list:
    g = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(k, channels, size, size, generator=g), torch.randint(classes, (k,), generator=g)) for k in (n, m)
    ]


def sgd(model: nn.Module, **settings: float) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, **settings})


OPTIMIZERS = {
    "plain": lambda m: sgd(m),
    "momentum": lambda m: sgd(m, momentum=0.9, weight_decay=5e-4),
    "damped": lambda m: sgd(m, momentum=0.9, dampening=0.3),
    "nesterov": lambda m: sgd(m, momentum=0.9, weight_decay=5e-4, nesterov=True),
    "adam": lambda m: torch.optim.Adam(m.parameters(), lr=0.01, weight_decay=0.1),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=0.01, weight_decay=0.1),
}


pytestmark = pytest.mark.usefixtures("double_precision")


def learned_gradient(mwn: MetaWeightNet, batch, meta) -> list[Tensor]:
    mwn.step(batch, meta)
    return [p.grad for p in mwn.weight_net.parameters()]


def relative(a: list[Tensor], b: list[Tensor]) -> float:
    a, b = (torch.cat([t.flatten() for t in ts]) for ts in (a, b))
    return float((a - b).norm() / b.norm())


def warmed_up(model: nn.Module, name: str, batch) -> torch.optim.Optimizer:
    """An optimiser with momentum in its buffers."""
    optimizer = OPTIMIZERS[name](model)
    for _ in range(2):
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


@pytest.mark.parametrize("batch_norm", [True, False], ids=["bn", "no-bn"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("weight_map", MAPS)
def test_gradient_is_that_of_double_backward(weight_map, name, batch_norm):
    batch, meta = batches()
    model, weight_net = small_net(batch_norm), WeightNet("1-10-10-1")
    optimizer = warmed_up(model, name, batch)
    loss, expected = oracle.meta_gradient(model, optimizer, weight_net, batch, meta, weight_map, "optimizer")
    mwn = MetaWeightNet(model, optimizer, weight_net, weight_map=weight_map, look_ahead="optimizer")
    step = mwn.step(batch, meta)
    assert relative([p.grad for p in weight_net.parameters()], expected) < 1e-9
    assert float(step.meta_loss) == pytest.approx(float(loss), rel=1e-12)


@pytest.mark.parametrize("weight_map", MAPS)
def test_gradient_of_the_papers_look_ahead(weight_map):
    """Eq. 3 is plain SGD whatever the real optimiser is."""
    batch, meta = batches()
    model, weight_net = small_net(), WeightNet("1-20-1")
    optimizer = warmed_up(model, "nesterov", batch)
    _, expected = oracle.meta_gradient(model, optimizer, weight_net, batch, meta, weight_map, "sgd")
    mwn = MetaWeightNet(model, optimizer, weight_net, weight_map=weight_map)
    assert relative(learned_gradient(mwn, batch, meta), expected) < 1e-9


def test_first_momentum_step_has_no_buffer():
    batch, meta = batches()
    model, weight_net = small_net(), WeightNet("1-5-1")
    optimizer = sgd(model, momentum=0.9, dampening=0.5)
    _, expected = oracle.meta_gradient(model, optimizer, weight_net, batch, meta, "mean", "optimizer")
    mwn = MetaWeightNet(model, optimizer, weight_net, weight_map="mean", look_ahead="optimizer")
    assert relative(learned_gradient(mwn, batch, meta), expected) < 1e-9


@pytest.mark.parametrize("weight_map", MAPS)
@pytest.mark.parametrize("look_ahead", ["sgd", "optimizer"])
def test_gradient_on_resnet32(weight_map, look_ahead):
    batch, meta = batches(classes=10, channels=3, size=16, n=6, m=4)
    model, weight_net = build(Model(name="resnet32"), 10, (3, 16, 16)), WeightNet("1-100-1")
    optimizer = warmed_up(model, "momentum", batch)
    _, expected = oracle.meta_gradient(model, optimizer, weight_net, batch, meta, weight_map, look_ahead)
    mwn = MetaWeightNet(model, optimizer, weight_net, weight_map=weight_map, look_ahead=look_ahead)
    assert relative(learned_gradient(mwn, batch, meta), expected) < 1e-9


def test_gradient_is_equation_6_with_explicit_per_sample_gradients():
    """Without batch norm: theta's gradient is -(alpha/n) sum_i <grad L_i, grad L_meta(w_hat)> dV_i / d theta."""
    (x, y), meta = batches()
    model, weight_net = small_net(batch_norm=False), WeightNet("1-7-1")
    parameters = list(model.parameters())

    per_sample = [
        torch.autograd.grad(F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), parameters) for i in range(12)
    ]
    losses = F.cross_entropy(model(x), y, reduction="none").detach()
    values = weight_net(losses)
    ahead = copy.deepcopy(model)
    with torch.no_grad():
        for k, p in enumerate(ahead.parameters()):
            p -= 0.1 / 12 * sum(values[i] * per_sample[i][k] for i in range(12))
    meta_gradient = torch.autograd.grad(F.cross_entropy(ahead(meta[0]), meta[1]), list(ahead.parameters()))
    inner = [sum((a * b).sum() for a, b in zip(g, meta_gradient, strict=True)) for g in per_sample]
    expected = torch.autograd.grad(values, list(weight_net.parameters()), -0.1 / 12 * torch.stack(inner))

    mwn = MetaWeightNet(model, sgd(model), weight_net, weight_map="mean")
    step = mwn.step((x, y), meta)
    assert relative([p.grad for p in weight_net.parameters()], list(expected)) < 1e-10
    torch.testing.assert_close(step.alignment, 0.1 * torch.stack(inner))


class Constant(nn.Module):
    """A weight net that cannot learn: every loss weighs the same."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(0.25))

    def forward(self, losses: Tensor) -> Tensor:
        return self.value * torch.ones_like(losses)


def test_a_constant_weight_net_trains_the_base_model():
    batch, meta = batches()
    model = small_net()
    plain = copy.deepcopy(model)
    settings = {"momentum": 0.9, "weight_decay": 5e-4}
    mwn = MetaWeightNet(model, sgd(model, **settings), Constant())
    optimizer = sgd(plain, **settings)
    for _ in range(5):
        mwn.step(batch, meta)
        optimizer.zero_grad()
        F.cross_entropy(plain(batch[0]), batch[1]).backward()
        optimizer.step()
    for (name, a), b in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13, msg=name)


class Scaled(nn.Module):
    def __init__(self, net: nn.Module, factor: float) -> None:
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, losses: Tensor) -> Tensor:
        return self.factor * self.net(losses)


def test_scaling_the_weights_changes_nothing_under_equation_40():
    batch, meta = batches()
    model, weight_net = small_net(), WeightNet("1-10-1")
    ends = []
    for factor in (1.0, 37.0):
        net = copy.deepcopy(model)
        mwn = MetaWeightNet(net, sgd(net), Scaled(copy.deepcopy(weight_net), factor))
        for _ in range(3):
            mwn.step(batch, meta)
        ends.append([*net.state_dict().values(), mwn.weights(torch.linspace(0, 3, 7)) / factor])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b)


class Zero(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(1.0))

    def forward(self, losses: Tensor) -> Tensor:
        return torch.relu(self.slope * -losses)


@pytest.mark.parametrize("weight_map", MAPS)
def test_weights_that_sum_to_zero_leave_the_model_where_it_is(weight_map):
    """Eq. 40's tau: 0 / tau = 0, not 0 / 0."""
    batch, meta = batches()
    model = small_net()
    before = [p.detach().clone() for p in model.parameters()]
    step = MetaWeightNet(model, sgd(model), Zero(), weight_map=weight_map).step(batch, meta)
    assert step.weights.abs().sum() == 0
    for a, b in zip(model.parameters(), before, strict=True):
        assert torch.equal(a, b)


def test_running_statistics_move_once_and_by_the_training_batch_alone():
    batch, meta = batches()
    model = small_net()
    reference = copy.deepcopy(model)
    MetaWeightNet(model, sgd(model)).step(batch, meta)
    reference.train()(batch[0])
    for a, b in zip(model.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_weights_sum_to_one_and_mean_divides_by_n():
    batch, meta = batches()
    model = small_net()
    step = MetaWeightNet(model, sgd(model)).step(batch, meta)
    assert float(step.weights.sum()) == pytest.approx(1)
    step = MetaWeightNet(model, sgd(model), weight_map="mean").step(batch, meta)
    torch.testing.assert_close(step.weights, step.values / 12)


def test_the_meta_step_lowers_the_meta_loss():
    """Many small steps of the weight net on one batch: the loss at w_hat falls."""
    batch, meta = batches()
    model = small_net()
    optimizer = sgd(model, lr=0.5)
    mwn = MetaWeightNet(
        model, optimizer, "1-20-1", weight_optimizer=lambda p: torch.optim.SGD(p, lr=1.0), weight_map="normalized"
    )
    start = copy.deepcopy(model.state_dict())
    losses = []
    for _ in range(60):
        losses.append(float(mwn.step(batch, meta).meta_loss))
        model.load_state_dict(start)
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(losses))
    assert losses[-1] < losses[0] - 1e-3


def test_frozen_and_foreign_parameters_stay():
    batch, meta = batches()
    model = small_net()
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model[5].parameters(), lr=0.1)
    before = copy.deepcopy(model.state_dict())
    MetaWeightNet(model, optimizer).step(batch, meta)
    after = model.state_dict()
    assert torch.equal(before["0.weight"], after["0.weight"])
    assert torch.equal(before["0.bias"], after["0.bias"])
    assert not torch.equal(before["5.weight"], after["5.weight"])


def test_parameter_groups_keep_their_own_rates():
    batch, meta = batches()
    model, weight_net = small_net(), WeightNet("1-5-1")
    groups = [{"params": model[0].parameters(), "lr": 0.3}, {"params": model[1:].parameters(), "lr": 0.01}]
    mwn = MetaWeightNet(model, torch.optim.SGD(groups), weight_net)
    w = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    rates = {name: 0.3 if name.startswith("0.") else 0.01 for name in w}

    def losses_at(parameters, pair):
        buffers = {name: b.clone() for name, b in model.named_buffers()}
        out = torch.func.functional_call(model, {**buffers, **parameters}, (pair[0],))
        return F.cross_entropy(out, pair[1], reduction="none")

    losses = losses_at(w, batch)
    eta = oracle.weights_of(weight_net(losses.detach()), "normalized")
    gradients = torch.autograd.grad((eta * losses).sum(), list(w.values()), create_graph=True)
    ahead = {n: w[n].detach() - rates[n] * g for n, g in zip(w, gradients, strict=True)}
    expected = torch.autograd.grad(losses_at(ahead, meta).mean(), list(weight_net.parameters()))
    assert relative(learned_gradient(mwn, batch, meta), list(expected)) < 1e-9


def test_state_goes_on_to_the_same_bits():
    batch, meta = batches()
    model = small_net()
    optimizer = sgd(model, momentum=0.9)
    mwn = MetaWeightNet(model, optimizer)
    mwn.step(batch, meta)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), mwn.state_dict()))
    mwn.step(batch, meta)

    other = small_net()
    other_optimizer = sgd(other, momentum=0.9)
    again = MetaWeightNet(other, other_optimizer)
    other.load_state_dict(saved[0])
    other_optimizer.load_state_dict(saved[1])
    again.load_state_dict(saved[2])
    again.step(batch, meta)
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(mwn.weight_net.parameters(), again.weight_net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_refusals_name_what_would_do():
    model = small_net()
    with pytest.raises(ValueError, match="optimizer holds no trainable parameter"):
        MetaWeightNet(model, sgd(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="weight_map is 'sum'; it can be 'normalized', 'mean', 'detached'"):
        MetaWeightNet(model, sgd(model), weight_map="sum")  # type: ignore[arg-type]
    batch, meta = batches()
    optimizer = torch.optim.RMSprop(model.parameters())
    with pytest.raises(ValueError, match="knows torch.optim.SGD, Adam and AdamW, not RMSprop"):
        MetaWeightNet(model, optimizer, look_ahead="optimizer").step(batch, meta)

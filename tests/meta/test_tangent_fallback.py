"""What forward-mode AD does not see, or cannot do, falls to two pull-backs; the whole step against double backward."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import Tensor, nn

from mwray import MetaWeightNet
from mwray.meta import tangent as tangent_module
from mwray.meta.pull_backs import PullBacks
from mwray.meta.tangent import Linearized, record
from mwray.meta.unseen import GradientHook
from mwray.models.sync_batch_norm import synchronized
from mwray.models.weight_net import WeightNet
from mwray.worker import LocalWorker
from tests.meta import oracle
from tests.meta.tangent_nets import images, random_direction


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    tangent_module._warned.clear()
    tangent_module._failures.clear()


class Reversed(torch.autograd.Function):
    """Gradient reversal, in the memory of its input."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -2 * gradient


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, gradient):
        return 3 * gradient


class Doubled(torch.autograd.Function):
    """Works in place, with a backward that knows nothing of it."""

    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Sign(torch.autograd.Function):
    """The straight-through estimator."""

    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return gradient * s * (1 + x * (1 - s))


class Once(torch.autograd.Function):
    """A backward that double backward takes for a constant, without a word."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient * 2


def negated(x: Tensor) -> Tensor:
    if x.requires_grad:
        x.register_hook(lambda gradient: -gradient)
    return x


class Between(nn.Module):
    """A function of the hidden layer, or of the outputs."""

    def __init__(self, function, last: bool = False) -> None:
        super().__init__()
        self.body, self.head, self.function, self.last = nn.Linear(768, 8), nn.Linear(8, 5), function, last

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x.flatten(1)) * 1
        return self.function(self.head(hidden)) if self.last else self.head(self.function(hidden))


def hooked_module() -> nn.Module:
    model = Between(torch.tanh)
    model.head.register_full_backward_hook(lambda module, to_input, to_output: (-to_input[0],))
    return model


def hooked_weight() -> nn.Module:
    model = Between(torch.tanh)
    model.body.weight.register_hook(lambda gradient: gradient * 0.3)
    return model


class Attention(nn.Module):
    """Its fused kernel on CPUs has no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(48, 8), nn.Linear(8, 5)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(Reversed.apply(self.layer(self.body(x.transpose(1, 2).flatten(2)))).mean(1))


def on_its_node(x: Tensor) -> Tensor:
    """No tensor shows this hook, and no operation sees it."""
    if x.grad_fn is not None:
        x.grad_fn.register_hook(lambda to_inputs, to_outputs: tuple(None if g is None else -g for g in to_inputs))
    return x


def before_its_node(x: Tensor) -> Tensor:
    if x.grad_fn is not None:
        x.grad_fn.register_prehook(lambda to_outputs: tuple(0.5 * g for g in to_outputs))
    return x


class Late(Between):
    """A hook that its tensor gets when all operations on it are done."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x.flatten(1)) * 1
        outputs = self.head(hidden)
        negated(hidden)
        return outputs


HIDDEN = {
    "reversed": (lambda: Between(Reversed.apply), "Reversed is a custom function (in head, Linear)"),
    "scaled": (lambda: Between(Scaled.apply), "Scaled is a custom function (in head, Linear)"),
    "in place": (lambda: Between(Doubled.apply), "Doubled is a custom function"),
    "straight through": (lambda: Between(Sign.apply), "Sign is a custom function"),
    "swish": (lambda: Between(Swish.apply), "Swish is a custom function"),
    "reversed outputs": (lambda: Between(Reversed.apply, last=True), "Reversed is a custom function"),
    "hook": (lambda: Between(negated), "a backward hook may change its gradient (in head, Linear)"),
    "hook on outputs": (lambda: Between(negated, last=True), "a backward hook"),
    "hook of a module": (hooked_module, "a backward hook"),
    "hook of a weight": (hooked_weight, "a backward hook may change its gradient (in body, Linear)"),
    "hook of a grad_fn": (lambda: Between(on_its_node), "its backward pass does what no operation"),
    "hook before a grad_fn": (lambda: Between(before_its_node), "its backward pass does what no operation"),
    "hook after the last use": (lambda: Late(None), "its backward pass does what no operation"),
    "attention": (Attention, "Reversed is a custom function"),
}


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("name", HIDDEN)
def test_what_only_the_backward_pass_tells_counts_as_in_double_backward(name, caplog):
    make, reason = HIDDEN[name]
    torch.manual_seed(0)
    model = make().double()
    torch.manual_seed(0)
    twin = make().double()  # a deep copy would lose its hooks
    batch, meta = ((images(n), torch.randint(5, (n,))) for n in (8, 6))
    weight_net = WeightNet("1-10-1").double()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        sgd = torch.optim.SGD(twin.parameters(), lr=0.1)
        _, expected = hooks_once(twin, sgd, copy.deepcopy(weight_net), batch, meta)
    mwn = MetaWeightNet(model, torch.optim.SGD(model.parameters(), lr=0.1), weight_net)
    with caplog.at_level(logging.WARNING, logger="mwray"):
        mwn.step(batch, meta)
        got = [p.grad.clone() for p in weight_net.parameters()]
        assert tangent_module._failures[model] is PullBacks
        mwn.step(batch, meta)
    for a, b in zip(got, expected, strict=True):
        assert (a - b).norm() <= 1e-11 * b.norm()
    assert len(caplog.records) == 1
    assert reason in caplog.text and "two pull-backs" in caplog.text and type(model).__name__ in caplog.text


def hooks_once(model, optimizer, weight_net, batch, meta):
    """The oracle at the model's own parameters, for its hooks are theirs."""
    own = dict(model.named_parameters())
    losses = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
    eta = oracle.weights_of(weight_net(losses.detach()), "normalized")
    slopes = torch.autograd.grad((eta * losses).sum(), list(own.values()), create_graph=True)
    ahead = {name: p.detach() - 0.1 * g for (name, p), g in zip(own.items(), slopes, strict=True)}
    outputs = torch.func.functional_call(model, ahead, (meta[0],))
    meta_loss = nn.functional.cross_entropy(outputs, meta[1])
    return meta_loss, torch.autograd.grad(meta_loss, list(weight_net.parameters()))


def test_the_recording_of_pull_backs_gives_the_same_tangent_again():
    model, x = Between(Sign.apply).double(), images()
    direction = random_direction(model)
    first = record(model, x).tangent(direction)
    again = record(model, x)
    assert isinstance(again, PullBacks)
    assert torch.allclose(again.tangent(direction), first, rtol=1e-12)
    assert torch.equal(again.tangent(direction), again.tangent(direction))
    assert again.tangent({}).equal(torch.zeros_like(first))


def test_a_backward_that_cannot_be_differentiated_is_refused_by_name():
    """Double backward would leave its part out; forward mode could, had the function a `jvp`."""
    model = Between(Once.apply).double()
    with pytest.raises(
        RuntimeError, match=r"Between has no tangent pass: Once is a custom function \(in head, Linear\)"
    ):
        Linearized(model, images()).tangent(random_direction(model))


def test_an_operation_without_any_derivative_names_its_module():
    """PyTorch can differentiate bags neither forwards nor twice."""

    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bags = nn.EmbeddingBag(9, 4, mode="sum", scale_grad_by_freq=True)

        def forward(self, rows: Tensor) -> Tensor:
            return self.bags(rows)

    model = Bags()
    recording = Linearized(model, torch.randint(9, (3, 2)))
    with pytest.raises(
        RuntimeError, match=r"Bags has no tangent pass: .*_embedding_bag.*by_freq \(in bags, EmbeddingBag"
    ):
        recording.tangent(random_direction(model))


def test_a_forward_derivative_serves_where_the_backward_cannot_be_differentiated():
    class Both(Once):
        @staticmethod
        def jvp(ctx, tangent):
            return tangent * 2

    model, x = Between(Both.apply).double(), images()
    plain = Between(lambda hidden: hidden * 2).double()
    plain.load_state_dict(model.state_dict())
    direction = random_direction(model)
    expected = Linearized(plain, x).tangent(direction)
    for _ in range(2):
        assert torch.allclose(record(model, x).tangent(direction), expected, rtol=1e-12)


def test_hooks_that_only_look_keep_the_tape(caplog):
    """Loggers hook every weight; what profilers hook is the same."""
    seen = []
    model = Between(lambda hidden: looked_at(hidden, seen)).double()
    model.body.weight.register_hook(seen.append)
    model.head.weight.register_hook(lambda gradient: gradient)
    mwn = MetaWeightNet(model, torch.optim.SGD(model.parameters(), lr=0.1), WeightNet("1-10-1").double())
    for _ in range(2):
        mwn.step(*((images(n), torch.randint(5, (n,))) for n in (8, 6)))
    # Two pull-backs a step through both, one of the meta batch, and one that holds the first tangent to account.
    assert len(seen) == 12 and not caplog.records
    model.body.weight.register_hook(lambda gradient: 2 * gradient)
    mwn.step(*((images(n), torch.randint(5, (n,))) for n in (8, 6)))
    assert "a backward hook may change its gradient (in body, Linear)" in caplog.text


def test_a_hook_that_overwrites_its_gradient_changes_it():
    for hook in (lambda gradient: None, lambda gradient: gradient, lambda gradient: gradient.sum()):
        watched = GradientHook(hook, None, None)
        assert not watched.harmless
        watched(torch.ones(2))
        assert watched.harmless == (hook(torch.ones(2)) is None or hook(torch.ones(2)).dim() == 1)
    overwriting = GradientHook(lambda gradient: gradient.zero_(), None, None)
    overwriting(torch.ones(2))
    assert not overwriting.harmless


def looked_at(x: Tensor, seen: list[Tensor]) -> Tensor:
    if x.requires_grad:
        x.register_hook(seen.append)
    return x


def test_synchronized_statistics_are_not_differentiated_twice():
    """The exchange would count as a constant."""
    worker = LocalWorker("cpu")
    worker.size = 2  # two that see the same
    model = synchronized(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(768), Between(Sign.apply)), worker)
    with pytest.raises(ValueError, match="'local' would do"):
        Linearized(model, images(dtype=torch.float32)).tangent(random_direction(model))

"""What a GPU asks of every method: no wait in a step, and half-precision activations on float32 state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mwray.meta import tangent
from mwray.train.graphs import Graphs
from mwray.train.loop import Session
from mwray.worker import LocalWorker
from tests.methods.test_contract import EPOCHS, every_case, experiment
from tests.train.fake_graph import FakeCapture, NoWaiting, Waits

NEVER = 10**9
TO_HOST = {Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.item, Tensor.__bool__, Tensor.__float__, Tensor.__int__}
FROM_HOST = {torch.tensor, torch.as_tensor, torch.from_numpy, Tensor.new_tensor}


class NoHost(TorchFunctionMode):
    """Refuses, above the dispatcher, what copies between device and host: on the CPU it leaves no trace below."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in TO_HOST or func in FROM_HOST:
            raise Waits(f"{getattr(func, '__name__', func)} copies between host and device")
        if func is Tensor.to and any(str(a).startswith("cpu") for a in (*args[1:], *(kwargs or {}).values())):
            raise Waits("to('cpu') waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def _random_state():
    with torch.random.fork_rng():
        yield


def session(case, tmp_path, **values) -> Session:
    """With the optimisers that a GPU gets."""
    graphs = Graphs(FakeCapture(), NEVER)
    return Session(experiment(case, **values), tmp_path, LocalWorker("cpu"), (), graphs=graphs)


@every_case
def test_no_step_waits_for_the_device(case, tmp_path):
    """Cropping, updating and tracking; between epochs the host may look."""
    one = session(case, tmp_path, model__name="small", data__augment=True)
    for network in networks(one.method):
        tangent._trust.give(network)  # a model's first tangent is held to a backward pass, by the host
    for epoch in range(EPOCHS):
        one.tracker.reset()
        one.method.epoch_start(epoch)
        draws = list(one._draws(epoch))
        with NoWaiting(), NoHost():
            for drawn in draws:
                one.iteration(drawn)
        one.method.epoch_end(epoch)


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: float(x[0]),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: x.unique(),
        lambda x: torch.bincount(x.long()),
        lambda x: x + torch.tensor([1.0, 2.0, 3.0]),
        lambda x: x * x.new_tensor(2.0),
        lambda x: torch.equal(x, x),
    ],
)
def test_the_guard_sees_every_kind_of_wait(work):
    with pytest.raises(Waits), NoWaiting(), NoHost():
        work(torch.ones(3))


@every_case
def test_it_trains_in_bfloat16_on_float32_state(case, tmp_path):
    one = session(case, tmp_path, model__name="small", precision="bf16")
    one.method.epoch_start(0)
    seen, losses = set(), []
    for network in networks(one.method):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                module.register_forward_hook(lambda m, inputs, output: seen.add(output.dtype))
    for epoch in range(EPOCHS):
        if epoch:
            one.method.epoch_start(epoch)
        for batch, meta in one._batches(epoch):
            step = one.method.update(batch, meta)
            shown = [
                step.logits,
                step.losses,
                *step.scalars.values(),
                *([] if step.weights is None else [step.weights]),
            ]
            assert {tensor.dtype for tensor in shown} == {torch.float32}
            assert all(tensor.isfinite().all() for tensor in shown)
            losses.append(float(step.losses.mean()))
        one.method.epoch_end(epoch)
    assert seen == {torch.bfloat16}
    assert floats(one.method.state()) <= {torch.float32}
    assert one.method.predict(next(one.test.in_order(10)).x).dtype == torch.float32


def networks(method: Any) -> list[nn.Module]:
    held = getattr(method, "networks", None) or [method.classifier]
    return [classifier.network for classifier in held]


def floats(state: Any) -> set[torch.dtype]:
    """The floating-point types of a nested state."""
    if isinstance(state, Tensor):
        return {state.dtype} if state.is_floating_point() else set()
    nested = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return set().union(*map(floats, nested))

"""The same iteration by other libraries, as their own examples write it: higher, TorchOpt, Betty.

`pip install higher torchopt betty-ml graphviz` brings them; those that cannot be imported are left out.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders import Contender, Step, Task, actual_step, losses_of, math_attention


def by_higher(task: Task) -> Step:
    """facebookresearch/higher: a patched copy of the model inside `innerloop_ctx`."""
    import higher

    optimizer, weight_optimizer = task.optimizer(), task.weight_optimizer()
    inner = torch.optim.SGD(task.model.parameters(), task.lr)
    theta = list(task.weight_net.parameters())

    def step() -> None:
        with higher.innerloop_ctx(task.model, inner) as (model, differentiable):
            differentiable.step(task.weighted_loss(losses_of(model(task.batch[0]), task.batch[1])))
            slopes = torch.autograd.grad(losses_of(model(task.meta[0]), task.meta[1]).mean(), theta)
        _move(theta, slopes, weight_optimizer)
        actual_step(task, optimizer)

    return step


def by_torchopt(task: Task) -> Step:
    """metaopt/torchopt: `MetaSGD` moves the model differentiably, its state is put back afterwards."""
    import torchopt

    optimizer, weight_optimizer = task.optimizer(), task.weight_optimizer()
    inner = torchopt.MetaSGD(task.model, lr=task.lr)
    theta = list(task.weight_net.parameters())

    def step() -> None:
        model_state = torchopt.extract_state_dict(task.model, by="reference", detach_buffers=True)
        inner_state = torchopt.extract_state_dict(inner, by="reference")
        inner.step(task.weighted_loss(losses_of(task.model(task.batch[0]), task.batch[1])))
        slopes = torch.autograd.grad(losses_of(task.model(task.meta[0]), task.meta[1]).mean(), theta)
        torchopt.recover_state_dict(task.model, model_state)
        torchopt.recover_state_dict(inner, inner_state)
        _move(theta, slopes, weight_optimizer)
        actual_step(task, optimizer)

    return step


def by_betty(task: Task) -> Step:
    """leopard-ai/betty: two problems in an engine; its default "darts" finite difference, unroll_steps=1.

    Not the same gradient: the real step is the look-ahead (weights lag by one), and the weight net reads the losses
    at the shifted parameters.
    """
    from betty.configs import Config, EngineConfig
    from betty.engine import Engine
    from betty.problems import ImplicitProblem

    class Classifier(ImplicitProblem):  # type: ignore[misc, unused-ignore]
        def training_step(self, batch: Any) -> Tensor:
            losses = losses_of(self.forward(batch[0]), batch[1])
            values = self.weights.forward(losses.detach())
            return (values / values.sum() * losses).sum()

    class Weights(ImplicitProblem):  # type: ignore[misc, unused-ignore]
        def training_step(self, batch: Any) -> Tensor:
            return losses_of(self.classifier.forward(batch[0]), batch[1]).mean()

    device = task.batch[0].device
    classifier = Classifier(
        "classifier", Config(unroll_steps=1), task.model, task.optimizer(), None, [task.batch], device
    )
    weights = Weights("weights", Config(), task.weight_net, task.weight_optimizer(), None, [task.meta], device)
    dependencies = {"u2l": {weights: [classifier]}, "l2u": {classifier: [weights]}}
    engine = Engine([weights, classifier], EngineConfig(), dependencies)
    engine.train()
    return engine.train_step


def _move(theta: list[torch.nn.Parameter], slopes: tuple[Tensor, ...], optimizer: torch.optim.Optimizer) -> None:
    for parameter, slope in zip(theta, slopes, strict=True):
        parameter.grad = slope
    optimizer.step()


_PEERS = {
    "higher": Contender("higher", by_higher, surroundings=math_attention),
    "torchopt": Contender("TorchOpt", by_torchopt, surroundings=math_attention),
    "betty": Contender("Betty", by_betty, note="a finite difference of another gradient"),
}


def importable() -> list[Contender]:
    """The peers that are installed here; says which are not."""
    missing = [module for module in _PEERS if importlib.util.find_spec(module) is None]
    if missing:
        print(f"not installed, and left out: {', '.join(missing)} (pip install -e '.[bench]' brings them)")
    return [contender for module, contender in _PEERS.items() if module not in missing]

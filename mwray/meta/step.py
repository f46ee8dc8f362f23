"""`MetaWeightNet`: Algorithm 1 for one network, in a training loop of your own (`from mwray import MetaWeightNet`)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mwray.meta import gradient
from mwray.meta import layers as parts
from mwray.meta.algorithm import MetaStep, Rule, State, iterate, values_of
from mwray.meta.gradient import Criterion, Pair, cross_entropy
from mwray.meta.recompute import Recompute
from mwray.meta.weights import WeightMap
from mwray.models.weight_net import WeightNet
from mwray.optim import restore
from mwray.worker import LocalWorker, Worker


class MetaWeightNet:
    """Learns, while your model trains, how much each training sample should count.

    Example:
        mwn = MetaWeightNet(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        for (x, y), (x_clean, y_clean) in zip(noisy_loader, itertools.cycle(clean_loader)):
            step = mwn.step((x, y), (x_clean, y_clean))   # moves the weight net, then the model
        mwn.weights(torch.linspace(0, 5, 100))            # the learned weight of each loss

    The model is any `nn.Module`; its optimiser is any `torch.optim.Optimizer` and is stepped here, so call neither
    `backward` nor `optimizer.step`. Change the learning rate between steps as you always do. What you would do to
    the gradients before the real step, such as clipping them, goes into a function of (optimizer, args, kwargs) that
    returns None, given to `optimizer.register_step_pre_hook`; the look-ahead knows nothing of it.

    Args:
        model: the classifier; put in training mode by `step`.
        optimizer: over (some of) the model's parameters; the rest stays as it is.
        weight_net: shape as the paper writes it ("1-100-1"), or a module of your own mapping losses [n] to
            non-negative weights [n], weight i from loss i alone.
        weight_optimizer: builds the weight net's optimiser from its parameters. Default: SGD, lr 1e-3, Nesterov
            momentum 0.9, weight decay 5e-4, as in the paper's released code.
        weight_map: "normalized" (Eq. 40), "mean" (Eq. 3) or "detached".
        tau: stands in for a weight sum of zero (Eq. 40).
        look_ahead: "sgd" (Eq. 3) or "optimizer" (the real step, with momentum and weight decay).
        input: "detached" (Eq. 3: weights are factors) or "through" (the virtual step's gradient also flows through
            the losses that the weights are read from, as in the authors' long-tail code).
        conditioning: "class" calls `weight_net(losses, targets)`, a module such as
            `mwray.models.class_weight_net.ClassWeightNet`.
        every: steps between two updates of the weight net; those between cost what plain training costs.
        order: "exact" (Algorithm 1) or "lagged": the look-ahead is the real step, taken with the weights from before
            the weight net's move; `look_ahead` then says nothing.
        layers: the parameters that the virtual step moves and Eq. 6 aligns: "all", "top" (see
            `mwray.meta.layers.last_stage`), or the names of modules, for example ["layer4", "fc"].
        recompute: what of the training forward gives its memory to the meta pass and is computed again after it (equal
            to rounding): "nothing" (peak twice that of plain training), "cheap" (1.5 times: normalisation, activations,
            sums), "all" (1.11 times: convolutions and products too, one forward more).
        criterion: per-sample losses [n] from outputs and targets; loss i must depend on output i alone.
        worker: averages over several processes, such as `mwray.process_group.ProcessGroupWorker()` under torchrun, in
            place of DistributedDataParallel; default: this one alone.

    Raises:
        ValueError: the optimiser holds no trainable parameter of the model, a choice above is not one of those, the
            model is wrapped for another way to train over processes, or processes begin with different weights.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        weight_net: str | nn.Module = "1-100-1",
        *,
        weight_optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
        weight_map: WeightMap = "normalized",
        tau: float = 1.0,
        look_ahead: Literal["sgd", "optimizer"] = "sgd",
        input: Literal["detached", "through"] = "detached",
        conditioning: Literal["none", "class"] = "none",
        every: int = 1,
        order: Literal["exact", "lagged"] = "exact",
        layers: Literal["all", "top"] | Sequence[str] = "all",
        recompute: Recompute = "cheap",
        criterion: Criterion = cross_entropy,
        worker: Worker | None = None,
    ) -> None:
        _check_kinds(model, optimizer, weight_net)
        _check(weight_map=weight_map, look_ahead=look_ahead, input=input, conditioning=conditioning)
        _check(order=order, recompute=recompute)
        _check_together(weight_net, optimizer, conditioning, order, input)
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"every is {every}; it can be 1 (each step moves the weight net) or more, a whole number")
        if not tau > 0:
            raise ValueError(f"tau is {tau}; it stands in for a sum of zero that is divided by: give more than 0")
        _check_whole(model)
        trained = _trained(model, optimizer)
        first = next(iter(trained.values()))
        net = weight_net.to(first.device) if isinstance(weight_net, nn.Module) else _made(weight_net, first)
        self.state = State(
            model,
            optimizer,
            net,
            (weight_optimizer or _released_sgd)(net.parameters()),
            trained,
            _aligned(model, list(trained), layers),
            torch.full((), torch.nan, device=first.device),
        )
        ahead: Literal["sgd", "optimizer"] = "optimizer" if order == "lagged" else look_ahead
        self.rule = Rule(weight_map, tau, ahead, input, conditioning, order, recompute, _per_sample(criterion))
        self.every = every
        self.steps = 0
        self.worker: Worker = worker or LocalWorker(first.device)
        _check_alike(self.worker, {"model": model, "weight_net": net})

    @property
    def weight_net(self) -> nn.Module:
        """V: losses [n] to weights [n]."""
        return self.state.weight_net

    @property
    def weight_optimizer(self) -> torch.optim.Optimizer:
        """Moves the weight net."""
        return self.state.weight_optimizer

    def step(self, batch: Pair, meta: Pair | None) -> MetaStep:
        """One iteration of Algorithm 1 on a training batch and a clean meta batch, each (inputs, targets).

        Without a meta batch the weight net stays as it is. No step waits for the device to look at its numbers: a loss
        that is not finite, of either batch, spoils both networks for good, so look at `losses` and `meta_loss` of
        what is returned now and then.

        Raises:
            ValueError: a batch is no pair of tensors or holds no sample, or the criterion gives not one loss, or the
                weight net not one weight, for each.
        """
        _check_batch("batch", batch)
        if meta is not None:
            _check_batch("meta", meta)
        step = iterate(self.state, self.rule, batch, meta if self.learns else None, self.worker)
        self.steps += 1
        return step

    @property
    def learns(self) -> bool:
        """Whether the next step moves the weight net."""
        return self.steps % self.every == 0

    def weights(self, losses: Tensor, classes: Tensor | None = None) -> Tensor:
        """The weight net's output [n] for losses [n], without a graph and before any normalisation.

        `classes` int64 [n] are needed by a weight net that is conditioned on them.
        """
        with torch.no_grad():
            return values_of(self.weight_net, self.rule, losses, classes)

    def state_dict(self) -> dict[str, Any]:
        """Weight net, its optimiser and the steps so far; the model and its optimiser are yours to save."""
        return {
            "weight_net": self.weight_net.state_dict(),
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "steps": self.steps,
            "meta_loss": self.state.meta_loss,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.weight_net.load_state_dict(state["weight_net"])
        restore(self.weight_optimizer, state["weight_optimizer"])
        self.steps = state["steps"]
        self.state.meta_loss.copy_(state["meta_loss"])


def _trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    named = {name: p for name, p in model.named_parameters() if id(p) in held and p.requires_grad}
    if not named:
        raise ValueError("optimizer holds no trainable parameter of model: build it as SGD(model.parameters(), lr=0.1)")
    return named


def _aligned(model: nn.Module, names: list[str], choice: str | Sequence[str]) -> tuple[str, ...]:
    """Which of the trained parameters `names` the meta-gradient aligns, in their order."""
    if choice == "all":
        return tuple(names)
    if isinstance(choice, str) and choice != "top":
        raise ValueError(f"layers is {choice!r}; it can be 'all', 'top' or a list of names of modules")
    found = parts.last_stage(model) if choice == "top" else parts.within(model, choice, "layers")
    aligned = tuple(name for name in names if name in found)
    if not aligned:
        raise ValueError(
            f"layers={choice!r}: the optimizer trains none of these parameters, {found[0]!r} for one; it trains "
            f"{names[0]!r} to {names[-1]!r}"
        )
    return aligned


def _released_sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)


CHOICES = {
    "weight_map": ("normalized", "mean", "detached"),
    "look_ahead": ("sgd", "optimizer"),
    "input": ("detached", "through"),
    "conditioning": ("none", "class"),
    "order": ("exact", "lagged"),
    "recompute": ("nothing", "cheap", "all"),
}


def _made(shape: str, parameter: Tensor) -> WeightNet:
    """A weight net where the model is, and as precise; float32 beside a model of half the bits."""
    return WeightNet(shape).to(parameter.device, torch.promote_types(parameter.dtype, torch.float32))


def _check_together(
    weight_net: str | nn.Module, optimizer: torch.optim.Optimizer, conditioning: str, order: str, input: str
) -> None:
    """Refuse choices that exclude each other."""
    if conditioning == "class" and isinstance(weight_net, str):
        raise ValueError(
            "conditioning='class' needs a weight net that takes classes: give weight_net="
            f"ClassWeightNet({weight_net!r}, num_classes) of mwray.models.class_weight_net"
        )
    if order == "lagged" and input == "through":
        raise ValueError(
            "order='lagged' makes the look-ahead the real step, whose weights are factors: input must be 'detached'"
        )
    if order == "lagged":
        gradient.check_known(optimizer, "order='lagged'", "order='exact'")


PARALLEL = {"DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "FSDPModule"}
"""Of torch: they average or gather what a backward pass gives, and the gradients here are taken without one."""


def _check_whole(model: nn.Module) -> None:
    """Refuse, with ValueError, a model of which each process would train its own."""
    for name, module in model.named_modules():
        kinds = PARALLEL & {kind.__name__ for kind in type(module).__mro__ if kind.__module__.startswith("torch.")}
        if kinds:
            raise ValueError(
                f"model{name and '.' + name} is {'a ' + kinds.pop()}: give the module inside, and worker="
                "mwray.process_group.ProcessGroupWorker() to train over several processes"
            )


def _check_alike(worker: Worker, modules: Mapping[str, nn.Module]) -> None:
    """Refuse, with ValueError and on every worker, weights that are not the same on all of them."""
    if worker.size == 1:
        return
    norms = [[p.detach().double().norm() for p in module.parameters()] for module in modules.values()]
    own = torch.stack([torch.stack(of_one).norm() for of_one in norms])
    (mean,) = worker.average([own])
    (share,) = worker.average([((mean - own).abs() > 1e-9 * own).double()])
    if bool(share.any()):
        raise ValueError(
            f"{list(modules)[int(share.argmax())]} begins with different weights on different workers: call "
            "torch.manual_seed alike on all of them before it is made"
        )


def _check_kinds(model: object, optimizer: object, weight_net: object) -> None:
    """Refuse what is of another kind than asked for, and an optimiser that only steps with a closure."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is {_kind(model)}; it must be an nn.Module: MetaWeightNet(model, optimizer)")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"optimizer is {_kind(optimizer)}; it must be a torch.optim.Optimizer")
    if not isinstance(weight_net, str | nn.Module):
        raise ValueError(f"weight_net is {weight_net!r}; give a shape such as '1-100-1', or an nn.Module")
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:  # told here: the weight net would have moved before
        raise ValueError(
            f"optimizer is {_kind(optimizer)}, which computes the loss anew by a closure in its step; here are only "
            "gradients, so take one that steps along these, such as SGD or AdamW"
        )


def _check_batch(name: str, batch: Pair) -> None:
    parts = batch if isinstance(batch, tuple | list) else [batch]
    if len(parts) < 2 or not all(isinstance(part, Tensor) for part in parts[:2]):
        given = ", ".join(map(_kind, parts))
        raise ValueError(f"{name} is ({given}); it must be a pair of tensors, (inputs, targets)")
    if parts[0].shape[:1].numel() == 0:
        raise ValueError(f"{name} holds no sample: its inputs are {list(parts[0].shape)}; leave an empty batch out")


def _per_sample(criterion: Criterion) -> Criterion:
    """`criterion`, refused as soon as it gives not one loss for each sample: PyTorch's losses take the mean by default,
    and a mean of the batch has nothing left to weigh."""
    if criterion is cross_entropy:
        return criterion

    def checked(outputs: Tensor, targets: Tensor) -> Tensor:
        losses = criterion(outputs, targets)
        if losses.shape != outputs.shape[:1]:
            raise ValueError(
                f"criterion gives losses of the shape {list(losses.shape)} for {len(outputs)} samples; it must give "
                "one for each, [n]: reduction='none', and the mean over all other dimensions"
            )
        return losses

    return checked


def _kind(thing: object) -> str:
    return type(thing).__name__


def _check(**given: str) -> None:
    for name, value in given.items():
        if value not in CHOICES[name]:
            raise ValueError(f"{name} is {value!r}; it can be {', '.join(map(repr, CHOICES[name]))}")

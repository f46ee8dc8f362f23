"""Batch norm over all workers is batch norm of the whole batch: values, gradients, tangents, running statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mwray.meta.step import MetaWeightNet
from mwray.meta.tangent import record
from mwray.models.resnet_cifar import ResNet
from mwray.models.sync_batch_norm import SyncBatchNorm, synchronized
from mwray.worker import LocalWorker, Worker
from tests.methods.lockstep import together

WIDE = torch.float64


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ResNet(8, 10, (3, 8, 8)).to(WIDE)


def pairs(size: int, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(size)
    draw = [torch.randn(size, 3, 8, 8, generator=generator, dtype=WIDE) for _ in range(count)]
    return [(x, torch.randint(10, (size,), generator=generator)) for x in draw]


def share(worker: Worker, tensor: torch.Tensor) -> torch.Tensor:
    size = len(tensor) // worker.size
    return tensor[worker.rank * size : (worker.rank + 1) * size]


def alone() -> LocalWorker:
    return LocalWorker("cpu")


def test_one_worker_keeps_its_network():
    net = network()
    assert synchronized(net, alone()) is net
    assert not any(isinstance(module, SyncBatchNorm) for module in net.modules())


def test_parameters_and_buffers_stay_the_same_tensors():
    def check(worker):
        net = network()
        before = net.state_dict(keep_vars=True)
        after = synchronized(net, worker).state_dict(keep_vars=True)
        assert all(before[name] is after[name] for name in before) and len(before) == len(after)
        assert sum(isinstance(module, SyncBatchNorm) for module in net.modules()) == 7
        copied = copy.deepcopy(net).train()
        copied(torch.randn(2, 3, 8, 8, dtype=WIDE))  # a copy still knows its worker

    together(2, check)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("dims", [0, 1, 2], ids=["B C", "B C L", "B C H W"])
def test_value_gradient_and_tangent_are_those_of_the_whole_batch(size, dims):
    shape = (8, 3, *[5] * dims)
    generator = torch.Generator().manual_seed(0)
    x, v, dx = (torch.randn(shape, generator=generator, dtype=WIDE) * 3 + 100 for _ in range(3))
    layer = [nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d][dims](3).to(WIDE)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, -1.0, 2.0]))
        layer.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))

    def run(worker):
        mine = synchronized(copy.deepcopy(layer), worker).train()
        lift = nn.Parameter(torch.zeros(share(worker, x).shape, dtype=WIDE))
        model = Lifted(mine, lift)
        recording = record(model, share(worker, x))
        direction = {"lift": share(worker, dx), "layer.weight": torch.ones(3, dtype=WIDE)}
        tangent = recording.tangent(direction)
        (recording.outputs * share(worker, v)).sum().backward()
        sums = worker.average([mine.weight.grad, mine.bias.grad])
        moved = [mine.running_mean.clone(), mine.running_var.clone()]
        return recording.outputs.detach(), lift.grad, tangent, [s * worker.size for s in sums], moved

    (whole,) = together(1, run)
    parts = together(size, run)
    for place in range(3):
        torch.testing.assert_close(torch.cat([p[place] for p in parts]), whole[place], rtol=1e-9, atol=1e-9)
    for part in parts:
        torch.testing.assert_close(part[3:], whole[3:], rtol=1e-9, atol=1e-9)


class Lifted(nn.Module):
    """A layer of x + lift, so that the derivative by x has a name."""

    def __init__(self, layer: nn.Module, lift: nn.Parameter) -> None:
        super().__init__()
        self.layer, self.lift = layer, lift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x + self.lift)


@pytest.mark.parametrize("options", [{}, {"weight_map": "mean"}, {"weight_map": "detached", "input": "through"}])
def test_meta_weight_net_over_workers_is_the_full_batch_step(options):
    training, clean = pairs(16, 3), pairs(8, 3)

    def run(worker):
        model = synchronized(network(), worker)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            weigher = MetaWeightNet(model, optimizer, "1-20-1", worker=worker, **options)
        weigher.weight_net.to(WIDE)
        for (x, y), (x_clean, y_clean) in zip(training, clean, strict=True):
            weigher.step((share(worker, x), share(worker, y)), (share(worker, x_clean), share(worker, y_clean)))
        return [*model.state_dict().values(), *weigher.weight_net.state_dict().values()]

    (whole,) = together(1, run)
    for part in together(2, run):
        torch.testing.assert_close(part, whole, rtol=0, atol=1e-12)


def test_bfloat16_keeps_statistics_in_float32():
    def run(worker):
        layer = synchronized(nn.BatchNorm2d(3), worker).train()
        x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(worker.rank)).bfloat16() + 10
        y = layer(x.requires_grad_())
        y.float().square().sum().backward()
        return y.dtype, layer.running_mean.dtype, x.grad.dtype, y.detach().float()

    results = together(2, run)
    assert {r[:3] for r in results} == {(torch.bfloat16, torch.float32, torch.bfloat16)}
    both = torch.cat([r[3] for r in results])
    assert both.mean().abs() < 0.01 and (both.std() - 1).abs() < 0.02


def test_dual_numbers_are_refused_with_the_setting_that_would_do():
    def run(worker):
        layer = synchronized(nn.BatchNorm2d(3), worker).train()
        with torch.autograd.forward_ad.dual_level(), pytest.raises(ValueError, match="model.batch_norm.*'local'"):
            layer(torch.autograd.forward_ad.make_dual(torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)))

    together(2, run)


def test_evaluation_uses_running_statistics_and_meets_nobody():
    def run(worker):
        layer = synchronized(nn.BatchNorm2d(3), worker).eval()
        x = torch.randn(2, 3, 4, 4)
        if worker.rank == 0:  # the other one does not even call it
            torch.testing.assert_close(layer(x), nn.functional.batch_norm(x, torch.zeros(3), torch.ones(3)))

    together(2, run)

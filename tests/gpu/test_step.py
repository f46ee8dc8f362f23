"""The meta step on a GPU: its gradient against double backward, in every precision and both memory layouts."""

from __future__ import annotations

import pytest
import torch

from benchmarks.contenders import Task, double_backward, ours
from mwray.models.half import Bfloat16
from mwray.train.execution import precision as computing_in

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

# Relative error of the weight net's gradient to double backward in float32: exact but for rounding in fp32; the others
# are allowed what batches of noise at the initial weights were seen to give on a CPU (bf16) or half of that (tf32).
BOUNDS = {"fp32": 2e-3, "tf32": 0.3, "bf16": 0.6}


def gradient(step, task: Task) -> torch.Tensor:
    step(task)()
    return torch.cat([p.grad.detach().flatten() for p in task.weight_net.parameters()])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("precision", list(BOUNDS))
def test_the_weight_net_s_gradient(precision, channels_last):
    base = Task.of("resnet8", 100, 100, "cuda", channels_last)
    with computing_in("fp32"):
        exact = gradient(double_backward, base.own())
    task = base.own()
    if precision == "bf16":
        task = Task(Bfloat16(task.model), task.weight_net, task.batch, task.meta, task.lr)
    with computing_in(precision):
        mine = gradient(ours(), task)
    assert float((mine - exact).norm() / exact.norm()) < BOUNDS[precision]

"""Several processes in a loop of one's own: what would train apart without a word is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mwray import MetaWeightNet
from mwray.models.weight_net import WeightNet
from tests.meta.team import together


def networks(seed: int, net_seed: int) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    torch.manual_seed(net_seed)
    return model, WeightNet("1-5-1")


def refusals(each: list[tuple[nn.Module, nn.Module]]) -> list[str]:
    """Of workers with these networks, what each was told."""

    def work(worker) -> str:
        model, net = each[worker.rank]
        try:
            MetaWeightNet(model, torch.optim.SGD(model.parameters(), lr=0.1), net, worker=worker)
        except ValueError as error:
            return str(error)
        return ""

    return together(len(each), work)


@pytest.mark.parametrize("last, named", [((1, 0), "model"), ((0, 1), "weight_net")])
def test_processes_that_begin_apart_are_refused_on_each_of_them(last, named):
    told = refusals([networks(0, 0), networks(0, 0), networks(*last)])
    assert len(told) == 3
    assert all(f"{named} begins with different weights on different workers" in text for text in told)


def test_processes_that_begin_alike_are_not():
    assert refusals([networks(0, 1) for _ in range(3)]) == ["", "", ""]


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_is_wrapped_is_refused():
    wrapped = nn.Sequential(nn.DataParallel(nn.Linear(3, 2)))
    with pytest.raises(ValueError, match=r"model\.0 is a DataParallel: give the module inside, and worker="):
        MetaWeightNet(wrapped, torch.optim.SGD(wrapped.parameters(), lr=0.1))

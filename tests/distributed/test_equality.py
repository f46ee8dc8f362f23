"""W workers are one process: over gloo, through the whole loop, for 50 steps in float32 (slow)."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from mwray import overlap, process_group
from mwray.config import ConfigError, override
from mwray.experiment import Experiment
from mwray.process_group import _agreed
from mwray.recipes import recipe
from mwray.records import Run
from mwray.train import checkpoint
from mwray.train.loop import train
from mwray.worker import DeviceError, LocalWorker, Worker, gradients_first
from tests.distributed.groups import processes
from tests.methods.lockstep import together

STEPS = 50
NETWORKS = "tests.distributed.networks"
CASES: dict[str, dict[str, Any]] = {
    "base": {"method.name": "base"},
    # Clipping is a kink, and the sum of what is left may be small: at rate 0.1 rounding grows to some 1e-5.
    "l2rw": {"method.name": "l2rw", "optimizer.lr": 0.01},
    "normalized": {"method.name": "mwnet"},
    "mean": {"method.name": "mwnet", "method.meta.weight_map": "mean"},
    "detached": {"method.name": "mwnet", "method.meta.weight_map": "detached"},
    "through": {"method.name": "mwnet", "method.meta.input": "through"},
}


def experiment(case: str, network: str, **values: Any) -> Experiment:
    """Five steps an epoch."""
    fixed = {
        "epochs": STEPS // 5,
        "batch_size": 48,
        "meta_batch_size": 48,
        "optimizer.milestones": [],
        "data.num_train": 240,
        "data.num_meta": 48,
        "data.num_validation": 0,
        "data.num_test": 100,
        "model.name": f"{NETWORKS}:{network}",
    }
    return override(recipe("digits"), fixed | CASES[case] | values)


def train_all(worker: Worker, folder: Path) -> None:
    """Every case with batch norm of each worker's own, and over all of them."""
    for case in CASES:
        for kind in ("local", "synchronized"):
            train(experiment(case, "smooth", **{"model.batch_norm": kind}), folder / kind / case, worker=worker)


def network(folder: Path) -> dict[str, torch.Tensor]:
    state = checkpoint.latest(folder)["method"]
    return state.get("classifier", state)["network"]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 4])
def test_many_workers_equal_one_process_to_a_millionth_after_50_steps(size, tmp_path):
    processes(size, train_all, tmp_path)
    for case in CASES:
        references = {
            "local": experiment(case, f"sharded{size}"),  # one process that normalises each share by itself
            "synchronized": experiment(case, "smooth"),  # one process at the full batch
        }
        for kind, reference in references.items():
            train(reference, tmp_path / "one" / kind / case, worker=LocalWorker("cpu"))
            one, many = network(tmp_path / "one" / kind / case), network(tmp_path / kind / case)
            for name, value in one.items():
                difference = (many[name].double() - value.double()).abs().max().item()
                assert difference <= 1e-6, (case, kind, name, difference)


def two_epochs(worker: Worker, folder: Path) -> None:
    train(experiment("normalized", "smooth", epochs=2), folder, worker=worker)


@pytest.mark.slow
def test_the_cost_of_the_exchange_is_in_the_records(tmp_path, capfd):
    processes(2, two_epochs, tmp_path / "new")
    assert "trying again" not in capfd.readouterr().err  # rank 1 waits for the folder that rank 0 makes
    tmp_path /= "new"
    parameters = sum(v.numel() for n, v in network(tmp_path).items() if not n.endswith(("mean", "var", "tracked")))
    for record in Run(tmp_path).records():
        # Three gradients of the network's size, the weight net's 301, and a few sums; the epoch's end adds a little.
        least = 4 * (3 * parameters + 301)
        assert least < record["exchange.bytes_per_step"] < 1.5 * least + 4 * 3 * 240
        assert record["exchange.calls_per_step"] >= 5
        assert record["exchange.seconds_per_step"] > 0


def test_one_process_exchanges_nothing_and_says_nothing_of_it(tmp_path):
    train(experiment("base", "smooth", epochs=1), tmp_path, worker=LocalWorker("cpu"))
    assert not any(name.startswith("exchange") for name in Run(tmp_path).records()[0])


def exchange_both_ways(joined: Worker, folder: Path) -> None:
    """Two types of number, several buckets, one parameter of no use, another used twice, weights, the graph kept."""
    overlap.BUCKET = 2000  # one layer
    worker = process_group.ProcessGroupWorker("cpu", overlap=True)
    close = partial(
        torch.testing.assert_close, rtol=0 if worker.size == 2 else 1e-5, atol=0 if worker.size == 2 else 1e-7
    )
    torch.manual_seed(0)
    layers = [torch.nn.Linear(20, 20) for _ in range(6)]
    unused, late = torch.nn.Parameter(torch.ones(7)), torch.nn.Parameter(torch.ones(20, dtype=torch.float64))
    first, *rest = [p for layer in layers for p in layer.parameters()]
    parameters = [first, unused, *rest, late]
    x = torch.randn(8, 20, generator=torch.Generator().manual_seed(worker.rank))
    hidden = torch.nn.Sequential(*layers, layers[0])(x)
    losses = (hidden.double() * late).square().mean(1)
    weights = torch.arange(8, dtype=torch.float64)
    after = gradients_first(worker, losses, parameters, weights, retain_graph=True)
    worker.exchanged()
    during = worker.gradients(losses, parameters, weights, retain_graph=True)
    calls = worker.exchanged()["calls"]
    assert calls == len(overlap.buckets(parameters)) > 3
    close(during, after)
    assert not after[1].any() and after[0].any()
    close(worker.gradients(losses, parameters, weights), after)


@pytest.mark.parametrize("size", [2, 3])
def test_gradients_exchanged_during_the_backward_pass_are_the_same(size, tmp_path):
    processes(size, exchange_both_ways, tmp_path)


@pytest.mark.parametrize(
    ("size", "values", "field"),
    [(3, {"batch_size": 50}, "batch_size"), (5, {}, "batch_size"), (64, {}, "batch_size")]
    + [(3, {"meta_batch_size": 40}, "meta_batch_size"), (3, {"data.num_meta": 40}, "data.num_meta")],
)
def test_uneven_shares_and_more_workers_than_images_are_refused_by_name(size, values, field, tmp_path):
    chosen = experiment("normalized", "smooth", epochs=1, **values)
    with pytest.raises(
        ConfigError, match=rf"^{field}: \d+ samples cannot be shared equally by {size} workers; \d+ would"
    ):
        together(size, lambda worker: train(chosen, tmp_path, worker=worker))


def test_gpus_for_some_processes_only_means_cpus_for_all(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert process_group._own_device() == torch.device("cpu")
    with pytest.raises(DeviceError, match=r"--device cuda: 2 processes on \S+ need a GPU each, and it has 1"):
        process_group._own_device(asked=True)


def test_cuda_means_the_gpu_of_each_process_s_number(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert process_group._own_device(asked=True) == torch.device("cuda", 1) and taken == [1]


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_with_and_without_a_gpu_are_refused_with_each_one_s_device(rank, tmp_path):
    store = dist.FileStore(str(tmp_path / "store"), 2)
    store.set(f"mwray/device/{1 - rank}", "cuda on far")
    with pytest.raises(DeviceError) as refused:
        _agreed(store, rank, 2, torch.device("cpu"))
    assert f"rank {rank}: cpu on {socket.gethostname()}" in str(refused.value)
    assert f"rank {1 - rank}: cuda on far" in str(refused.value)


def test_processes_that_have_a_gpu_each_exchange_by_nccl(tmp_path):
    store = dist.FileStore(str(tmp_path / "store"), 2)
    store.set("mwray/device/1", "cuda on far")
    assert _agreed(store, 0, 2, torch.device("cuda", 0)) == "nccl"

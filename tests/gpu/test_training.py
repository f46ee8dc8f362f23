"""What only a GPU can show: no wait in a step, graphs with the bits of eager runs, every method in every precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mwray.config import override
from mwray.experiment import Experiment
from mwray.lock import NAME as LOCK
from mwray.recipes import recipe
from mwray.records import Run
from mwray.train import checkpoint
from mwray.train.loop import Session, train
from mwray.worker import LocalWorker
from tests.methods.setups import same
from tests.methods.test_contract import EPOCHS, SMALL, bits, every_case
from tests.methods.test_device import floats
from tests.train.stopping import Stopped, Stopping

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

REPEATABLE = ("base", "mwnet", "l2rw", "focal", "reed", "meta-only", "fine-tuning", "self-paced")
"""Methods whose kernels add in a fixed order; those of the others may differ in the last bits between two runs."""


def experiment(case: dict[str, Any], **values: Any) -> Experiment:
    """Ten steps an epoch, so that graphs are replayed in every one."""
    many = {"data.num_train": 500, "data.augment": True}
    return override(recipe("digits"), SMALL | many | case | {name.replace("__", "."): v for name, v in values.items()})


def session(settings: Experiment, folder: Path, graph: str, monkeypatch) -> Session:
    monkeypatch.setenv("MWRAY_EXECUTION", f"graph={graph}")
    folder.mkdir(exist_ok=True)
    (folder / LOCK).touch()  # what `train` makes: a run in a folder without it waits for its storage
    return Session(settings, folder, LocalWorker("cuda"), ())


@every_case
def test_no_step_waits_for_the_device(case, tmp_path, monkeypatch):
    """The driver itself refuses: any synchronising call in a step is an error."""
    one = session(experiment(case), tmp_path, "off", monkeypatch)
    for epoch in range(2):
        one.tracker.reset()
        one.method.epoch_start(epoch)
        for number, draws in enumerate(one._draws(epoch)):
            torch.cuda.set_sync_debug_mode("error" if number > 0 else "default")  # the first one sets libraries up
            try:
                one.iteration(draws)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        one.method.epoch_end(epoch)


@every_case
def test_a_captured_run_gives_the_numbers_of_an_eager_one(case, tmp_path, monkeypatch):
    settings = experiment(case)
    for graph in ("off", "on"):
        one = session(settings, tmp_path / graph, graph, monkeypatch)
        one.run(1)
        if graph == "on":
            assert one.iteration.graphs.replays > one.iteration.graphs.captures > 0
    if case["method.name"] in REPEATABLE:
        assert same(bits(tmp_path / "off"), bits(tmp_path / "on"))
    else:
        losses = [[r["train.loss"] for r in Run(tmp_path / graph).records()] for graph in ("off", "on")]
        assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_dropout_draws_anew_in_each_replay(tmp_path, monkeypatch):
    settings = experiment({"method.name": "mwnet"}, model__name="tests.gpu.networks:with_dropout")
    ends = []
    for graph in ("off", "on"):
        one = session(settings, tmp_path / graph, graph, monkeypatch)
        one.run(1)
        ends.append(one)
    assert ends[1].iteration.graphs.replays > 0
    assert same(bits(tmp_path / "off"), bits(tmp_path / "on"))


def test_a_network_that_the_tape_cannot_follow_is_not_captured_and_says_so(tmp_path, monkeypatch, caplog):
    settings = experiment({"method.name": "mwnet"}, model__name="tests.gpu.networks:untraceable")
    one = session(settings, tmp_path, "auto", monkeypatch)
    with caplog.at_level("WARNING", logger="mwray"):
        one.run(1)
    assert one.iteration.graphs.refused
    assert any("forward-mode AD sets the random generators back" in record.message for record in caplog.records)
    assert Run(tmp_path).state == "done"


def test_rates_fall_and_nothing_is_captured_again(tmp_path, monkeypatch):
    one = session(experiment({"method.name": "mwnet"}, optimizer__milestones=[1, 2, 3]), tmp_path, "on", monkeypatch)
    one.run(1)
    assert one.iteration.graphs.captures == 1
    assert one.iteration.graphs.replays == 10 * EPOCHS - 4


ADAMW = {"optimizer.name": "adamw", "optimizer.schedule": "cosine", "optimizer.warm_up": 1, "optimizer.milestones": []}


@pytest.mark.parametrize("case", [{"method.name": "base"}, {}, {"method.meta.look_ahead": "optimizer"}], ids=str)
def test_a_captured_adamw_gives_the_bits_of_an_eager_one_over_its_warm_up_and_cosine(case, tmp_path, monkeypatch):
    settings = experiment(ADAMW | {"method.name": "mwnet"} | case)
    for graph in ("off", "on"):
        one = session(settings, tmp_path / graph, graph, monkeypatch)
        one.run(1)
    assert one.iteration.graphs.captures == 1
    assert same(bits(tmp_path / "off"), bits(tmp_path / "on"))


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@every_case
def test_every_method_trains_in_every_precision(case, precision, tmp_path, monkeypatch):
    monkeypatch.setenv("MWRAY_EXECUTION", "graph=auto")
    summary = train(experiment(case, precision=precision), tmp_path, worker=LocalWorker("cuda"))
    assert 0 <= summary["test.last"] <= 1
    assert floats(checkpoint.latest(tmp_path)["method"]) <= {torch.float32}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stop_after_each_epoch_changes_nothing(precision, tmp_path, monkeypatch):
    monkeypatch.setenv("MWRAY_EXECUTION", "graph=on")
    settings = experiment({"method.name": "mwnet"}, precision=precision)
    train(settings, tmp_path / "whole", worker=LocalWorker("cuda"))
    for _ in range(EPOCHS):
        with pytest.raises(Stopped):
            train(settings, tmp_path / "stopped", worker=Stopping(1, "cuda"))
    train(settings, tmp_path / "stopped", worker=LocalWorker("cuda"))
    assert same(bits(tmp_path / "whole"), bits(tmp_path / "stopped"))


def test_a_run_begun_on_a_cpu_goes_on_on_a_gpu(tmp_path, monkeypatch):
    settings = experiment({"method.name": "mwnet", "method.weight_net.optimizer": "adam"} | ADAMW)
    monkeypatch.setenv("MWRAY_EXECUTION", "")
    with pytest.raises(Stopped):
        train(settings, tmp_path, worker=Stopping(1))
    monkeypatch.setenv("MWRAY_EXECUTION", "graph=on")
    summary = train(settings, tmp_path, worker=LocalWorker("cuda"))
    assert summary["epochs"] == EPOCHS


def test_cpu_and_gpu_see_the_same_batches_up_to_their_generators(tmp_path):
    """Without augmentation, whose draws come from the device's own generator."""
    settings = experiment({"method.name": "base"}, data__augment=False)
    sessions = [Session(settings, tmp_path, LocalWorker(kind), ()) for kind in ("cpu", "cuda")]
    for (a, _), (b, _) in zip(*(one._batches(1) for one in sessions), strict=True):
        assert torch.equal(a.index, b.index.cpu())
        torch.testing.assert_close(a.x, b.x.cpu())

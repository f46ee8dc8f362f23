"""Every method under another optimiser and schedule than the paper's: AdamW, whose rate rises and falls by a cosine."""

from __future__ import annotations

import pytest
import torch
from torch.optim import lr_scheduler

from mwray.methods.base_model import BaseModel
from mwray.methods.registry import METHODS
from mwray.records import Run
from mwray.train import checkpoint
from mwray.train.evaluate import evaluate
from mwray.train.graphs import Graphs
from mwray.train.loop import Session, train
from mwray.worker import LocalWorker
from tests.methods.setups import same
from tests.methods.test_contract import (
    EPOCHS,
    NEEDED,
    assert_two_workers_are_one_process,
    bits,
    experiment,
    label,
    session_in,
)
from tests.train.fake_graph import FakeCapture
from tests.train.stopping import Stopped, Stopping

ADAMW = {
    "optimizer.name": "adamw",
    "optimizer.lr": 0.01,
    "optimizer.schedule": "cosine",
    "optimizer.warm_up": 1,
    "optimizer.milestones": [],
    "model.name": "mlp",
}
CASES = [{"method.name": name, **NEEDED.get(name, {})} for name in METHODS]
CASES += [
    {"method.name": "mwnet", "method.meta.look_ahead": "optimizer"},
    {"method.name": "mwnet", "method.meta.order": "lagged"},
]
every_method = pytest.mark.parametrize("case", CASES, ids=label)


@pytest.fixture(autouse=True)
def _random_state():
    with torch.random.fork_rng():
        yield


def as_on_a_gpu(settings, folder, worker=None) -> Session:
    """With fused optimisers whose rates are tensors, and iterations that are replayed."""
    one = session_in(folder, settings, worker)
    return Session(settings, folder, one.worker, (), graphs=Graphs(FakeCapture(), 1, strict=True))


@every_method
def test_it_learns_and_neither_a_stop_after_each_epoch_nor_a_captured_graph_changes_a_bit(case, tmp_path):
    """Stops fall into the warm-up and into the cosine."""
    settings = experiment(case | ADAMW)
    whole = as_on_a_gpu(settings, tmp_path / "whole")
    before = evaluate(whole.method.predict, whole.train, 10)
    whole.run(1)
    assert evaluate(whole.method.predict, whole.train, 10).loss < before.loss
    assert whole.iteration.graphs.replays > 0 and not whole.iteration.graphs.refused
    for _ in range(EPOCHS):
        with pytest.raises(Stopped):
            as_on_a_gpu(settings, tmp_path / "stopped", Stopping(1)).run(1)
    as_on_a_gpu(settings, tmp_path / "stopped").run(1)
    assert same(bits(tmp_path / "whole"), bits(tmp_path / "stopped"))
    rates = [record["lr"] for record in Run(tmp_path / "whole").records()]
    assert rates == pytest.approx([0.005, 0.01, 0.0075, 0.0025])


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_plain_training_is_a_loop_of_pytorchs_own(name, tmp_path):
    settings = experiment(ADAMW | {"method.name": "base", "optimizer.name": name, "optimizer.weight_decay": 0.1})
    train(settings, tmp_path / "run", worker=LocalWorker("cpu"))

    session = session_in(tmp_path / "own", settings)
    assert isinstance(session.method, BaseModel)
    network = session.method.classifier.network
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    optimizer = kind(network.parameters(), lr=0.01, weight_decay=0.1)
    rise = lr_scheduler.LinearLR(optimizer, 0.5, total_iters=1)
    fall = lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS - 1)
    schedule = lr_scheduler.SequentialLR(optimizer, [rise, fall], [1])
    for epoch in range(EPOCHS):
        for batch, _ in session._batches(epoch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(batch.x), batch.y).backward()
            optimizer.step()
        schedule.step()
    trained = checkpoint.latest(tmp_path / "run")["method"]["network"]
    for parameter, value in network.named_parameters():
        torch.testing.assert_close(trained[parameter], value.detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", CASES[-2:], ids=label)
def test_two_workers_are_one_process(case, tmp_path):
    assert_two_workers_are_one_process(experiment(case | ADAMW), tmp_path)


def test_each_of_two_phases_goes_through_the_warm_up_and_the_cosine_in_its_own_time(tmp_path):
    settings = experiment({"method.name": "glc"} | ADAMW | {"epochs": 12, "optimizer.warm_up": 4})
    train(settings, tmp_path, worker=LocalWorker("cpu"))
    rates = [record["method.lr"] for record in Run(tmp_path).records()]
    assert rates == pytest.approx([settings.learning_rate(epoch) for epoch in range(0, 12, 2)] * 2)
    assert rates[0] == pytest.approx(0.002) and rates[2] == 0.01


def test_the_published_co_teaching_has_its_own_optimiser_whatever_the_experiments_is(tmp_path):
    own = {"method.name": "co-teaching", "method.optimizer": "adam", "epochs": 5, "model.name": "mlp"}
    found = []
    for name, other in (("sgd", {}), ("adamw", ADAMW)):
        train(experiment(own | other), tmp_path / name, worker=LocalWorker("cpu"))
        rates = [record["method.lr"] for record in Run(tmp_path / name).records()]
        assert rates == pytest.approx([0.001, 0.001, 0.001, 0.001 * 2 / 3, 0.001 / 3])
        found.append(checkpoint.latest(tmp_path / name)["method"])
    assert same(*found)

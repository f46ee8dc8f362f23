"""Captured iterations: the bits of eager ones, for every method, over changes of rate, phase and epoch, and a resume.

The graph is a fake (`tests.train.fake_graph`) that replays operations on the CPU as a CUDA graph would.
"""

from __future__ import annotations

import logging
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from mwray import optim
from mwray.config import ConfigError
from mwray.lock import NAME as LOCK
from mwray.train.execution import Execution
from mwray.train.graphs import CaptureError, Graphs
from mwray.train.iteration import graphs_for
from mwray.train.loop import Session
from mwray.worker import LocalWorker
from tests.methods.setups import same
from tests.methods.test_contract import CASES, EPOCHS, bits, every_case, experiment, label
from tests.train.fake_graph import FakeCapture
from tests.train.stopping import Stopped, Stopping

NEVER = 10**9


@pytest.fixture(autouse=True)
def _random_state():
    with torch.random.fork_rng():
        yield


def session(settings, folder: Path, warm_up: int, worker: LocalWorker | None = None) -> Session:
    """One whose optimisers work as on a GPU; `warm_up` NEVER: it stays eager."""
    folder.mkdir(exist_ok=True)
    (folder / LOCK).touch()  # what `train` makes: a run in a folder without it waits for its storage
    graphs = Graphs(FakeCapture(), warm_up, strict=True)
    return Session(settings, folder, worker or LocalWorker("cpu"), (), graphs=graphs)


def both(settings, tmp_path: Path) -> Graphs:
    """Train eagerly and captured; the bits must be the same. Returns the graphs."""
    session(settings, tmp_path / "eager", NEVER).run(1)
    captured = session(settings, tmp_path / "captured", 1)
    captured.run(1)
    assert same(bits(tmp_path / "eager"), bits(tmp_path / "captured"))
    assert captured.iteration.graphs is not None
    return captured.iteration.graphs


@every_case
def test_every_method_gives_the_bits_of_its_eager_run(case, tmp_path):
    graphs = both(experiment(case, model__name="mlp"), tmp_path)
    assert graphs.replays > 0
    assert not graphs.refused


@pytest.mark.parametrize("method", ["base", "mwnet"])
def test_batch_norm_and_crops_too(method, tmp_path):
    graphs = both(experiment({"method.name": method}, model__name="small", data__augment=True), tmp_path)
    assert graphs.replays == 4 * EPOCHS - 2  # the first is eager, the second captured


def test_the_rate_falls_and_nothing_is_captured_again(tmp_path):
    """Four epochs with a milestone before the last."""
    settings = experiment({"method.name": "mwnet"}, model__name="mlp")
    assert settings.optimizer.milestones == (3,)
    assert both(settings, tmp_path).captures == 1


def test_steps_that_move_the_weight_net_and_those_between_are_captured_apart(tmp_path):
    case = {"method.name": "mwnet", "method.meta.every": 3, "method.meta.warm_up": 1}
    graphs = both(experiment(case, model__name="mlp"), tmp_path)
    assert graphs.captures == 3  # warm-up, learning, following


@pytest.mark.parametrize("case", [c for c in CASES if c["method.name"] in ("mwnet", "d2l", "mentornet")], ids=label)
def test_a_stop_after_each_epoch_changes_nothing(case, tmp_path):
    settings = experiment(case, model__name="mlp")
    session(settings, tmp_path / "whole", 1).run(1)
    for _ in range(EPOCHS):
        with pytest.raises(Stopped):
            session(settings, tmp_path / "stopped", 1, Stopping(1)).run(1)
    session(settings, tmp_path / "stopped", 1).run(1)
    assert same(bits(tmp_path / "whole"), bits(tmp_path / "stopped"))


def test_a_short_batch_has_a_graph_of_its_own():
    total = torch.zeros(())
    graphs = Graphs(FakeCapture(), warm_up=1, strict=True)
    for count in (3, 3, 3, 2, 3, 2, 2):
        graphs.run("sum", lambda x: total.add_(x.sum()), [torch.full((count,), float(count))])
    assert float(total) == 4 * 9 + 3 * 4
    assert (graphs.captures, graphs.replays) == (2, 3)


def test_memory_that_was_left_is_not_replayed():
    """The fake, like a real graph, would go on adding to the old tensor."""
    held = {"total": torch.zeros(())}
    graphs = Graphs(FakeCapture(), warm_up=1, strict=True)
    for start in (0.0, 100.0):
        held["total"] = torch.full((), start)
        graphs.settle(lambda: held)
        for _ in range(4):
            graphs.run("add", lambda x: held["total"].add_(x), [torch.ones(())])
        assert float(held["total"]) == start + 4
    assert graphs.captures == 2
    graphs.settle(lambda: held)
    graphs.run("add", lambda x: held["total"].add_(x), [torch.ones(())])
    assert graphs.replays == 5


def test_graphs_go_all_at_once_and_new_ones_get_new_memory(tmp_path):
    capture = FakeCapture()
    graphs, held = Graphs(capture, warm_up=0, strict=True), {"total": torch.zeros(())}
    graphs.settle(lambda: held)
    for key in ("one", "other"):
        graphs.run(key, lambda x: held["total"].add_(x), [torch.ones(())])
    assert capture.renewed == 0
    held["total"] = torch.zeros(())
    graphs.settle(lambda: held)
    assert capture.renewed == 1
    for key in ("one", "other"):
        graphs.run(key, lambda x: held["total"].add_(x), [torch.ones(())])
    assert float(held["total"]) == 2 and graphs.captures == 4


def test_a_training_that_is_closed_lets_go_of_its_graphs(tmp_path):
    one = session(experiment({"method.name": "self-paced"}, model__name="mlp"), tmp_path / "run", 1)
    one.run(1)
    graphs = one.iteration.graphs
    replay = weakref.ref(next(kind.replay.__self__ for kind in graphs._kinds.values() if kind.replay))
    graphs._capture.graphs.clear()  # the fake's own list
    one.close()
    assert replay() is None  # though the method, which knows the session, lives on in a cycle


def test_the_fake_sees_what_a_graph_would_get_wrong():
    """A number of the host stays as it was; a tensor put in another's place is not seen."""
    rate, held = [1.0], {"total": torch.zeros(())}

    def baked(x):
        held["total"].add_(x * rate[0])

    def rebound(x):
        held["total"] = held["total"] + x

    graphs = Graphs(FakeCapture(), warm_up=1)
    for _ in range(3):
        graphs.run("baked", baked, [torch.ones(())])
    rate[0] = 10.0
    graphs.run("baked", baked, [torch.ones(())])
    assert float(held["total"]) == 4  # 13 in Python
    held["total"] = torch.zeros(())
    for _ in range(4):
        graphs.run("rebound", rebound, [torch.ones(())])
    assert float(held["total"]) == 2


def test_what_cannot_be_captured_goes_on_eagerly_and_says_so_once(caplog):
    total = torch.zeros(())

    def waits(x):
        total.add_(x if bool(x > 0) else 0.0)

    graphs = Graphs(FakeCapture(), warm_up=1)
    with caplog.at_level(logging.WARNING, logger="mwray"):
        for _ in range(4):
            graphs.run("waits", waits, [torch.ones(())])
    assert float(total) == 4
    assert [record.message for record in caplog.records] == [
        "the iteration cannot be captured in a CUDA graph: aten._local_scalar_dense.default reads a number from the "
        "device. It goes on eagerly, with the same numbers."
    ]
    with pytest.raises(CaptureError, match="reads a number"):
        strict = Graphs(FakeCapture(), warm_up=0, strict=True)
        strict.run("waits", waits, [torch.ones(())])


def test_the_first_error_of_a_capture_is_told_and_not_that_of_its_end(caplog):
    class Broken:
        def renew(self):
            pass

        def __call__(self, work):
            try:
                raise ValueError("the real one")
            finally:
                raise RuntimeError("capture_end: operation failed")

    total = torch.zeros(())
    graphs = Graphs(Broken(), warm_up=0)
    graphs.run("add", lambda x: total.add_(x), [torch.ones(())])
    assert "the real one" in caplog.text and "capture_end" not in caplog.text
    assert float(total) == 1


def test_graphs_are_refused_where_there_can_be_none():
    with pytest.raises(ConfigError, match="MWRAY_EXECUTION: graph=on needs a CUDA device"):
        graphs_for(Execution(graph="on"), LocalWorker("cpu"))
    assert graphs_for(Execution(), LocalWorker("cpu")) is None
    worker = LocalWorker("cpu")
    worker.device = torch.device("cuda")
    assert graphs_for(Execution(), worker, on_device=False) is None
    with pytest.raises(ConfigError, match="graph=on needs all samples on the GPU, .* data.image_size"):
        graphs_for(Execution(graph="on"), worker, on_device=False)


def test_execution_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("MWRAY_EXECUTION", "graph=off, channels_last=on")
    execution = Execution.from_environment()
    assert execution == Execution(graph="off", channels_last="on")
    assert execution.layout((3, 8, 8)) == Execution().layout((3, 8, 8)) == torch.channels_last
    assert Execution(channels_last="off").layout((3, 8, 8)) == torch.contiguous_format
    assert Execution(channels_last="on").layout((30,)) == torch.contiguous_format  # vectors have no channels
    for text, complaint in (("grahp=on", "Did you mean 'graph'"), ("graph=yes", "graph"), ("graph", "field=value")):
        monkeypatch.setenv("MWRAY_EXECUTION", text)
        with pytest.raises(ConfigError, match=f"MWRAY_EXECUTION='{text}'.*{complaint}"):
            Execution.from_environment()


def test_channels_last_changes_the_layout_and_no_more_than_rounding(tmp_path, monkeypatch):
    ends = []
    for value in ("off", "on"):
        monkeypatch.setenv("MWRAY_EXECUTION", f"channels_last={value}")
        case = experiment({"method.name": "mwnet"}, model__name="small")
        one = Session(case, tmp_path, LocalWorker("cpu"), ())
        batch, _ = next(one._batches(0))
        assert batch.x.is_contiguous(memory_format=one.layout)
        convolution = next(m for m in list(one.method.classifier.network.modules())[4:] if isinstance(m, nn.Conv2d))
        assert convolution.weight.is_contiguous(memory_format=one.layout)
        one.method.epoch_start(0)
        for draws in one._draws(0):
            one.iteration(draws)
        ends.append(torch.cat([p.detach().flatten() for p in one.method.classifier.network.parameters()]))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_optimisers_on_the_device_take_the_steps_of_the_ordinary_ones(kind):
    """Over a change of rate and a restore from the other kind's state."""
    builder = {"sgd": optim.sgd, "adam": optim.adam}[kind]
    settings = {"lr": 0.1, "weight_decay": 5e-4, **({"momentum": 0.9, "nesterov": True} if kind == "sgd" else {})}
    nets = [nn.Linear(4, 3) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers = [
        builder(net.parameters(), on_device, **settings) for net, on_device in zip(nets, (False, True), strict=True)
    ]
    assert isinstance(optimizers[1].param_groups[0]["lr"], torch.Tensor)
    for step in range(6):
        if step == 3:
            for optimizer in optimizers:
                optim.set_rate(optimizer, 0.01)
                assert optim.rate_of(optimizer) == pytest.approx(0.01)
        if step == 4:  # each goes on from the other's state, as a run that moves to another machine
            states = [optimizer.state_dict() for optimizer in optimizers]
            for optimizer, state in zip(optimizers, states[::-1], strict=True):
                rate = optimizer.param_groups[0]["lr"]
                optim.restore(optimizer, state)
                assert type(optimizer.param_groups[0]["lr"]) is type(rate)
        x = torch.randn(5, 4)
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(nets[1].weight, nets[0].weight)

"""Trainings that start from weights learned elsewhere: in every method and place, and what has to be there for it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mwray
from mwray.config import ConfigError, override
from mwray.experiment import Experiment
from mwray.methods.registry import METHODS
from mwray.models import libraries
from mwray.models.registry import build
from mwray.models.settings import Model
from mwray.recipes import recipe
from mwray.train import checkpoint, start
from mwray.train.loop import Session, train
from mwray.train.suspects import restored
from mwray.worker import LocalWorker, Worker
from tests.distributed.groups import processes
from tests.methods.test_contract import NEEDED
from tests.train.stopping import Stopped, Stopping
from tests.train.test_classifier import SMALL as CLASSIFIED
from tests.train.test_pack import both, state_distance

GREY = (1, 8, 8)
SMALL = {**CLASSIFIED, "model.name": "mlp", "epochs": 2}
State = dict[str, Tensor]


def experiment(**values: Any) -> Experiment:
    return override(recipe("digits"), {**SMALL, **values})


def saved(path: Path, name: str = "mlp", classes: int = 10, shape: tuple[int, int, int] = GREY) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(77)
        torch.save(build(Model(name=name), classes, shape).state_dict(), path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return saved(tmp_path / "weights.pt")


def session(folder: Path, **values: Any) -> Session:
    return Session(experiment(**values), folder, LocalWorker("cpu"), ())


def predicting(session: Session) -> State:
    return METHODS[session.experiment.method.name].predicting(session.method.state())


def equal(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_starts_there_in_each_of_its_phases(name: str, file: Path, tmp_path: Path) -> None:
    here = session(tmp_path, **{"method.name": name, **NEEDED.get(name, {}), "model.weights": str(file)})
    for epoch in range(2):
        here.method.epoch_start(epoch)
        assert equal(predicting(here), torch.load(file))


def test_the_networks_of_co_teaching_differ_in_the_last_layer(file: Path, tmp_path: Path) -> None:
    here = session(tmp_path, **{"method.name": "co-teaching", "model.weights": str(file)})
    first, second = (network.network.state_dict() for network in here.method.networks)
    differ = {name for name, value in first.items() if not torch.equal(value, second[name])}
    assert differ == {name for name in first if name.rpartition(".")[0] == list(first)[-1].rpartition(".")[0]}


def test_the_run_needs_its_folder_alone_and_goes_on_with_the_same_bits(file: Path, tmp_path: Path) -> None:
    settings = experiment(**{"model.weights": str(file)})
    train(settings, tmp_path / "whole", worker=LocalWorker("cpu"))
    with pytest.raises(Stopped):
        train(settings, tmp_path / "stopped", worker=Stopping(1))
    file.unlink()
    train(settings, tmp_path / "stopped", worker=LocalWorker("cpu"))
    assert state_distance(tmp_path / "whole", tmp_path / "stopped") == 0
    first, again = json.loads((tmp_path / "stopped" / "environment.json").read_text())
    assert first["initial_weights"] == f"model.weights: all 4 tensors are those of {file}"
    assert again["initial_weights"] is None  # the checkpoint's
    here = restored(tmp_path / "whole", "cpu")
    (batch,) = here.test.in_order(1000)
    logits = mwray.load(tmp_path / "whole", "cpu")(here.splits.test.images)
    assert torch.equal(logits, here.method.predict(batch.x))


def test_a_phase_that_starts_anew_needs_the_weights_again(file: Path, tmp_path: Path) -> None:
    settings = experiment(**{"model.weights": str(file), "method.name": "glc", "epochs": 3, "method.first_epochs": 2})
    with pytest.raises(Stopped):
        train(settings, tmp_path / "run", worker=Stopping(1))
    weights = file.read_bytes()
    file.unlink()
    with pytest.raises(ConfigError, match=r"^model\.weights: .* is neither 'pretrained' nor a file or folder"):
        train(settings, tmp_path / "run", worker=LocalWorker("cpu"))
    file.write_bytes(weights)
    train(settings, tmp_path / "run", worker=LocalWorker("cpu"))
    train(settings, tmp_path / "whole", worker=LocalWorker("cpu"))
    assert state_distance(tmp_path / "whole", tmp_path / "run") == 0


def test_the_checkpoint_tells_the_normalisation_once_the_weights_are_gone(tmp_path: Path) -> None:
    train(experiment(epochs=1, **{"data.normalization": "imagenet"}), tmp_path / "before", worker=LocalWorker("cpu"))
    settings = experiment(epochs=1, **{"model.weights": str(tmp_path / "before")})
    train(settings, tmp_path / "run", worker=LocalWorker("cpu"))
    (tmp_path / "before").rename(tmp_path / "away")
    assert round(restored(tmp_path / "run", "cpu").splits.mean[0], 3) == 0.449


def test_a_pack_starts_each_training_there(tmp_path: Path) -> None:
    values = {"model.name": "small", "epochs": 1, "optimizer.milestones": []}
    values["model.weights"] = str(saved(tmp_path / "small.pt", "small"))
    trainings = [experiment(**values), experiment(**values, **{"optimizer.lr": 0.03, "seed": 1})]
    pairs, ended = both(tmp_path, trainings, 2)
    assert all(end.error is None for end in ended)
    assert all(state_distance(apart, together) < 1e-4 for apart, together in pairs)


def test_a_run_is_gone_on_from_with_other_classes_or_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(experiment(epochs=1), tmp_path / "before", worker=LocalWorker("cpu"))
    learned = METHODS["mwnet"].predicting(checkpoint.latest(tmp_path / "before")["method"])
    with caplog.at_level(logging.INFO, "mwray"):
        here = session(tmp_path / "after", **{"model.weights": str(tmp_path / "before")})
    assert equal(predicting(here), learned)
    assert f"are those of the run in {tmp_path / 'before'}, epoch 1" in caplog.text
    images = checkpoint.latest(tmp_path / "before")["images"]
    assert (here.splits.mean, here.splits.std) == (tuple(images["mean"]), tuple(images["std"]))


def test_bfloat16_keeps_the_weights(file: Path, tmp_path: Path) -> None:
    here = session(tmp_path, **{"model.weights": str(file), "precision": "bf16"})
    assert equal(predicting(here), torch.load(file))


COLOUR = {"data.source": "tests.data.own_sets:with_clean", "data.num_meta": 6, "data.num_train": None}
COLOUR |= {"data.bias.noise": "none", "data.bias.rate": 0.0, "batch_size": 20, "data.num_test": None}


def test_images_are_normalised_as_the_weights_want_it(tmp_path: Path) -> None:
    colour = {**COLOUR, "model.name": "torchvision:resnet18"}
    path = saved(tmp_path / "w.pth", "torchvision:resnet18", 1000, (3, 32, 32))

    def statistics(**values: Any) -> Any:
        splits = session(tmp_path / "run", **values).splits
        return splits.mean, splits.std

    own = statistics(**colour)
    assert own != libraries.IMAGENET
    assert statistics(**colour, **{"model.weights": str(path)}) == libraries.IMAGENET
    assert statistics(**colour, **{"model.weights": str(path), "data.normalization": "data"}) == own
    assert statistics(**colour, **{"data.normalization": "imagenet"}) == libraries.IMAGENET
    grey = statistics(**{"data.normalization": "imagenet"})
    assert [round(value[0], 3) for value in grey] == [0.449, 0.226]


def test_vectors_are_no_images(tmp_path: Path) -> None:
    vectors = {**COLOUR, "data.source": "tests.data.own_sets:vectors"}
    with pytest.raises(ConfigError, match=r"^data\.normalization: 'imagenet' is for images"):
        session(tmp_path, **vectors, **{"data.normalization": "imagenet"})
    with pytest.raises(
        ConfigError, match=r"^model\.name: 'torchvision:resnet18' does not take .* it is a network of im"
    ):
        session(tmp_path, **vectors, **{"model.name": "torchvision:resnet18"})


def test_a_checkpoint_holds_the_normalisation(tmp_path: Path) -> None:
    train(experiment(epochs=1, **{"data.normalization": "imagenet"}), tmp_path / "run", worker=LocalWorker("cpu"))
    here = restored(tmp_path / "run", "cpu")
    (batch,) = here.test.in_order(1000)
    assert torch.equal(mwray.load(tmp_path / "run", "cpu")(here.splits.test.images), here.method.predict(batch.x))
    expected = (here.splits.test.images.double() / 255 - 0.449) / 0.226
    torch.testing.assert_close(batch.x.double(), expected, rtol=0, atol=1e-5)


def test_published_weights_go_through_the_same_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "w.pth", "torchvision:resnet18", 1000, (3, 32, 32))
    asked: list[str] = []
    monkeypatch.setattr(libraries, "published", lambda name: asked.append(name) or torch.load(path))
    here = session(tmp_path, **COLOUR, **{"model.name": "torchvision:resnet18", "model.weights": "pretrained"})
    now, there = predicting(here), torch.load(path)
    assert asked == ["torchvision:resnet18"] and here.splits.mean == libraries.IMAGENET[0]
    assert all(torch.equal(value, there[name]) for name, value in now.items() if not name.startswith("fc."))
    assert now["fc.weight"].shape == (3, 512)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("pretrained", r"'pretrained' are weights that torchvision or timm publish, and model\.name is 'mlp'"),
        ("pretraned", r"'pretraned' is neither 'pretrained' nor a file or folder on this machine"),
        ("{}", r"experiment\.json: there is no such file; is .* the folder of a run\?"),
        ("{}/weights.pt", r"weights\.pt does not fit MLP: missing: "),
    ],
)
def test_what_cannot_be_started_from_leaves_nothing_behind(weights: str, message: str, tmp_path: Path) -> None:
    saved(tmp_path / "weights.pt", "small")
    with pytest.raises(ConfigError, match=r"^model\.weights: .*" + message):
        train(experiment(**{"model.weights": weights.format(tmp_path)}), tmp_path / "run", worker=LocalWorker("cpu"))
    assert not (tmp_path / "run").exists()


def _one_epoch(worker: Worker, file: Path, folder: Path) -> None:
    train(experiment(epochs=1, **{"model.weights": str(file), "method.name": "base"}), folder, worker=worker)


@pytest.mark.slow
def test_every_process_of_a_group_starts_there(file: Path, tmp_path: Path) -> None:
    processes(2, _one_epoch, file, tmp_path / "together")
    _one_epoch(LocalWorker("cpu"), file, tmp_path / "alone")
    assert state_distance(tmp_path / "together", tmp_path / "alone") < 1e-4


def test_of_several_workers_the_first_tells(file: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    here = session(tmp_path)
    found = start.given(Model(name="mlp", weights=str(file)), tmp_path)
    with caplog.at_level(logging.INFO, "mwray"):
        for rank in (1, 0):
            worker = LocalWorker("cpu")
            worker.rank = rank
            networks = start.Networks(here.experiment, here.splits, worker, torch.contiguous_format, found)
            assert equal(networks("init").state_dict(), networks("init").state_dict())
    assert len(caplog.records) == 1

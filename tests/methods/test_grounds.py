"""Every method on other sources, networks and biases than the contract's: it trains, or says what is at fault."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mwray.config import ConfigError, override
from mwray.data import sources
from mwray.data.sources import Source
from mwray.methods.registry import METHODS
from mwray.recipes import recipe
from mwray.records import Run
from mwray.train.loop import train
from mwray.worker import LocalWorker
from tests.methods.test_contract import NEEDED

SMALL = {
    "epochs": 2,
    "batch_size": 50,
    "meta_batch_size": 50,
    "optimizer.milestones": [1],
    "data.num_train": 100,
    "data.num_meta": 100,
    "data.num_validation": 0,
    "data.num_test": 100,
}
GROUNDS: dict[str, dict[str, Any]] = {
    "long-tail-small": {
        "data.bias.noise": "none",
        "data.bias.rate": 0,
        "data.bias.imbalance": 5,
        "data.num_train": 300,
        "model.name": "small",
    },
    "long-tail-and-flip-mlp": {
        "data.bias.noise": "flip",
        "data.bias.imbalance": 5,
        "data.num_train": 300,
        "model.name": "mlp",
    },
    "colour-flip2-resnet8": {"data.source": "cifar10", "data.bias.noise": "flip2", "model.name": "resnet8"},
    "100-classes-hierarchical-small": {
        "data.source": "cifar100",
        "data.bias.noise": "hierarchical",
        "model.name": "small",
    },
}
MAY_LACK_A_CLASS = {"100-classes-hierarchical-small"}


@pytest.fixture(autouse=True)
def photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random images in the shape of CIFAR."""

    def of(classes: int, superclass: tuple[int, ...] | None) -> Source:
        generator = torch.Generator().manual_seed(classes)
        labels = torch.arange(4 * 100) % classes
        images = torch.randint(256, (400, 3, 32, 32), generator=generator, dtype=torch.uint8)
        names = tuple(f"class {i}" for i in range(classes))
        return Source(images, labels, images[:100], labels[:100], names, (0.5,) * 3, (0.25,) * 3, superclass, True)

    monkeypatch.setitem(sources.SOURCES, "cifar10", lambda folders, download: of(10, None))
    monkeypatch.setitem(
        sources.SOURCES, "cifar100", lambda folders, download: of(100, tuple(i // 5 for i in range(100)))
    )


@pytest.mark.slow
@pytest.mark.parametrize("ground", GROUNDS)
@pytest.mark.parametrize("name", METHODS)
def test_it_trains_there_or_names_the_field_that_is_at_fault(name, ground, tmp_path):
    settings = override(recipe("digits"), {**SMALL, **GROUNDS[ground], "method.name": name, **NEEDED.get(name, {})})
    try:
        summary = train(settings, tmp_path / "run", worker=LocalWorker("cpu"))
    except ConfigError as error:
        assert ground in MAY_LACK_A_CLASS
        assert str(error).startswith(("data.", "method.", "model."))
        assert "would do" in str(error) or "lower" in str(error) or "raise" in str(error)
        assert not (tmp_path / "run").exists()
    else:
        assert Run(tmp_path / "run").state == "done"
        assert 0 <= summary["test.last"] <= 1


@pytest.mark.slow
def test_co_teaching_as_published_trains_its_nine_layer_network_and_adam(tmp_path):
    sizes = {"epochs": 1, "batch_size": 20, "data.num_train": 20, "data.num_test": 10, "optimizer.milestones": []}
    values = {"data.source": "cifar10", "model.name": "cnn9", "method.name": "co-teaching", "method.optimizer": "adam"}
    train(override(recipe("digits"), {**SMALL, **sizes, **values}), tmp_path, worker=LocalWorker("cpu"))
    assert Run(tmp_path).state == "done"
    (record,) = Run(tmp_path).records()
    assert record["method.share_kept"] == 1.0  # nothing is forgotten in the first epoch

"""What is told, or refused, before a method is built: meta images that leave classes out."""

from __future__ import annotations

import pytest

from mwray.config import ConfigError, override
from mwray.recipes import recipe
from mwray.train.loop import train
from mwray.worker import LocalWorker

SMALL = {
    "epochs": 1,
    "optimizer.milestones": [],
    "model.name": "mlp",
    "data.num_train": 200,
    "data.num_test": 50,
    "data.num_validation": 0,
}


def told(caplog, folder, **values: object) -> list[str]:
    caplog.clear()
    train(override(recipe("digits"), {**SMALL, **values}), folder, worker=LocalWorker("cpu"))
    return [record.getMessage() for record in caplog.records]


def test_classes_without_a_meta_image_are_told_once_at_the_start(tmp_path, caplog):
    (line,) = told(caplog, tmp_path / "few", **{"data.num_meta": 8})
    assert line.startswith("data.num_meta: 8 clean samples leave 2 of 10 classes without any (")
    assert line.endswith("; set it to 10 or more")
    assert told(caplog, tmp_path / "enough", **{"data.num_meta": 10}) == []


def test_whoever_needs_no_meta_images_is_told_nothing_and_whoever_refuses_still_refuses(tmp_path, caplog):
    assert told(caplog, tmp_path / "base", **{"data.num_meta": 8, "method.name": "base"}) == []
    with pytest.raises(ConfigError, match="GLC needs a clean sample of every class"):
        told(caplog, tmp_path / "glc", **{"data.num_meta": 8, "method.name": "glc"})
    assert not caplog.records

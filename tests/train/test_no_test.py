"""Data of one's own without test samples: everything else is there, and nothing is said of a test accuracy."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from mwray.cluster.compare import _print
from mwray.cluster.progress import _line
from mwray.cluster.sweep import Job, Outcome
from mwray.config import ConfigError, override
from mwray.data.own import checked
from mwray.recipes import recipe
from mwray.records import Run
from mwray.reports import arrays, pictures
from mwray.reports.loose import entries_of
from mwray.train.classifier import InputError
from mwray.train.loop import train
from mwray.train.predictions import write
from mwray.train.sinks import ConsoleSink, PicturesSink, TensorBoardSink
from mwray.train.sinks.arrays import ArraysSink
from mwray.worker import LocalWorker
from tests.data.own_sets import own_data, own_features


def images():
    """For `data.source`."""
    return replace(own_data(), test_images=None, test_labels=None)


def vectors():
    """For `data.source`."""
    return replace(own_features(), test_features=None, test_labels=None)


@pytest.fixture(scope="module", params=["images", "vectors"])
def run(request, tmp_path_factory):
    changes = {
        "data.source": f"tests.train.test_no_test:{request.param}",
        "data.num_meta": 6,
        "data.num_validation": 3,
        "model.name": "mlp",
        "epochs": 2,
        "optimizer.milestones": [],
        "batch_size": 20,
    }
    folder = tmp_path_factory.mktemp("run")
    sinks = [ConsoleSink(), TensorBoardSink(), PicturesSink(), ArraysSink()]
    train(override(recipe("own"), changes), folder, worker=LocalWorker("cpu"), sinks=sinks)
    return folder


def test_all_but_the_test_is_recorded_and_drawn(run):
    (_, last), summary = Run(run).records(), Run(run).summary()
    assert {"train.loss", "validation.accuracy"} <= set(last) and "validation.last" in summary
    assert not [name for name in (*last, *summary) if name.startswith("test.")]
    assert {"weights.png", "curves.png"} <= {path.name for path in run.iterdir()}
    assert not (run / "confusion.png").exists() and arrays.last(run).confusion is None
    assert list(pictures.pictures(entries_of([run])))


def test_predictions_of_its_test_samples_are_refused(run):
    with pytest.raises(InputError, match="has no test samples"):
        write(run, None, device="cpu")
    assert not (run / "predictions.csv").exists()


def test_a_comparison_says_where_there_is_something(run, capsys):
    _print([("mwnet", "own", run)], run, "test.last")
    assert "--measure validation.last" in capsys.readouterr().out
    _print([("mwnet", "own", run)], run, "validation.last")
    shown = capsys.readouterr().out
    assert "Validation accuracy at the last epoch" in " ".join(shown.split()) and "--measure" not in shown
    job = Job("mwnet seed 0", recipe("own"), run)
    line = _line(Outcome(job, Run(run).summary()), SimpleNamespace(done=1, total=1), "ETA 0 s")
    assert "% validation, last epoch" in line and "nan" not in line


@pytest.mark.parametrize(("part", "message"), [("images", "is None"), ("labels", "is None")])
def test_one_half_alone_is_refused(part, message):
    with pytest.raises(ConfigError, match=f"test_{part}.*{message}"):
        checked(replace(own_data(), **{f"test_{part}": None}), "mine")

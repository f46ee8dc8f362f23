"""Data of one's own through the loop: nothing is said of true labels, and the suspects are listed without them."""

from __future__ import annotations

import numpy as np
import pyarrow.csv
import pytest

from mwray.config import ConfigError, override
from mwray.recipes import recipe
from mwray.records import Run
from mwray.reports import arrays, figures, pictures
from mwray.reports.loose import entries_of
from mwray.train.loop import train
from mwray.train.sinks import ConsoleSink, PicturesSink, TensorBoardSink
from mwray.train.sinks.arrays import ArraysSink
from mwray.train.suspects import write
from mwray.worker import LocalWorker
from tests.data.own_sets import own_data, save

SMALL = {
    "data.source": "tests.data.own_sets:with_clean",
    "data.num_meta": 6,
    "data.num_validation": 3,
    "epochs": 2,
    "optimizer.milestones": [],
    "batch_size": 20,
}
VECTORS = {"data.source": "tests.data.own_sets:vectors", "model.name": "linear"}
COMPARED = {"train.accuracy_true", "train.weight_clean", "train.weight_noisy", "train.weight_auc"}


@pytest.fixture(scope="module", params=["function", "folder", "vectors"])
def run(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    changes = dict(SMALL)
    if request.param == "folder":
        changes["data.source"] = f"folder:{save(root / 'own', own_data())}"
    if request.param == "vectors":
        changes |= VECTORS
    sinks = [ConsoleSink(), TensorBoardSink(), PicturesSink(), ArraysSink()]
    train(override(recipe("own"), changes), root / "run", worker=LocalWorker("cpu"), sinks=sinks)
    return root / "run"


def test_two_epochs_of_mwnet(run):
    records = Run(run).records()
    assert [record["epoch"] for record in records] == [1, 2]
    assert {"train.loss", "train.meta_loss", "validation.accuracy", "test.accuracy"} <= set(records[1])
    assert not COMPARED & set(records[1])
    assert {"weights.png", "curves.png", "confusion.png"} <= {path.name for path in run.iterdir()}


def test_arrays_and_figures_leave_out_what_nobody_knows(run):
    kept, watched = arrays.last(run), arrays.watched(run)
    assert kept.samples.clean is None and len(kept.samples.losses) == 120
    assert watched.clean is None and watched.weights.shape == (2, 10)
    entries = entries_of([run])
    assert figures.variations(entries, "2", entries[0].cell.column) == {}
    list(pictures.pictures(entries))


def test_the_suspects_are_listed_without_true_labels(run):
    said = write(run, device="cpu")
    assert "120 training samples" in said and "wrong" not in said
    pictures = set() if Run(run).experiment()["model"]["name"] == "linear" else {"suspects.png"}
    assert {path.name for path in (run / "suspects").iterdir()} == {"suspects.parquet", "suspects.csv"} | pictures
    table = pyarrow.csv.read_csv(run / "suspects" / "suspects.csv").to_pydict()
    assert not {"true", "true_label", "wrong", "precision", "recall"} & set(table)
    assert sorted(table["index"]) == list(range(120))
    if "file" in table:
        assert all(f"/{name}/" in file for name, file in zip(table["observed"], table["file"], strict=True))
        assert len(set(table["file"])) == 120
    else:
        labels = own_data().train_labels
        assert np.array_equal(labels[table["index"]], table["observed_label"])


@pytest.mark.parametrize(
    "method", ["self-paced", "co-teaching", "glc", "forward", "s-model", "mentornet", "d2l", "l2rw", "class-balanced"]
)
def test_other_methods_do_without_true_labels(method, tmp_path):
    own = {"method.forget_rate": 0.2} if method == "co-teaching" else {}
    train(override(recipe("own"), {**SMALL, "method.name": method, **own}), tmp_path, worker=LocalWorker("cpu"))
    last = Run(tmp_path).records()[-1]
    assert not {"method.precision", "method.transition_error", *COMPARED} & set(last)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method.name": "co-teaching"}, r"method\.forget_rate: .* nobody knows .* 0\.2"),
        ({"method.name": "forward", "method.matrix": "true"}, r"method\.matrix: .* nobody knows .* 'estimated'"),
        ({"data.num_meta": 60}, r"data\.num_meta: 60 .* at most 9"),
        (VECTORS | {"model.name": "small"}, r"model\.name: 'small' does not take .* \[N, 7\].*'linear', 'mlp', or"),
    ],
)
def test_what_needs_more_than_there_is_asks_for_it(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(override(recipe("own"), SMALL | changes), tmp_path / "run", worker=LocalWorker("cpu"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes", [{}, VECTORS], ids=["images", "vectors"])
def test_a_run_goes_on_after_a_stop(tmp_path, changes):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    experiment = override(recipe("own"), SMALL | changes)
    train(experiment, whole, worker=LocalWorker("cpu"))
    with pytest.raises(Exception, match="enough"):
        train(experiment, parts, worker=LocalWorker("cpu"), leave=iter([None] * 6 + ["enough"] * 9).__next__)
    train(experiment, parts, worker=LocalWorker("cpu"))
    first, second = (Run(folder).records() for folder in (whole, parts))
    assert [r["train.loss"] for r in first] == [r["train.loss"] for r in second]

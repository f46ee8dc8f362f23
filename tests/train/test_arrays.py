"""What a run keeps for figures: the same samples in every epoch, also after a kill, and the last epoch whole."""

from __future__ import annotations

import numpy as np
import pytest

from mwray.records import RecordError
from mwray.reports.arrays import curves, last, watched
from mwray.train.sinks import PicturesSink
from mwray.train.sinks.arrays import ArraysSink, choose

from .runs import arrays, tell


def test_watched_samples_are_ten_of_each_kind_and_the_same_for_every_method():
    clean = np.arange(100) % 3 > 0
    index = choose(clean)
    assert len(set(index)) == 20
    assert not clean[index[:10]].any() and clean[index[10:]].all()
    assert np.array_equal(index, choose(clean))
    assert len(choose(np.ones(5, bool))) == 5


def same_labels(epoch):
    return {**arrays(epoch), "sample.clean": np.arange(60) % 2 > 0}


def test_weights_of_watched_samples_over_epochs(tmp_path):
    tell(ArraysSink(), tmp_path, range(1, 5), arrays_of=same_labels)
    found = watched(tmp_path)
    assert found.epochs.tolist() == [1, 2, 3, 4]
    for epoch, row, mean in zip(found.epochs, found.weights, found.means, strict=True):
        weights = same_labels(epoch)["sample.weight"]
        np.testing.assert_allclose(row, weights[found.index], rtol=1e-6)
        assert mean == pytest.approx(np.nanmean(weights))
    assert np.array_equal(found.clean, found.index % 2 > 0)


def test_a_resumed_run_ends_with_what_an_unbroken_one_has(tmp_path):
    tell(ArraysSink(), tmp_path / "whole", range(1, 5), arrays_of=same_labels)
    tell(ArraysSink(), tmp_path / "broken", range(1, 4), finish=False, arrays_of=same_labels)
    tell(ArraysSink(), tmp_path / "broken", range(3, 5), arrays_of=same_labels)
    whole, broken = watched(tmp_path / "whole"), watched(tmp_path / "broken")
    assert np.array_equal(whole.epochs, broken.epochs)
    np.testing.assert_array_equal(whole.weights, broken.weights)


def test_the_last_epoch_is_kept_whole(tmp_path):
    tell(ArraysSink(), tmp_path, range(1, 4), finish=False, arrays_of=same_labels)
    assert last(tmp_path) is None
    tell(ArraysSink(), tmp_path, [4], arrays_of=same_labels)
    found, expected = last(tmp_path), same_labels(4)
    assert found.epoch == 4 and found.classes == ("cat", "dog")
    np.testing.assert_array_equal(found.confusion, expected["confusion"])
    np.testing.assert_array_equal(found.samples.weights, expected["sample.weight"])
    np.testing.assert_array_equal(found.samples.clean, expected["sample.clean"])


def test_a_method_without_weights_leaves_the_rest(tmp_path):
    bare = {key: value for key, value in arrays(4).items() if key != "sample.weight"}
    tell(ArraysSink(), tmp_path, [4], arrays_of=lambda epoch: bare)
    assert watched(tmp_path) is None
    assert last(tmp_path).samples.weights is None


def test_the_curves_that_pictures_keep(tmp_path):
    assert curves(tmp_path) is None
    tell(PicturesSink(every=1e9), tmp_path, range(1, 3))
    found = curves(tmp_path)
    assert found.epochs.tolist() == [1, 2]
    np.testing.assert_allclose(found.weights[1], arrays(2)["curve.weight"])


def test_a_damaged_file_is_named_by_reports_and_passed_over_by_training(tmp_path, caplog):
    (tmp_path / "watched.npz").write_bytes(b"no zip")
    with pytest.raises(RecordError, match=r"watched.npz: not readable"):
        watched(tmp_path)
    tell(ArraysSink(), tmp_path, [3, 4], arrays_of=same_labels)
    assert "begin at epoch 3" in caplog.text
    assert watched(tmp_path).epochs.tolist() == [3, 4]

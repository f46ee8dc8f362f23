"""The list of suspects: its order and its precision and recall by hand, its files read back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from PIL import Image

from mwray.reports.suspects import Suspects, chosen, order, precision_recall, table, write


def made(true=None, weight=None):
    return Suspects(
        index=np.array([30, 10, 20]),
        observed=np.array([0, 1, 1]),
        predicted=np.array([1, 1, 0]),
        loss=np.array([3.0, 2.0, 1.0]),
        weight=weight,
        true=true,
        position=np.array([2, 0, 1]),
        classes=("cat", "dog"),
    )


def test_the_largest_loss_first_and_among_equals_the_least_weight():
    loss = np.array([1.0, 5.0, 3.0, 4.0, 5.0])
    assert order(loss, np.array([0.1, 0.9, 0.1, 0.5, 0.2])).tolist() == [4, 1, 3, 2, 0]
    assert order(loss, None).tolist() == [1, 4, 3, 2, 0]


def test_precision_and_recall_by_counting():
    precision, recall = precision_recall(np.array([True, False, True, False]))
    np.testing.assert_allclose(precision, [1, 1 / 2, 2 / 3, 2 / 4])
    np.testing.assert_allclose(recall, [1 / 2, 1 / 2, 1, 1])
    precision, recall = precision_recall(np.array([False, False]))
    assert precision.tolist() == [0, 0] and np.isnan(recall).all()


def test_the_table_leaves_out_what_is_not_known():
    assert table(made()).column_names == [
        *("rank", "index", "observed_label", "observed", "predicted_label", "predicted", "loss"),
    ]
    rows = table(made(true=np.array([1, 1, 1]), weight=np.array([0.1, 0.2, 0.3]))).to_pylist()
    assert rows[0]["rank"] == 1 and rows[0]["index"] == 30
    assert (rows[0]["observed"], rows[0]["predicted"], rows[0]["true"]) == ("cat", "dog", "dog")
    assert [row["wrong"] for row in rows] == [True, False, False]
    assert [row["recall"] for row in rows] == [1, 1, 1]


def test_files(tmp_path):
    images = np.zeros((3, 8, 8, 1), np.uint8)
    said = write(made(true=np.array([1, 1, 1]), weight=np.array([0.1, 0.2, 0.3])), images, tmp_path / "out")
    assert "of the first 1: 100.0% have a wrong label, 100.0% of all 1" in said
    parquet = pa.parquet.read_table(tmp_path / "out" / "suspects.parquet")
    text = pa.csv.read_csv(tmp_path / "out" / "suspects.csv")
    assert parquet.to_pydict() == text.to_pydict()
    for name in ("suspects.png", "ranking.png"):
        Image.open(tmp_path / "out" / name).verify()


def test_where_truth_is_not_known_there_is_no_ranking(tmp_path):
    said = write(made(), np.zeros((3, 8, 8, 3), np.uint8), tmp_path)
    assert "by loss" in said and not (tmp_path / "ranking.png").exists()


def test_images_at_positions():
    images = np.arange(4 * 3 * 2 * 2, dtype=np.uint8).reshape(4, 3, 2, 2)
    found = chosen(images, [2, 0])
    assert found.shape == (2, 2, 2, 3)
    assert found[0, 1, 0].tolist() == images[2, :, 1, 0].tolist()

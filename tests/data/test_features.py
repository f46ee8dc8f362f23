"""Feature vectors of one's own: what may be given, how they are normalised, and that no large copy is made."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mwray.config import ConfigError
from mwray.data import features, sources
from mwray.data.features import statistics, vectors
from mwray.data.loader import Loader
from mwray.data.own import OwnData, OwnFeatures, checked
from mwray.data.settings import Data
from mwray.data.splits import split
from mwray.seeding import rng
from tests.data.own_sets import NAMES, own_data, own_features

VECTORS = "tests.data.own_sets:vectors"
GOOD = own_features()
N = len(GOOD.train_labels)


def test_vectors_become_a_source() -> None:
    source = sources.load(VECTORS)
    assert torch.equal(source.train_images, torch.from_numpy(GOOD.train_features))
    assert source.train_labels.tolist() == GOOD.train_labels.tolist()
    assert source.clean_images is not None and source.clean_images.shape == (9, 7)
    assert (source.class_names, source.augmentable, source.labels_right) == (NAMES, False, False)
    splits = split(Data(source=VECTORS, num_meta=6, num_validation=3), 0, source)
    assert splits.shape == (7,) and len(splits.train) == N and splits.train.true is None
    assert torch.equal(splits.meta.images, source.clean_images[splits.meta.index])


def standardised(given: NDArray[np.float32], data: NDArray[np.float32]) -> NDArray[np.float32]:
    """By NumPy, of the columns that vary."""
    wide = data.astype(np.float64)
    with np.errstate(invalid="ignore"):  # of the column that does not vary
        return ((given.astype(np.float64) - wide.mean(0)) / wide.std(0)).astype(np.float32)


def test_a_batch_is_normalised_by_the_training_features_to_the_last_bit_but_one() -> None:
    splits = split(Data(source=VECTORS, num_meta=6), 0)
    loader = Loader(splits.train, splits, torch.device("cpu"), augment=True, layout=torch.channels_last)
    (batch,) = loader.in_order(1000)
    assert batch.x.dtype == torch.float32 and batch.x.shape == (N, 7) and batch.x.is_contiguous()
    varied = [0, 1, 2, 3, 5, 6]
    expected = standardised(GOOD.train_features, GOOD.train_features)[:, varied]
    np.testing.assert_array_max_ulp(batch.x.numpy()[:, varied], expected, 1)
    np.testing.assert_allclose(batch.x.numpy()[:, varied].std(0), 1, rtol=1e-5)
    for taken in loader.epoch(50, rng(0), rng(1)):  # shuffled, not changed: there is nothing to crop or to mirror
        assert torch.equal(taken.x, batch.x[taken.index])
    (of_test,) = Loader(splits.test, splits, torch.device("cpu"), augment=False).in_order(1000)
    of_test_by_numpy = standardised(GOOD.test_features, GOOD.train_features)[:, varied]
    np.testing.assert_array_max_ulp(of_test.x.numpy()[:, varied], of_test_by_numpy, 1)


def test_the_same_bits_as_numpy_from_the_same_mean_and_deviation() -> None:
    splits = split(Data(source=VECTORS, num_meta=6), 0)
    (batch,) = Loader(splits.test, splits, torch.device("cpu"), augment=False).in_order(1000)
    of, by = np.array(splits.mean), np.array(splits.std)
    assert np.array_equal(batch.x.numpy(), ((GOOD.test_features.astype(np.float64) - of) / by).astype(np.float32))


def test_a_column_that_never_varies_is_zero_also_where_it_varies_later() -> None:
    given = replace(GOOD, test_features=GOOD.test_features + 5)
    mean, std = statistics(checked(given, "own:f").train_features)
    assert mean[4] == np.float32(0.1) and std[4] == np.inf and np.isfinite(np.delete(std, 4)).all()
    splits = split(Data(source=VECTORS, num_meta=6), 0)
    loader = Loader(splits.test, splits, torch.device("cpu"), augment=False)
    moved = loader.normalise(torch.from_numpy(given.test_features))
    assert not moved[:, 4].any() and moved.isfinite().all()


def test_statistics_do_not_depend_on_how_many_rows_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = statistics(GOOD.train_features)
    monkeypatch.setattr(features, "AT_ONCE", 7 * 11)
    for ours, theirs in zip(statistics(GOOD.train_features), whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    many = np.full((100_000, 1), 0.1, np.float32)  # whose sum, divided, is not the number itself
    assert statistics(many) == ((float(np.float32(0.1)),), (np.inf,))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_other_floats_are_rounded_to_float32(dtype: Any) -> None:
    given = GOOD.train_features[:, [0, 1, 5]].astype(dtype)
    held = vectors("own:f", "train_features", given)
    assert held.dtype == np.float32 and np.array_equal(held, given.astype(np.float32))


def test_a_file_is_not_copied_and_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "train.npy", GOOD.train_features)
    (tmp_path / "my_vectors.py").write_text(
        "import numpy as np\nfrom dataclasses import replace\nfrom tests.data.own_sets import own_features\n"
        f"MAPPED = np.load({str(tmp_path / 'train.npy')!r}, mmap_mode='r')\n"
        "def load():\n    return replace(own_features(), train_features=MAPPED)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = split(Data(source="my_vectors:load", num_meta=6), 0)
        loader = Loader(splits.train, splits, torch.device("cpu"), augment=False)
    import my_vectors  # type: ignore[import-not-found]

    assert loader.images.data_ptr() == my_vectors.MAPPED.ctypes.data  # all are trained on: nothing is held twice
    assert next(iter(loader.in_order(N))).x.isfinite().all()
    assert np.array_equal(np.load(tmp_path / "train.npy"), GOOD.train_features)


def spoiled(row: int, column: int, value: float, dtype: Any = np.float32) -> NDArray[Any]:
    given = GOOD.train_features.astype(dtype)
    given[row, column] = value
    return given


class Sparse:
    """As SciPy's: an object that has the dense array of it."""

    def toarray(self) -> None:
        """Never called."""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_features": spoiled(17, 3, np.nan)},
            r"train_features .* holds nan in row 17, column 3; needed: finite .* \(fill in what is missing, or leave",
        ),
        ({"test_features": spoiled(119, 6, -np.inf)[90:]}, r"test_features .* holds -inf in row 29, column 6"),
        ({"clean_features": spoiled(0, 0, 1e39, np.float64)[:9]}, r"clean_features .* holds 1e\+39 in row 0, column 0"),
        (
            {"train_features": GOOD.train_features.astype(np.int64)},
            rf"train_features .* is int64 \[{N}, 7\]; .*codes.*astype",
        ),
        ({"train_features": GOOD.train_features[:, 0]}, rf"train_features .* is float32 \[{N}\]; needed: float32 \(or"),
        ({"train_features": own_data().train_images}, r"train_features .* is uint8 .*; images are for .*OwnData"),
        ({"test_features": GOOD.test_features[:0]}, r"test_features .* is float32 \[0, 7\]; .* N and D above 0"),
        ({"test_features": GOOD.test_features[:, :5]}, r"test_features .* has 5 columns; needed: 7, as the training"),
        ({"train_features": [[1.0], [1.0, 2.0]]}, r"train_features .* is no array"),
        ({"train_features": Sparse()}, r"train_features .* is a sparse Sparse; .*toarray\(\)"),
        ({"train_features": [["a", "b"]] * N}, rf"train_features .* is <U1 \[{N}, 2\]"),
        ({"train_features": None}, r"train_features .* is None"),
        (
            {"train_features": np.ma.masked_less(GOOD.train_features, 0)},
            r"train_features .* is a masked array .*missing",
        ),
        (
            {"train_labels": GOOD.train_labels[:-1]},
            rf"train_labels .* int64 \[{N - 1}\] for {N} vectors; .*each vector",
        ),
        ({"train_labels": np.minimum(GOOD.train_labels, 1)}, r"train_labels .* has no vector of class 'cedar'"),
        ({"clean_labels": None}, r"clean_labels .* is None"),
        ({"clean_features": None}, r"clean_features .* is None"),
        ({"train_files": ("one",)}, rf"train_files .* has 1 entries; .* {N} vectors"),
    ],
)
def test_what_cannot_be_used_is_named_with_what_would_do(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "AT_ONCE", 7 * 50)  # the bad row need not be among the first that are looked at
    with pytest.raises(ConfigError, match=r"^data\.source: " + message) as caught:
        checked(replace(GOOD, **changes), "my_data:load")
    assert "of 'my_data:load'" in str(caught.value) and "\n" not in str(caught.value)


def test_vectors_among_images_are_shown_the_way() -> None:
    wrong = OwnData(GOOD.train_features, GOOD.train_labels, GOOD.test_features, GOOD.test_labels)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"train_images .* is float32 .*; feature vectors are for .*OwnFeatures"):
        checked(wrong, "own:f")


def test_names_may_be_left_out() -> None:
    data = OwnFeatures(GOOD.train_features, GOOD.train_labels, GOOD.test_features, GOOD.test_labels)
    found = checked(data, "own:f")
    assert found.class_names == ("0", "1", "2") and found.clean_features is None

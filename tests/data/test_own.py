"""Data of one's own by a function: what it may return, what is made of it, and the one error for each mistake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mwray.config import ConfigError, fingerprint, override, read, to_dict
from mwray.data import sources
from mwray.data.own import OwnData, checked, statistics
from mwray.data.settings import Bias, Data
from mwray.data.splits import split
from mwray.experiment import Experiment
from mwray.recipes import recipe
from tests.data.own_sets import NAMES, images, own_data

WITH, WITHOUT = "tests.data.own_sets:with_clean", "tests.data.own_sets:without_clean"


def test_arrays_become_a_source() -> None:
    source, given = sources.load(WITH), own_data()
    assert source.train_images.shape == (120, 3, 6, 5) and source.train_images.is_contiguous()
    assert np.array_equal(source.train_images.numpy(), given.train_images.transpose(0, 3, 1, 2))
    assert source.train_labels.tolist() == given.train_labels.tolist()
    assert source.clean_images is not None and len(source.clean_images) == 9
    assert (source.class_names, source.augmentable, source.labels_right) == (NAMES, True, False)
    pixels = source.train_images.double() / 255
    assert source.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert source.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())
    assert sources.num_classes(WITH) == 3 and sources.num_classes("cifar100") == 100


def test_grey_images_need_no_axis_of_channels_and_names_may_be_left_out() -> None:
    labels = np.arange(8, dtype=np.uint8) % 2
    grey = images(labels.astype(np.int64), channels=1)
    found = checked(OwnData(grey[..., 0], labels, grey, labels), "own:f")
    assert found.train_images.shape == found.test_images.shape == (8, 1, 6, 5)
    assert found.train_labels.dtype == np.int64
    assert (found.class_names, found.augmentable) == (("0", "1"), False)
    assert checked(OwnData(grey, labels, grey, labels, augmentable=True), "own:f").augmentable


def test_a_channel_without_any_difference_is_not_divided_by_zero() -> None:
    mean, std = statistics(np.full((3, 1, 2, 2), 51, np.uint8))
    assert mean == pytest.approx((0.2,)) and std == pytest.approx((1 / 255,))


def test_meta_and_validation_images_come_from_clean_and_all_others_are_trained_on() -> None:
    source = sources.load(WITH)
    splits = split(Data(source=WITH, num_meta=6, num_validation=3), 0, source)
    assert splits.train.index.tolist() == list(range(120))
    assert sorted([*splits.meta.index.tolist(), *splits.validation.index.tolist()]) == list(range(9))
    assert source.clean_images is not None and source.clean_labels is not None
    assert torch.equal(splits.meta.images, source.clean_images[splits.meta.index])
    assert torch.equal(splits.meta.observed, source.clean_labels[splits.meta.index])
    assert torch.bincount(splits.meta.observed).tolist() == [2, 2, 2]
    assert len(split(Data(source=WITH, num_meta=6, num_train=30), 0, source).train) == 30
    with pytest.raises(ConfigError, match=r"data\.num_meta: 100 .* at most 9"):
        split(Data(source=WITH), 0, source)


def test_without_clean_both_are_held_out_of_the_training_images() -> None:
    splits = split(Data(source=WITHOUT, num_meta=6, num_validation=6), 0)
    every = torch.cat([splits.train.index, splits.meta.index, splits.validation.index])
    assert sorted(every.tolist()) == list(range(120))


@pytest.mark.parametrize("source", [WITH, WITHOUT])
def test_no_bias_leaves_the_labels_alone_and_nobody_knows_the_true_ones(source: str) -> None:
    given = own_data()
    splits = split(Data(source=source, num_meta=6), 5)
    assert splits.train.observed.tolist() == given.train_labels[splits.train.index.numpy()].tolist()
    assert splits.train.true is None
    noisy = split(Data(source=source, num_meta=6, bias=Bias(noise="flip", rate=0.5)), 5)
    assert noisy.train.true is None
    assert not torch.equal(noisy.train.observed, splits.train.observed)


def test_the_source_is_part_of_the_fingerprint_and_of_what_is_read_again() -> None:
    experiments = [override(recipe("own"), {"data.source": name}) for name in (WITH, WITHOUT, "folder:/a", "folder:/b")]
    assert len({fingerprint(experiment) for experiment in experiments}) == 4
    assert all(read(Experiment, to_dict(experiment)) == experiment for experiment in experiments)


@pytest.mark.parametrize("name", ["cifar11", ":load", "my_data:", "folder:", ""])
def test_a_name_that_can_be_none_is_refused_with_what_would_do(name: str) -> None:
    message = r"^data\.source: there is no data set .* Known: digits, .*'folder:/path' or 'package\.module:function'"
    with pytest.raises(ConfigError, match=message):
        override(recipe("own"), {"data.source": name})
    with pytest.raises(ConfigError, match=message):
        sources.load(name)


def test_a_path_without_its_prefix_is_told_with_it() -> None:
    for path in ("/my/photographs", "./pets", "~/pets"):
        with pytest.raises(ConfigError, match=rf"Did you mean 'folder:{path}'\?"):
            override(recipe("own"), {"data.source": path})


GOOD = own_data()
N = len(GOOD.train_labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": GOOD.train_images / 255}, rf"train_images .* is float64 \[{N}, 6, 5, 3\]; needed: uint8"),
        ({"test_images": GOOD.test_images[..., :2]}, r"test_images .* is uint8 \[30, 6, 5, 2\]; .* C = 1 or 3"),
        (
            {"train_images": GOOD.train_images.transpose(0, 3, 1, 2)},
            r".*channels come last: images\.transpose\(0, 2, 3",
        ),
        ({"train_images": GOOD.train_images[0, :, :, 0]}, r"train_images .* is uint8 \[6, 5\]"),
        ({"test_images": GOOD.test_images[:0]}, r"test_images .* is uint8 \[0, 6, 5, 3\]; .* N above 0"),
        ({"train_images": [[1], [1, 2]]}, r"train_images .* is no array"),
        ({"test_images": GOOD.test_images[:, :5]}, r"test_images .* 5x5 pixels in 3 .*; needed: 6x5 in 3"),
        ({"train_labels": GOOD.train_labels[:-1]}, rf"train_labels .* int64 \[{N - 1}\] for {N} images; .*\[{N}\]"),
        ({"train_labels": GOOD.train_labels * 1.0}, rf"train_labels .* is float64 \[{N}\]"),
        ({"train_labels": GOOD.train_labels - 1}, r"train_labels .* holds -1; needed: classes from 0 on"),
        ({"test_labels": GOOD.test_labels + 1}, r"test_labels .* holds 3; needed: 0 \.\. 2, as there are 3 classes"),
        ({"train_labels": np.minimum(GOOD.train_labels, 1)}, r"train_labels .* has no image of class 'cedar'"),
        (
            {"train_labels": GOOD.train_labels * 10**9, "class_names": None},
            r"train_labels .* has no image of class 1, .* 2000000000",
        ),
        ({"clean_labels": GOOD.clean_labels * 0}, r"clean_labels .* has no image of class 'beech'"),
        ({"clean_labels": None}, r"clean_labels .* is None"),
        ({"class_names": ("a", "b", "a")}, r"class_names .* is \('a', 'b', 'a'\); needed: two different"),
        ({"class_names": "abc"}, r"class_names .* is 'abc'"),
        (
            {"train_labels": np.where(np.arange(N) == 3, np.uint64(2**64 - 1), np.uint64(0))},
            r"train_labels .* holds 18446744073709551615; needed: classes from 0 on",
        ),
        (
            {"train_labels": GOOD.train_labels * 0, "class_names": None},
            r"train_labels .* has class 0 alone; needed: two classes or more",
        ),
        ({"class_names": 3}, r"class_names .* is 3; needed: two different"),
        ({"train_files": "x" * N}, r"train_files .* is a str that holds no texts; needed: .* as text"),
        ({"train_files": range(N)}, r"train_files .* is a range that holds no texts"),
        ({"train_files": ("one",)}, rf"train_files .* has 1 entries; .* {N} images"),
    ],
)
def test_what_cannot_be_used_is_named_with_what_would_do(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=r"^data\.source: " + message) as caught:
        checked(replace(GOOD, **changes), "my_data:load")
    assert "of 'my_data:load'" in str(caught.value) and "\n" not in str(caught.value)


def test_names_become_plain_texts_whatever_is_given() -> None:
    """A checkpoint that holds NumPy's could not be read again."""
    names, files = np.array(["a", "b", "c"]), [Path(f"{row}.png") for row in range(N)]
    made = checked(replace(GOOD, class_names=names, train_files=files), "my_data:load")
    assert {type(text) for text in (*made.class_names, *made.train_files)} == {str}


def test_images_too_small_to_crop_are_not_augmented() -> None:
    small = replace(GOOD, **{f"{part}_images": getattr(GOOD, f"{part}_images")[:, :4] for part in ("train", "test")})
    small = replace(small, clean_images=None, clean_labels=None)
    assert not checked(small, "own:f").augmentable
    with pytest.raises(ConfigError, match=r"augmentable .* is True for images of 4x5 pixels"):
        checked(replace(small, augmentable=True), "own:f")


MODULE = """
def raises():
    return {}["images"]
def other():
    return 3
def asks(folder):
    return None
number = 3
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:load", r"'no_such_module' .* cannot be imported \(No module .*PYTHONPATH"),
        ("own_module:none", r"'own_module' has no function or class 'none'"),
        ("own_module:number", r"'own_module' has no function or class 'number'"),
        ("own_module:raises", r"'own_module:raises' raised KeyError when it was called: .*\(own_module\.py, line 3\)"),
        ("own_module:asks", r"'own_module:asks' raised TypeError when it was called: .*folder"),
        ("own_module:other", r"'own_module:other' returned int; it must return a mwray\.data\.own\.OwnData"),
        (
            "own_broken:load",
            r"'own_broken:load' raised ZeroDivisionError while it was imported: .*n\.py, line 1",
        ),
    ],
)
def test_a_function_that_gives_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    (tmp_path / "own_module.py").write_text(MODULE)
    (tmp_path / "own_broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"^data\.source: " + message):
        sources.load(name)

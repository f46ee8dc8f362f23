"""Training, meta, validation and test images: disjoint, balanced, and each independent of the others' sizes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from mwray.config import ConfigError
from mwray.data import sources
from mwray.data.bias import tail_counts
from mwray.data.settings import Bias, Data
from mwray.data.sources import Source
from mwray.data.splits import Splits, Subset, balanced, split
from mwray.seeding import rng

PARTS = ("train", "meta", "validation", "test")


@pytest.fixture(scope="module")
def digits() -> Source:
    return sources.load("digits")


@pytest.fixture
def even() -> Source:
    """Ten classes of 60 training and 20 test images; each image's four pixels spell its position."""
    train, test = torch.arange(600), torch.arange(10_000, 10_200)
    return Source(
        train_images=_spell(train),
        train_labels=train % 10,
        test_images=_spell(test),
        test_labels=test % 10,
        class_names=tuple("abcdefghij"),
        mean=(0.5,),
        std=(0.5,),
    )


def _spell(numbers: torch.Tensor) -> torch.Tensor:
    return torch.stack([numbers // 256, numbers % 256], 1).to(torch.uint8).reshape(-1, 1, 1, 2)


def _numbers(subset: Subset) -> list[int]:
    pixels = subset.images.flatten(1).long()
    return (pixels[:, 0] * 256 + pixels[:, 1]).tolist()


def _sizes(subset: Subset) -> list[int]:
    return torch.bincount(subset.true, minlength=10).tolist()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "data",
    [
        Data(num_meta=100, num_validation=100, bias=Bias(noise="uniform", rate=0.4)),
        Data(num_meta=37, num_validation=53, num_train=201, bias=Bias(imbalance=10, noise="flip2", rate=0.4)),
    ],
)
def test_no_image_is_in_two_parts(even: Source, data: Data, seed: int) -> None:
    splits = split(data, seed, even)
    numbers = [number for part in PARTS for number in _numbers(getattr(splits, part))]
    assert len(numbers) == len(set(numbers)) > 0
    for part in PARTS:
        subset = getattr(splits, part)
        offset = 10_000 if part == "test" else 0
        assert _numbers(subset) == (subset.index + offset).tolist()
        assert torch.equal(subset.true, subset.index % 10)


def test_everything_that_is_not_held_out_is_trained_on(digits: Source) -> None:
    splits = split(Data(num_meta=100, num_validation=50), 0, digits)
    assert [len(getattr(splits, part)) for part in PARTS] == [1297 - 150, 100, 50, 500]
    every = torch.cat([splits.train.index, splits.meta.index, splits.validation.index])
    assert torch.equal(every.sort().values, torch.arange(1297))
    assert splits.num_classes == 10
    assert splits.shape == (1, 8, 8)


@pytest.mark.parametrize("total", [0, 7, 10, 25, 100])
def test_held_out_sets_are_balanced(digits: Source, total: int) -> None:
    splits = split(Data(num_meta=total, num_validation=total), 3, digits)
    for subset in (splits.meta, splits.validation):
        assert len(subset) == total
        assert max(_sizes(subset)) - min(_sizes(subset)) <= 1


def test_the_remainder_goes_to_classes_drawn_at_random(even: Source) -> None:
    extra = sum(torch.tensor(_sizes(split(Data(num_meta=13), seed, even).meta)) - 1 for seed in range(40))
    assert isinstance(extra, torch.Tensor)
    assert int(extra.sum()) == 120
    assert int(extra.min()) > 0


def test_meta_validation_and_test_labels_are_clean(even: Source) -> None:
    splits = split(Data(num_meta=100, num_validation=100, bias=Bias(noise="flip", rate=1.0)), 0, even)
    for part in ("meta", "validation", "test"):
        assert torch.equal(getattr(splits, part).observed, getattr(splits, part).true)
    assert not bool((splits.train.observed == splits.train.true).any())


def test_one_part_does_not_move_another(even: Source) -> None:
    def of(**settings: Any) -> Splits:
        return split(Data(**{"num_meta": 100, "num_validation": 50, "num_train": 200, **settings}), 1, even)

    base = of()
    assert torch.equal(of(num_validation=150).meta.index, base.meta.index)
    assert torch.equal(of(num_train=300).meta.index, base.meta.index)
    assert torch.equal(of(num_meta=20).validation.index, base.validation.index)
    assert torch.equal(of(num_meta=20).train.index, base.train.index)
    assert torch.equal(of(bias=Bias(noise="flip", rate=0.5)).train.index, base.train.index)
    # Smaller sets lie within larger ones, so sizes can be compared.
    assert set(of(num_meta=50).meta.index.tolist()) <= set(base.meta.index.tolist())


def test_a_wrong_label_stays_with_its_image(even: Source) -> None:
    noisy = Bias(noise="uniform", rate=0.5)
    few, many = (split(Data(num_meta=size, bias=noisy), 1, even).train for size in (50, 200))
    kept = torch.isin(few.index, many.index)
    assert torch.equal(few.index[kept], many.index)
    assert torch.equal(few.observed[kept], many.observed)


def test_the_seed_decides_everything_but_the_test_set(even: Source) -> None:
    data = Data(num_meta=50, num_validation=50, num_test=50, bias=Bias(imbalance=5, noise="flip2", rate=0.4))
    first, again, other = split(data, 0, even), split(data, 0, even), split(data, 1, even)
    for part in PARTS:
        for field in dataclasses.fields(Subset):
            assert torch.equal(getattr(getattr(first, part), field.name), getattr(getattr(again, part), field.name))
    assert torch.equal(first.test.index, other.test.index)
    assert not torch.equal(first.meta.index, other.meta.index)
    assert not torch.equal(first.validation.index, other.validation.index)
    assert not torch.equal(first.transition, other.transition)


def test_the_seed_decides_which_labels_are_wrong(even: Source) -> None:
    data = Data(num_meta=0, bias=Bias(noise="uniform", rate=0.5))
    first, other = (split(data, seed, even).train for seed in (0, 1))
    assert torch.equal(first.index, other.index)
    assert not torch.equal(first.observed, other.observed)


def test_the_tail_is_cut_by_true_class_before_the_noise(even: Source) -> None:
    splits = split(Data(num_meta=100, bias=Bias(imbalance=10, noise="uniform", rate=0.8)), 0, even)
    assert _sizes(splits.train) == tail_counts(50, 10, 10)
    wrong = (splits.train.observed != splits.train.true).double().mean().item()
    assert 0.6 < wrong < 0.85  # 0.72 in the mean


def test_the_transition_is_the_one_drawn_from(even: Source) -> None:
    splits = split(Data(bias=Bias(noise="flip", rate=1.0)), 0, even)
    assert torch.equal(splits.transition.argmax(1)[splits.train.true], splits.train.observed)


def test_a_limited_training_set_is_balanced_and_an_ample_limit_is_none(digits: Source) -> None:
    splits = split(Data(num_meta=0, num_train=205), 0, digits)
    assert len(splits.train) == 205
    assert set(_sizes(splits.train)) == {20, 21}
    assert len(split(Data(num_meta=0, num_train=5000), 0, digits).train) == 1297


def test_a_limited_test_set_is_balanced_and_does_not_depend_on_the_seed(even: Source) -> None:
    first, other = (split(Data(num_test=35), seed, even).test for seed in (0, 1))
    assert torch.equal(first.index, other.index)
    assert set(_sizes(first)) == {3, 4}
    assert len(split(Data(num_test=5000), 0, even).test) == 200


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Data(num_meta=601), r"data\.num_meta: 601 .* need 61 of each class, and class 'a' has 60 left; at most 600"),
        (Data(num_meta=100, num_validation=501), r"data\.num_validation: 501 .* has 50 left; at most 500"),
        (Data(num_meta=300, num_validation=300), r"data\.num_meta, data\.num_validation: 300 .* fewer than 600"),
        (Data(num_train=9), r"data\.num_train: 9 "),
        (Data(num_meta=0, bias=Bias(imbalance=61)), r"data\.bias\.imbalance: 61 .* at most 60"),
        (Data(bias=Bias(noise="hierarchical", rate=0.1)), r"data\.bias\.noise: 'hierarchical' needs superclasses"),
    ],
)
def test_impossible_sizes_name_their_field_and_what_would_do(even: Source, data: Data, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        split(data, 0, even)


def test_the_largest_sizes_named_in_the_messages_work(even: Source) -> None:
    assert len(split(Data(num_meta=590, num_validation=0), 0, even).train) == 10
    assert _sizes(split(Data(num_meta=0, bias=Bias(imbalance=60)), 0, even).train)[-1] == 1


def test_balanced_takes_what_there_is() -> None:
    available = torch.tensor([3, 10, 10, 0])
    assert balanced(15, available, rng(0)).tolist() == [3, 6, 6, 0]
    assert balanced(99, available, rng(0)).tolist() == [3, 10, 10, 0]
    assert sorted(balanced(16, available, rng(0)).tolist()) == [0, 3, 6, 7]
    assert balanced(0, available, rng(0)).tolist() == [0, 0, 0, 0]
    for seed in range(10):
        assert sorted(balanced(21, torch.tensor([5, 5, 10, 10]), rng(seed))[2:].tolist()) == [5, 6]

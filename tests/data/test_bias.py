"""Long tails against the sizes of the paper's code, noise against its probabilities."""

from __future__ import annotations

import pytest
import torch

from mwray.config import ConfigError
from mwray.data import bias as biases
from mwray.data.classes import CIFAR100_SUPERCLASS
from mwray.data.settings import Bias
from mwray.seeding import rng

IMBALANCES = [200, 100, 50, 20, 10]


def test_cifar10_tail_of_100_has_the_sizes_of_the_papers_code() -> None:
    assert biases.tail_counts(4990, 100, 10) == [4990, 2991, 1793, 1075, 644, 386, 231, 138, 83, 49]


@pytest.mark.parametrize(
    ("largest", "num_classes", "totals"),
    [
        (4990, 10, [11177, 12380, 13967, 16989, 20391]),
        (490, 100, [9304, 10626, 12354, 15594, 19183]),
        (5000, 10, [11203, 12406, 13996, 17023, 20431]),  # Cui et al., CVPR 2019
        (500, 100, [9502, 10847, 12608, 15907, 19573]),
    ],
)
def test_tails_have_the_known_totals(largest: int, num_classes: int, totals: list[int]) -> None:
    assert [sum(biases.tail_counts(largest, factor, num_classes)) for factor in IMBALANCES] == totals


def test_tail_of_1_keeps_all_and_one_class_has_no_tail() -> None:
    assert biases.tail_counts(4990, 1, 10) == [4990] * 10
    assert biases.tail_counts(7, 10, 1) == [7]


def test_rounding_never_loses_an_image() -> None:
    assert int(49 * (1 / 49)) == 0  # what floating point makes of one image
    assert all(biases.tail_counts(largest, largest, 10)[-1] == 1 for largest in range(1, 500))


def test_long_tail_keeps_a_random_subset_of_the_right_size() -> None:
    labels = torch.arange(10).repeat(50)
    kept = biases.long_tail(labels, 10, 10, rng(0, "tail"))
    assert torch.bincount(labels[kept]).tolist() == biases.tail_counts(50, 10, 10)
    assert torch.equal(kept, kept.unique())
    assert torch.equal(kept, biases.long_tail(labels, 10, 10, rng(0, "tail")))
    assert not torch.equal(kept, biases.long_tail(labels, 10, 10, rng(1, "tail")))


def test_long_tail_of_unequal_classes_starts_from_the_smallest(caplog: pytest.LogCaptureFixture) -> None:
    labels = torch.tensor([0] * 40 + [1] * 30 + [2] * 20)
    with caplog.at_level("INFO"):
        kept = biases.long_tail(labels, 4, 3, rng(0))
    assert torch.bincount(labels[kept]).tolist() == [20, 10, 5]
    assert "the long tail starts from 20" in caplog.text


def test_long_tail_that_empties_a_class_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.bias\.imbalance: 100 leaves no sample of class 8.* 50; at most 50"):
        biases.long_tail(torch.arange(10).repeat(50), 100, 10, rng(0))


@pytest.mark.parametrize("noise", ["uniform", "flip", "flip2", "hierarchical"])
@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
def test_transitions_are_probabilities(noise: str, rate: float) -> None:
    matrix = biases.transition(Bias(noise=noise, rate=rate), 100, rng(0), CIFAR100_SUPERCLASS)  # type: ignore[arg-type]
    assert matrix.dtype == torch.float64
    assert bool((matrix >= 0).all())
    torch.testing.assert_close(matrix.sum(1), torch.ones(100, dtype=torch.float64))


def test_no_noise_is_the_identity() -> None:
    assert torch.equal(biases.transition(Bias(), 4, rng(0)), torch.eye(4, dtype=torch.float64))


def test_uniform_may_keep_the_true_class_unless_told_otherwise() -> None:
    matrix = biases.uniform(10, 0.4)
    assert matrix[3, 3].item() == pytest.approx(0.64)  # 36 % wrong: 0.4 * 9 / 10
    assert matrix[3, 4].item() == pytest.approx(0.04)
    matrix = biases.uniform(10, 0.4, exclude_true=True)
    assert matrix[3, 3].item() == pytest.approx(0.6)
    assert matrix[3, 4].item() == pytest.approx(0.4 / 9)


@pytest.mark.parametrize(("targets", "share"), [(1, 0.4), (2, 0.2)])
def test_flip_has_so_many_distinct_other_targets(targets: int, share: float) -> None:
    for seed in range(20):
        matrix = biases.flip(10, 0.4, rng(seed), targets=targets)
        torch.testing.assert_close(matrix.diagonal(), torch.full((10,), 0.6, dtype=torch.float64))
        off = matrix.clone().fill_diagonal_(0)
        assert (off > 0).sum(1).tolist() == [targets] * 10
        torch.testing.assert_close(off[off > 0], torch.full((10 * targets,), share, dtype=torch.float64))


def test_flip_targets_are_uniform_over_the_other_classes() -> None:
    generator = rng(0)
    hits = sum((biases.flip(4, 1.0, generator, targets=1) for _ in range(900)), torch.zeros(4, 4))
    off = hits[~torch.eye(4, dtype=torch.bool)]
    assert hits.diagonal().sum() == 0
    assert bool(((off - 300).abs() < 5 * 300**0.5).all())


def test_hierarchical_stays_within_the_superclass() -> None:
    matrix = biases.hierarchical(CIFAR100_SUPERCLASS, 0.4)
    group = torch.tensor(CIFAR100_SUPERCLASS)
    same = group[:, None] == group[None, :]
    assert (matrix > 0).equal(same)
    assert matrix[0, 0].item() == pytest.approx(0.6)
    apple, pear = 0, 57
    assert matrix[apple, pear].item() == pytest.approx(0.1)


def test_impossible_noise_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"data\.bias\.noise: 'hierarchical' needs superclasses.*cifar100"):
        biases.transition(Bias(noise="hierarchical", rate=0.4), 10, rng(0))
    with pytest.raises(ConfigError, match="class 2 is alone"):
        biases.hierarchical((0, 0, 1), 0.4)
    with pytest.raises(ConfigError, match=r"'flip2' needs at least 3 classes, and there are 2"):
        biases.transition(Bias(noise="flip2", rate=0.4), 2, rng(0))
    with pytest.raises(ConfigError, match=r"'flip' needs at least 2"):
        biases.transition(Bias(noise="flip", rate=0.4), 1, rng(0))
    with pytest.raises(ConfigError, match=r"'uniform' needs at least 2"):
        biases.transition(Bias(noise="uniform", rate=0.4, exclude_true=True), 1, rng(0))


@pytest.mark.parametrize("noise", ["uniform", "flip", "flip2", "hierarchical"])
def test_corrupt_draws_with_the_probabilities_of_the_transition(noise: str) -> None:
    superclass = (0, 0, 1, 1, 1)
    matrix = biases.transition(Bias(noise=noise, rate=0.5), 5, rng(0), superclass)  # type: ignore[arg-type]
    each = 20_000
    labels = torch.arange(5).repeat(each)
    observed = biases.corrupt(labels, matrix, rng(1))
    counts = torch.bincount(labels * 5 + observed, minlength=25).reshape(5, 5).double()
    spread = (each * matrix * (1 - matrix)).sqrt()
    assert bool(((counts - each * matrix).abs() <= 5 * spread).all())


def test_corrupt_at_the_ends() -> None:
    labels = torch.arange(10).repeat(200)
    assert torch.equal(biases.corrupt(labels, biases.uniform(10, 0.0), rng(0)), labels)
    flipped = biases.corrupt(labels, biases.flip(10, 1.0, rng(0), targets=1), rng(1))
    assert not bool((flipped == labels).any())
    other = biases.corrupt(labels, biases.uniform(10, 1.0, exclude_true=True), rng(0))
    assert not bool((other == labels).any())
    assert biases.corrupt(labels[:0], biases.uniform(10, 0.5), rng(0)).shape == (0,)


def test_corrupt_draws_each_label_on_its_own() -> None:
    labels = torch.arange(10).repeat(20)
    whole = biases.corrupt(labels, biases.uniform(10, 0.5), rng(0))
    assert torch.equal(biases.corrupt(labels[:50], biases.uniform(10, 0.5), rng(0)), whole[:50])
    assert not torch.equal(biases.corrupt(labels, biases.uniform(10, 0.5), rng(1)), whole)


def test_corrupt_refuses_what_is_no_transition() -> None:
    labels = torch.arange(3)
    with pytest.raises(ValueError, match="sum to one"):
        biases.corrupt(labels, 2 * torch.eye(3, dtype=torch.float64), rng(0))
    with pytest.raises(ValueError, match="square"):
        biases.corrupt(labels, torch.ones(3, 2, dtype=torch.float64), rng(0))


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="noise is 'none'"):
        Bias(rate=0.4)
    with pytest.raises(ValueError, match="exclude_true is for uniform noise only"):
        Bias(noise="flip", rate=0.4, exclude_true=True)

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix
from torch import Tensor
from torch.nn import functional as F

from mwray.data.loader import Batch
from mwray.train.evaluate import evaluate, summarise, weight_auc

NUM_CLASSES = 4


class Images:
    """Images whose pixels are their logits."""

    def __init__(self, logits: Tensor, y: Tensor) -> None:
        self.logits, self.y = logits, y

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        for index in torch.arange(len(self.y)).split(batch_size) if len(self.y) else ():
            yield Batch(self.logits[index, :, None, None], self.y[index], index)


@pytest.fixture
def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    return Images(torch.randn(103, NUM_CLASSES, generator=generator), torch.randint(0, 3, (103,), generator=generator))


def flat(x: Tensor) -> Tensor:
    return x.flatten(1)


def test_numbers_are_those_of_independent_code(images: Images) -> None:
    result = evaluate(flat, images, NUM_CLASSES, batch_size=10)
    guess = images.logits.argmax(1)
    assert result.accuracy == pytest.approx((guess == images.y).double().mean().item(), abs=1e-12)
    assert result.loss == pytest.approx(F.cross_entropy(images.logits.double(), images.y).item(), rel=1e-6)
    expected = confusion_matrix(images.y, guess, labels=range(NUM_CLASSES))  # rows true; class 3 has no images
    np.testing.assert_array_equal(result.confusion, expected)
    assert result.confusion.dtype.kind == "i"


@pytest.mark.parametrize("batch_size", [1, 7, 103, 1000])
def test_batch_size_changes_nothing(images: Images, batch_size: int) -> None:
    """A short last batch must not count as a whole one."""
    whole, split = (evaluate(flat, images, NUM_CLASSES, batch_size=size) for size in (103, batch_size))
    assert split.accuracy == whole.accuracy
    assert split.loss == pytest.approx(whole.loss, rel=1e-6)
    np.testing.assert_array_equal(split.confusion, whole.confusion)


def test_no_graph_is_built(images: Images) -> None:
    layer = torch.nn.Linear(NUM_CLASSES, NUM_CLASSES)
    made: list[bool] = []

    def predict(x: Tensor) -> Tensor:
        logits: Tensor = layer(x.flatten(1))
        made.append(logits.requires_grad)
        return logits

    evaluate(predict, images, NUM_CLASSES)
    assert made == [False]


def test_half_precision_logits_are_summed_in_full(images: Images) -> None:
    result = evaluate(lambda x: flat(x).bfloat16(), images, NUM_CLASSES, batch_size=103)
    expected = F.cross_entropy(images.logits.bfloat16().double(), images.y).item()
    assert result.loss == pytest.approx(expected, rel=1e-6)


def test_nothing_to_evaluate_is_refused() -> None:
    nothing = Images(torch.zeros(0, NUM_CLASSES), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="no samples to evaluate on"):
        evaluate(flat, nothing, NUM_CLASSES)


@pytest.mark.parametrize("predict", [lambda x: x, lambda x: flat(x)[:, :3]])
def test_logits_of_another_shape_are_refused(images: Images, predict: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"\[103, 4\] is needed"):
        evaluate(predict, images, NUM_CLASSES)


# --- weight_auc ------------------------------------------------------------------------------------------------------


def over_pairs(weights: np.ndarray, clean: np.ndarray) -> float:
    """The definition: over all pairs of a wrong and a right label."""
    pairs = itertools.product(weights[~clean], weights[clean])
    return float(np.mean([1.0 if wrong < right else 0.5 if wrong == right else 0.0 for wrong, right in pairs]))


@pytest.mark.parametrize("seed", range(8))
def test_auc_is_the_share_of_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 6, 60) / 7  # many ties
    clean = rng.random(60) < 0.6
    assert weight_auc(weights.astype(np.float32), clean) == pytest.approx(over_pairs(weights, clean), abs=1e-12)


def test_auc_leaves_out_what_was_not_visited() -> None:
    weights = np.array([0.1, np.nan, 0.9, 0.2, np.nan])
    clean = np.array([False, False, True, True, True])
    assert weight_auc(weights, clean) == 1.0


@pytest.mark.parametrize(
    ("weights", "clean", "expected"),
    [
        ([1.0, 1.0, 1.0], [True, False, True], 0.5),
        ([0.9, 0.1], [False, True], 0.0),
        ([0.9, 0.1], [True, True], None),
        ([0.9, 0.1], [False, False], None),
        ([0.9, np.nan], [True, False], None),
        ([np.nan, np.nan], [True, False], None),
        ([], [], None),
    ],
)
def test_auc_at_the_edges(weights: list[float], clean: list[bool], expected: float | None) -> None:
    assert weight_auc(np.array(weights), np.array(clean, dtype=bool)) == expected


# --- summarise -------------------------------------------------------------------------------------------------------


def test_summary_by_hand() -> None:
    test = [0.10, 0.80, 0.70, 0.60, 0.50, 0.40, 0.30]
    validation = [0.20, 0.70, 0.90, 0.90, 0.60, 0.50, 0.40]
    records = [
        {"epoch": i + 1, "test.accuracy": t, "validation.accuracy": v, "seconds": 2.0}
        for i, (t, v) in enumerate(zip(test, validation, strict=True))
    ]
    summary = summarise(records)
    assert summary.pop("test.last5") == pytest.approx((0.70 + 0.60 + 0.50 + 0.40 + 0.30) / 5)
    assert summary == {
        "epochs": 7,
        "validation.last": 0.40,
        "validation.best": 0.90,
        "test.last": 0.30,
        "test.best": 0.80,
        "test.at_best_validation": 0.70,  # the first of two epochs with the best validation accuracy
        "seconds": 14.0,
    }


def test_summary_without_validation_says_nothing_of_it() -> None:
    summary = summarise([{"test.accuracy": 0.5, "seconds": 1.0}, {"test.accuracy": 0.7, "seconds": 1.0}])
    assert set(summary) == {"epochs", "test.last", "test.best", "test.last5", "seconds"}
    assert summary["test.last5"] == pytest.approx(0.6)


def test_summary_of_epochs_that_were_not_all_measured() -> None:
    summary = summarise([{"test.accuracy": 0.5}, {"test.accuracy": 0.7}, {"train.loss": 1.0}])
    assert (summary["epochs"], summary["test.last"]) == (3, 0.7)


def test_summary_of_nothing() -> None:
    assert summarise([]) == {"epochs": 0, "seconds": 0.0}

"""Numbers of a run: accuracy, loss and confusion on a set; how well weights find wrong labels; the summary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from mwray.data.loader import Batch
from mwray.methods.base import Method


class InOrder(Protocol):
    """The part of `mwray.data.loader.Loader` that an evaluation needs."""

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Every image once, not augmented, in the order of the set."""


@dataclass(frozen=True)
class Evaluation:
    """What a classifier does on one set."""

    accuracy: float
    """Share of images whose largest logit is their class, 0..1."""
    loss: float
    """Mean cross-entropy over images, in nats."""
    confusion: NDArray[np.int64]
    """[C, C] counts of images: rows are the labels of the set, columns the predictions."""


@torch.no_grad()
def evaluate(
    predict: Callable[[Tensor], Tensor], loader: InOrder, num_classes: int, batch_size: int = 1000
) -> Evaluation:
    """Measure `predict` on every image of `loader`; the device is waited for once, at the end.

    Args:
        predict: images [B, channels, H, W] to logits [B, C], in evaluation mode.
        loader: yields the images in order; its labels are taken for the truth.
        num_classes: C.
        batch_size: images at a time; changes memory and speed only.

    Raises:
        ValueError: there are no images, or the logits are not [B, C].
    """
    counts: Tensor | None = None
    for batch in loader.in_order(batch_size):
        logits = predict(batch.x)
        if logits.shape != (len(batch.y), num_classes):
            raise ValueError(
                f"predict gave logits of shape {list(logits.shape)} for {len(batch.y)} samples of {num_classes} "
                f"classes; [{len(batch.y)}, {num_classes}] is needed"
            )
        batch_counts = _counts(logits, batch.y)
        counts = batch_counts if counts is None else counts + batch_counts
    if counts is None:
        raise ValueError("there are no samples to evaluate on: num_validation or num_test of the data is 0")
    *cells, loss = counts.tolist()  # the one transfer to the host
    confusion = np.array(cells, dtype=np.int64).reshape(num_classes, num_classes)
    total = int(confusion.sum())
    return Evaluation(accuracy=float(np.trace(confusion)) / total, loss=loss / total, confusion=confusion)


def _counts(logits: Tensor, y: Tensor) -> Tensor:
    """Flat confusion matrix and the sum of losses, float64 [C * C + 1]: exact for counts below 2^53."""
    num_classes = logits.shape[1]
    cell = y * num_classes + logits.argmax(1)
    # index_add_ rather than bincount, which waits for the device to learn its size.
    confusion = torch.zeros(num_classes * num_classes, dtype=torch.float64, device=logits.device)
    confusion.index_add_(0, cell, torch.ones_like(cell, dtype=torch.float64))
    loss = F.cross_entropy(logits.float(), y, reduction="none").sum(dtype=torch.float64)
    return torch.cat([confusion, loss[None]])


def weight_auc(weights: NDArray[np.floating[Any]], clean: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve of "low weight" as a detector of wrong labels.

    It is the probability that a wrongly labelled sample weighs less than a rightly labelled one, ties counted half:
    1 is perfect, 0.5 is chance.

    Args:
        weights: [N], any scale; NaN (not visited) is left out.
        clean: [N], whether the observed label is the true one.

    Returns:
        The area, or None where the weighted samples are all clean or all wrong.
    """
    weights, clean = np.asarray(weights), np.asarray(clean, dtype=bool)
    visited = ~np.isnan(weights)
    wrong = ~clean[visited]
    if wrong.all() or not wrong.any():
        return None
    return float(roc_auc_score(wrong, -weights[visited]))


def draw_curve(method: Method, device: torch.device, arrays: dict[str, np.ndarray]) -> None:
    """Add to `arrays` the weight function of the method, where it has one, over the losses that they hold."""
    curve = method.curve()
    if curve is None:
        return
    top = float(np.nanmax(arrays["sample.loss"]))
    losses = torch.linspace(0, 1, 200) ** 2 * top  # denser where losses are: near zero
    arrays["curve.loss"] = losses.numpy()
    arrays["curve.weight"] = curve(losses.to(device)).float().cpu().numpy()


def summarise(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a run came to, from the records of its epochs, in order. A key is absent where nothing was measured.

    Returns:
        "epochs"; "seconds" (all epochs); for validation and test accuracy ".last" (last epoch that measured it) and
        ".best" - on test that is an oracle, for no rule may look at test images; "test.last5" (mean of the last five
        epochs, or of all where they are fewer); "test.at_best_validation" (test accuracy of the first epoch with the
        best validation accuracy: the honest choice of an epoch).
    """
    summary: dict[str, Any] = {"epochs": len(records)}
    for name in ("validation", "test"):
        accuracies = [record[f"{name}.accuracy"] for record in records if f"{name}.accuracy" in record]
        if accuracies:
            summary |= {f"{name}.last": accuracies[-1], f"{name}.best": max(accuracies)}
            if name == "test":
                summary["test.last5"] = float(np.mean(accuracies[-5:]))
    both = [record for record in records if "validation.accuracy" in record and "test.accuracy" in record]
    if both:
        chosen = max(both, key=lambda record: record["validation.accuracy"])  # max keeps the first of equals
        summary["test.at_best_validation"] = chosen["test.accuracy"]
    summary["seconds"] = float(sum(record.get("seconds", 0.0) for record in records))
    return summary

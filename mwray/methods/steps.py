"""Steps that several methods take: on the biased labels alone, on clean images alone, on both together."""

from __future__ import annotations

import torch
from torch import Tensor

from mwray.data.loader import Batch
from mwray.meta.gradient import cross_entropy
from mwray.methods.base import Setup, Step
from mwray.methods.classifier import Classifier


def plain_step(classifier: Classifier, batch: Batch) -> Step:
    """BaseModel's step: along the gradient of the mean cross-entropy of the batch."""
    logits = classifier.forward(batch.x)
    losses = cross_entropy(logits, batch.y)
    classifier.descend(losses.mean())
    return Step(logits.detach(), losses.detach())


def clean_step(classifier: Classifier, batch: Batch, meta: Batch) -> Step:
    """A step on the clean batch alone; the training batch is only looked at, before it, in evaluation mode.

    The look costs one forward. It takes no part in training: running statistics are those of the clean images.
    """
    logits = classifier.predict(batch.x)
    meta_loss = cross_entropy(classifier.forward(meta.x), meta.y).mean()
    classifier.descend(meta_loss)
    return Step(logits, cross_entropy(logits, batch.y), None, {"meta_loss": meta_loss.detach()})


def both_forward(classifier: Classifier, batch: Batch, meta: Batch) -> tuple[Tensor, Tensor]:
    """Logits of a training batch [B, C] and a clean batch [m, C] from one forward, so under one batch norm."""
    training, clean = classifier.forward(torch.cat([batch.x, meta.x])).split([len(batch.x), len(meta.x)])
    return training, clean


def union_mean(setup: Setup, losses: Tensor, clean_losses: Tensor) -> Tensor:
    """Mean loss [] in which each image of the union of training and clean set counts the same, in expectation.

    Every step sees whole batches of both, [B] and [m], so a clean image comes more often than a training image by
    r = (m / M) / (B / N); dividing its loss by r makes up for it. Shuffling the two sets together, as published, has
    the same expectation and more noise, and would need batches that the loop does not draw.
    """
    share = len(setup.splits.meta) / len(setup.splits.train) * len(losses) / len(clean_losses)
    return (losses.sum() + share * clean_losses.sum()) / (len(losses) + share * len(clean_losses))

"""Training images outside the loop's own pass: for counts and estimates that a method makes between epochs."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from mwray.data.loader import Batch, Loader
from mwray.data.splits import Subset
from mwray.methods.base import Setup


def training_batches(setup: Setup, index: Tensor, batch_size: int) -> Iterator[Batch]:
    """The training images at `index` [n], not augmented, with observed labels, in batches of at most `batch_size`.

    Only the images asked for go to the device, a batch at a time: the loop holds a copy of the whole set there.
    """
    train, device = setup.splits.train, setup.worker.device
    for part in index.cpu().split(batch_size):
        chosen = Subset(train.images[part], train.observed[part], None, train.index[part])
        loader = Loader(chosen, setup.splits, device, augment=False)
        (batch,) = loader.in_order(len(part))
        yield Batch(x=batch.x, y=batch.y, index=part.to(device))

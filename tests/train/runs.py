"""A made-up run for the tests of sinks: what the loop would tell them, without training."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mwray.train.sinks import RunInfo, Sink

EXPERIMENT = {
    "data.source": "digits",
    "data.num_train": None,
    "data.augment": True,
    "optimizer.lr": 0.1,
    "optimizer.milestones": [30, 36],
    "batch_size": 100,
}
SUMMARY = {"epochs": 4, "test.last": 0.4, "test.best": 0.4, "test.last5": 0.25, "seconds": 8.0, "dropped_per_epoch": 3}


def info(folder: Path, first_epoch: int = 0, **settings: object) -> RunInfo:
    return RunInfo(
        folder=folder,
        experiment={**EXPERIMENT, **settings},
        epochs=4,
        steps_per_epoch=10,
        first_epoch=first_epoch,
        class_names=("cat", "dog"),
        name=folder.name,
    )


def values(epoch: int) -> dict[str, float]:
    return {
        "epoch": epoch,
        "lr": 0.1,
        "train.loss": 2.0 / epoch,
        "train.weight_auc": 0.9,
        "test.accuracy": epoch / 10,
        "method.temperature": 5.0,
        "seconds": 2.0,
        "images_per_second": 5000.0,
    }


def arrays(epoch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(epoch)
    losses = rng.exponential(1, 60).astype(np.float32)
    losses[0] = np.nan
    return {
        "sample.loss": losses,
        "sample.weight": np.exp(-losses * epoch),
        "sample.clean": losses < 1.5,
        "curve.loss": np.linspace(0, 5, 20, dtype=np.float32),
        "curve.weight": np.exp(-np.linspace(0, 5, 20, dtype=np.float32) * epoch),
        "confusion": np.array([[4, 1], [epoch, 5]]),
    }


def tell(sink: Sink, folder: Path, epochs: Iterable[int], finish: bool = True, arrays_of=arrays) -> None:
    """Tell `sink` of the finished epochs `epochs`, from 1, as the loop does."""
    epochs = list(epochs)
    sink.start(info(folder, epochs[0] - 1))
    try:
        for epoch in epochs:
            for step in range(1, 11):
                sink.step(epoch - 1, step)
            sink.write(epoch, values(epoch), arrays_of(epoch))
        if finish:
            sink.finish(SUMMARY)
    finally:
        sink.close()

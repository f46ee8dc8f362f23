"""The whole description of one training: what is in its fingerprint, and nothing else is."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from mwray.config import config
from mwray.data.settings import Data
from mwray.methods.settings import MethodSettings, MWNetSettings
from mwray.models.settings import Model
from mwray.optim import SGD, OptimizerSettings


@config
class Experiment:
    """Data, network, method, optimiser, lengths and seed. Same experiment, same folder, same bits."""

    data: Data = Data()
    model: Model = Model()
    method: MethodSettings = MWNetSettings()
    optimizer: OptimizerSettings = SGD()
    epochs: Annotated[int, Gt(0)] = 60
    batch_size: Annotated[int, Gt(0)] = 100
    """Training images per step, over all workers."""
    meta_batch_size: Annotated[int, Gt(0)] = 100
    """Meta images per step, over all workers; a smaller meta set is used whole in every step."""
    seed: Annotated[int, Ge(0)] = 0
    """Split, noise, initialisation, order and augmentation each draw from a generator of their own keyed by it."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """tf32, on a GPU of Ampere's generation or later, multiplies matrices and convolutions with 10-bit mantissas. bf16,
    anywhere, computes activations in bfloat16; weights, losses and statistics stay float32."""

    def __post_init__(self) -> None:
        if self.optimizer.warm_up >= self.epochs > 0:
            raise ValueError(
                f"optimizer.warm_up: {self.optimizer.warm_up} epochs of rising learning rate leave none of "
                f"epochs={self.epochs} at the full one; give fewer of them, or more epochs"
            )

    def learning_rate(self, epoch: int) -> float:
        """Learning rate of the classifier during `epoch` (counted from 0)."""
        return self.optimizer.learning_rate(epoch, self.epochs)


def warn_of_milestones(experiments: Iterable[Experiment]) -> None:
    """Say, once for each text, which drops of the learning rate lie beyond the last epoch.

    A shorter `epochs` leaves them where they are.
    """
    texts = (experiment.optimizer.unreached(experiment.epochs) for experiment in experiments)
    for text in dict.fromkeys(text for text in texts if text):
        logging.getLogger("mwray").warning(text)

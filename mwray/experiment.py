"""The whole description of one training: what is in its fingerprint, and nothing else is."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt

from mwray.config import config
from mwray.data.settings import Data
from mwray.methods.settings import MethodSettings, MWNetSettings
from mwray.models.settings import Model
from mwray.optim import Optimizer


@config
class Experiment:
    """Data, network, method, optimiser, lengths and seed. Same experiment, same folder, same bits."""

    data: Data = Data()
    model: Model = Model()
    method: MethodSettings = MWNetSettings()
    optimizer: Optimizer = Optimizer()
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

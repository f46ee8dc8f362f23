"""BaseModel: cross-entropy on the biased labels, every sample counting the same (the paper's first row)."""

from __future__ import annotations

from typing import final

from mwray.data.loader import Batch
from mwray.methods.base import Setup, Step
from mwray.methods.one_network import OneNetwork
from mwray.methods.settings import BaseModelSettings
from mwray.methods.steps import plain_step


@final
class BaseModel(OneNetwork):
    """Plain training. It never looks at the meta images, and is not given them: they stay held out, as for all."""

    def __init__(self, settings: BaseModelSettings, setup: Setup) -> None:
        super().__init__(setup)

    def update(self, batch: Batch, meta: Batch | None) -> Step:
        """Step along the gradient of the mean cross-entropy of the batch."""
        return plain_step(self.classifier, batch)

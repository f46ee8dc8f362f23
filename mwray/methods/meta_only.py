"""Meta-only: plain training on the clean meta images alone (Shu et al. 2019, section 4.2: "evidently worse")."""

from __future__ import annotations

from typing import final

from mwray.data.loader import Batch
from mwray.methods.base import Setup, Step
from mwray.methods.one_network import OneNetwork
from mwray.methods.settings import MetaOnlySettings
from mwray.methods.steps import clean_step


@final
class MetaOnly(OneNetwork):
    """As many steps as BaseModel takes, each on a meta batch: what the clean images are worth without the others.

    The paper gives no number and no schedule; here it is the experiment's. The training batch is only looked at, for
    the losses that are reported.
    """

    needs_meta = True

    def __init__(self, settings: MetaOnlySettings, setup: Setup) -> None:
        super().__init__(setup)

    def update(self, batch: Batch, meta: Batch | None) -> Step:
        """Step along the gradient of the mean cross-entropy of the meta batch."""
        assert meta is not None
        return clean_step(self.classifier, batch, meta)

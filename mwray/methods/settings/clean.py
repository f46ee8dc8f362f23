"""Settings of the methods that also learn from a few clean images."""

from __future__ import annotations

from typing import Literal

from mwray.config import config
from mwray.meta.settings import MetaSettings, WeightNetSettings


@config
class MWNetSettings:
    """Meta-Weight-Net."""

    name: Literal["mwnet"] = "mwnet"
    weight_net: WeightNetSettings = WeightNetSettings()
    meta: MetaSettings = MetaSettings()

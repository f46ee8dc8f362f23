"""Settings of every method (no torch here: an experiment is checked before anything heavy loads)."""

from __future__ import annotations

from typing import Annotated, Literal

from mwray.config import config, tagged
from mwray.meta.settings import MetaSettings, WeightNetSettings


@config
class BaseModelSettings:
    """Plain cross-entropy on the biased labels."""

    name: Literal["base"] = "base"


@config
class MWNetSettings:
    """Meta-Weight-Net."""

    name: Literal["mwnet"] = "mwnet"
    weight_net: WeightNetSettings = WeightNetSettings()
    meta: MetaSettings = MetaSettings()


MethodSettings = Annotated[BaseModelSettings | MWNetSettings, tagged]

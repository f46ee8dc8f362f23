"""Settings of every method (no torch here: an experiment is checked before anything heavy loads)."""

from __future__ import annotations

from typing import Annotated

from mwray.config import tagged
from mwray.methods.settings.clean import MWNetSettings
from mwray.methods.settings.plain import BaseModelSettings

MethodSettings = Annotated[BaseModelSettings | MWNetSettings, tagged]

__all__ = ["BaseModelSettings", "MWNetSettings", "MethodSettings"]

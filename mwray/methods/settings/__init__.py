"""Settings of every method (no torch here: an experiment is checked before anything heavy loads)."""

from __future__ import annotations

from typing import Annotated

from mwray.config import tagged
from mwray.methods.settings.clean import MWNetSettings
from mwray.methods.settings.plain import (
    BaseModelSettings,
    ClassBalancedSettings,
    CoTeachingSettings,
    D2LSettings,
    FocalSettings,
    ReedSettings,
    SelfPacedSettings,
    SModelSettings,
)

MethodSettings = Annotated[
    BaseModelSettings
    | FocalSettings
    | ClassBalancedSettings
    | ReedSettings
    | SModelSettings
    | SelfPacedSettings
    | CoTeachingSettings
    | D2LSettings
    | MWNetSettings,
    tagged,
]

__all__ = [
    "BaseModelSettings",
    "ClassBalancedSettings",
    "CoTeachingSettings",
    "D2LSettings",
    "FocalSettings",
    "MWNetSettings",
    "MethodSettings",
    "ReedSettings",
    "SModelSettings",
    "SelfPacedSettings",
]

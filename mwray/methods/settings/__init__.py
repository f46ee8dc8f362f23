"""Settings of every method (no torch here: an experiment is checked before anything heavy loads)."""

from __future__ import annotations

from typing import Annotated

from mwray.config import tagged
from mwray.methods.settings.clean import (
    FineTuningSettings,
    ForwardSettings,
    FrozenSettings,
    GLCSettings,
    L2RWSettings,
    MentorNetSettings,
    MetaOnlySettings,
    MWNetSettings,
)
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
    | ForwardSettings
    | FineTuningSettings
    | MetaOnlySettings
    | GLCSettings
    | MentorNetSettings
    | L2RWSettings
    | MWNetSettings
    | FrozenSettings,
    tagged,
]

__all__ = [
    "BaseModelSettings",
    "ClassBalancedSettings",
    "CoTeachingSettings",
    "D2LSettings",
    "FineTuningSettings",
    "FocalSettings",
    "ForwardSettings",
    "FrozenSettings",
    "GLCSettings",
    "L2RWSettings",
    "MWNetSettings",
    "MentorNetSettings",
    "MetaOnlySettings",
    "MethodSettings",
    "ReedSettings",
    "SModelSettings",
    "SelfPacedSettings",
]

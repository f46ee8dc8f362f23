"""Which class carries out which settings: a written-out table, and the only place that builds a method."""

from __future__ import annotations

from typing import Any

from mwray.config import ConfigError
from mwray.methods.base import Method, Setup
from mwray.methods.base_model import BaseModel
from mwray.methods.class_balanced import ClassBalanced
from mwray.methods.co_teaching import CoTeaching
from mwray.methods.d2l import D2L
from mwray.methods.fine_tuning import FineTuning
from mwray.methods.focal import Focal
from mwray.methods.forward import Forward
from mwray.methods.frozen import Frozen
from mwray.methods.glc import GLC
from mwray.methods.l2rw import L2RW
from mwray.methods.mentornet import MentorNet
from mwray.methods.meta_only import MetaOnly
from mwray.methods.mwnet import MWNet
from mwray.methods.reed import Reed
from mwray.methods.s_model import SModel
from mwray.methods.self_paced import SelfPaced

METHODS: dict[str, Any] = {
    "base": BaseModel,
    "focal": Focal,
    "class-balanced": ClassBalanced,
    "reed": Reed,
    "s-model": SModel,
    "self-paced": SelfPaced,
    "co-teaching": CoTeaching,
    "d2l": D2L,
    "forward": Forward,
    "fine-tuning": FineTuning,
    "meta-only": MetaOnly,
    "glc": GLC,
    "mentornet": MentorNet,
    "l2rw": L2RW,
    "mwnet": MWNet,
    "frozen": Frozen,
}


def build(settings: Any, setup: Setup) -> Method:
    """Build the method that `settings` describe.

    Raises:
        ConfigError: the method needs meta images and the experiment holds none out.
    """
    method = METHODS[settings.name]
    if method.needs_meta and len(setup.splits.meta) == 0:
        raise ConfigError(
            f"data.num_meta: method {settings.name!r} learns from clean meta images and 0 are held out; "
            f"set data.num_meta to {10 * setup.splits.num_classes} or more, or method.name=base"
        )
    built: Method = method(settings, setup)
    return built

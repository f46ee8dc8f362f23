"""Which class carries out which settings: a written-out table, and the only place that builds a method."""

from __future__ import annotations

import logging
from typing import Any

import torch

from mwray.config import ConfigError
from mwray.data.splits import Splits
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

logger = logging.getLogger("mwray")

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
    """Build the method that `settings` describe; a warning names classes that its meta images leave out.

    Raises:
        ConfigError: the method needs meta images and the experiment holds none out.
    """
    method = METHODS[settings.name]
    if method.needs_meta and len(setup.splits.meta) == 0:
        raise ConfigError(
            f"data.num_meta: method {settings.name!r} learns from clean meta samples and 0 are held out; "
            f"set data.num_meta to {10 * setup.splits.num_classes} or more, or method.name=base"
        )
    built: Method = method(settings, setup)
    if built.needs_meta and setup.worker.rank == 0:
        _warn_of_classes_without_meta_images(setup.splits)
    return built


def _warn_of_classes_without_meta_images(splits: Splits) -> None:
    counts = torch.bincount(splits.meta.observed, minlength=splits.num_classes)
    missing = [splits.class_names[place] for place in (counts == 0).nonzero().flatten().tolist()]
    if missing:
        named = ", ".join(map(repr, missing[:3])) + (", ..." if len(missing) > 3 else "")
        logger.warning(
            f"data.num_meta: {len(splits.meta)} clean samples leave {len(missing)} of {splits.num_classes} classes "
            f"without any ({named}), and nothing is learned from them of these; set it to {splits.num_classes} or more"
        )

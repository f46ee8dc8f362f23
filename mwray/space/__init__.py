"""Search spaces: read from YAML and checked against the tree of settings before Ray, Optuna or torch is imported."""

from __future__ import annotations

from mwray.space.ranges import Choice, FloatRange, IntRange, Range
from mwray.space.reader import load
from mwray.space.settings import Asha, Median, Pruner
from mwray.space.space import Space, build

__all__ = ["Asha", "Choice", "FloatRange", "IntRange", "Median", "Pruner", "Range", "Space", "build", "load"]

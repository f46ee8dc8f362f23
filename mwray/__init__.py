"""mwray: train classifiers on wrong or lopsided labels with Meta-Weight-Net and its rivals.

`mwray.Classifier` trains on arrays in memory, by scikit-learn's interface; `from mwray import MetaWeightNet` is the
method alone, for a training loop of your own; `mwray.load(folder)` is the classifier of a run. Everything else starts
from the command line (`mwray --help`) or from `mwray.train.loop.train`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mwray.estimator import Classifier
    from mwray.meta.step import MetaWeightNet
    from mwray.train.classifier import load

__version__ = "0.1.0"
__all__ = ["Classifier", "MetaWeightNet", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import torch only when the heart is asked for: settings, records and reports must start in a blink."""
    if name == "Classifier":
        from mwray.estimator import Classifier

        return Classifier
    if name == "MetaWeightNet":
        from mwray.meta.step import MetaWeightNet

        return MetaWeightNet
    if name == "load":
        from mwray.train.classifier import load

        return load
    raise AttributeError(f"module 'mwray' has no attribute {name!r}")


def __dir__() -> list[str]:
    """With what is not imported yet: a notebook completes names by it."""
    return sorted({*globals(), *__all__})

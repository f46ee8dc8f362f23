"""Biases put on purpose into clean labels: long tails and four kinds of label noise, as pure functions."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le

from mwray.config import config


@config
class Bias:
    """What is wrong with the training labels. A long tail and noise can be combined: the tail is cut first."""

    imbalance: Annotated[float, Ge(1)] = 1.0
    """Images of the largest class over images of the smallest (methods: n_i = int(n_max * imbalance^(-i/(C-1))))."""
    noise: Literal["none", "uniform", "flip", "flip2", "hierarchical"] = "none"
    """Where a wrong label goes: any class, one other class, two other classes, the other classes of its superclass."""
    rate: Annotated[float, Ge(0), Le(1)] = 0.0
    """Probability that a label is drawn anew."""
    exclude_true: bool = False
    """Uniform noise only: never draw the true class (the paper's code may: its true error rate is rate * (C-1)/C)."""

    def __post_init__(self) -> None:
        if self.noise == "none" and self.rate > 0:
            raise ValueError(
                f"rate is {self.rate} but noise is 'none'; choose noise='uniform', 'flip', 'flip2' or 'hierarchical'"
            )
        if self.exclude_true and self.noise != "uniform":
            raise ValueError(f"exclude_true is for uniform noise only, and noise is {self.noise!r}")

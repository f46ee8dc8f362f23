"""What a search space's file holds, read strictly; `mwray.space.space` checks it against the recipe that it names."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Len

from mwray.config import config

METRICS = {"validation.accuracy": "max", "validation.loss": "min", "train.meta_loss": "min"}
"""What may be optimised, and which way is better. No test image chooses anything; the meta loss is there for a search
without validation images, and flatters trials that fit their meta set closely."""


@config
class Asha:
    """Asynchronous successive halving (Li et al., MLSys 2020): at each rung only the best 1/factor go on."""

    grace_period: Annotated[int, Ge(1)] | None = None
    """Epochs before the first rung; None: a third of the run (`Space.grace_period` says why)."""
    reduction_factor: Annotated[int, Ge(2)] = 3


@config
class Median:
    """Median stopping (Golovin et al., KDD 2017): stop below the median of what others had at the same epoch."""

    grace_period: Annotated[int, Ge(1)] | None = None
    min_trials: Annotated[int, Ge(1)] = 4
    """Finished trials before the first comparison."""


@config
class Pruner:
    """At most one way to stop hopeless trials early; none by default."""

    asha: Asha | None = None
    median: Median | None = None

    def __post_init__(self) -> None:
        if self.asha and self.median:
            raise ValueError("asha and median are both given; choose one")

    @property
    def any(self) -> bool:
        """Whether trials may be stopped early."""
        return self.asha is not None or self.median is not None


@config
class SpaceFile:
    """One file under search_spaces/."""

    recipe: str
    set: dict[str, Any] = field(default_factory=dict)
    """Fixed fields by dotted name."""
    search: Annotated[dict[str, dict[str, Any]], Len(1)]
    """Searched fields by dotted name, each with its range."""
    start: tuple[dict[str, Any], ...] = ()
    """Points tried first, in this order."""
    metric: str = "validation.accuracy"
    mode: Literal["max", "min"] | None = None
    """None: the way that is better for the metric."""
    trials: Annotated[int, Ge(1)] | None = None
    """How many points are tried; None is for a grid: all of it."""
    seeds: Annotated[int, Ge(1)] = 1
    """Trainings of each point: at the recipe's seed, the next one, and so on. What counts is their mean."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the draws; the seed of the trainings is the experiment's field `seed`."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    pruner: Pruner = Pruner()

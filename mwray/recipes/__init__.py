"""Recipes: functions that return a whole experiment, derived from one another in a few lines."""

from __future__ import annotations

from collections.abc import Callable

from mwray.config import ConfigError, nearest
from mwray.experiment import Experiment
from mwray.recipes import digits, noise, own, paper

RECIPES: dict[str, Callable[[], Experiment]] = {
    "digits": digits.uniform,
    "digits-uniform60": digits.uniform60,
    "digits-flip": digits.flip,
    "digits-longtail": digits.longtail,
    "cifar10-uniform": noise.cifar10_uniform,
    "cifar10-flip": noise.cifar10_flip,
    "cifar10-longtail": noise.cifar10_longtail,
    "cifar100-uniform": noise.cifar100_uniform,
    "cifar100-flip": noise.cifar100_flip,
    "cifar100-longtail": noise.cifar100_longtail,
    "cifar10-flip-small": noise.cifar10_flip_small,
    "cifar10-uniform-small": noise.cifar10_uniform_small,
    "fashion-flip": noise.fashion_flip,
    "own": own.own,
    "pictures": own.pictures,
    "vectors": own.vectors,
    "paper": paper.paper,
    "official_pgc": paper.official_pgc,
    "official_stable": paper.official_stable,
    "official_lt": paper.official_lt,
}


def recipe(name: str) -> Experiment:
    """Return the experiment called `name`.

    Raises:
        ConfigError: there is none of that name; names the nearest.
    """
    if name not in RECIPES:
        raise ConfigError(
            f"recipe {name!r} is not known.{nearest(name, list(RECIPES))} Known: {', '.join(sorted(RECIPES))}"
        )
    return RECIPES[name]()

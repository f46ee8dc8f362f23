"""The values that a searched field may take: one of some choices, a real interval, an integer interval."""

from __future__ import annotations

import json
import math
from dataclasses import field
from typing import Annotated, Any

from annotated_types import Gt, Len

from mwray.config import config

# Names of their own, for the fields below are called like the built-in types.
Real = float
Whole = int
When = dict[str, Annotated[tuple[Any, ...], Len(1)]]


def same(a: Any, b: Any) -> bool:
    """Whether two plain values are equal, where 1, 1.0 and True are three different ones."""
    return json.dumps(a) == json.dumps(b)


@config
class Choice:
    """One of the listed values: numbers, text, true or false, null, or lists of them (milestones)."""

    choice: Annotated[tuple[Any, ...], Len(1)]
    when: When = field(default_factory=dict)
    """Other searched fields and the values of each under which this one is searched; otherwise it is left alone."""

    def __post_init__(self) -> None:
        texts = [json.dumps(value) for value in self.choice]
        repeated = [text for text in texts if texts.count(text) > 1]
        if repeated:
            raise ValueError(f"choice lists {repeated[0]} more than once")

    def edges(self) -> list[Any]:
        """Every choice: each must be a value that the field takes."""
        return list(self.choice)

    def contains(self, value: Any) -> bool:
        """Whether `value` is one of the choices."""
        return any(same(value, choice) for choice in self.choice)

    def count(self) -> int | None:
        """How many values there are."""
        return len(self.choice)

    def grid(self) -> list[Any]:
        """All values, as listed."""
        return list(self.choice)

    def __str__(self) -> str:
        return f"one of {json.dumps(list(self.choice))}"


@config
class FloatRange:
    """A real number between two ends, both included; `log` spreads the draws evenly over magnitudes."""

    float: tuple[Real, Real]
    log: bool = False
    step: Annotated[Real, Gt(0)] | None = None
    when: When = field(default_factory=dict)

    def __post_init__(self) -> None:
        low, high = self.float
        _check_ends("float", low, high, self.log, self.step)
        if self.step is not None and not math.isclose(round((high - low) / self.step) * self.step, high - low):
            raise ValueError(f"steps of {self.step} from {low} do not meet {high}")

    def edges(self) -> list[Any]:
        """Both ends."""
        return list(self.float)

    def contains(self, value: Any) -> bool:
        """Whether `value` lies between the ends, and on a step where there are steps."""
        if isinstance(value, bool) or not isinstance(value, Real | Whole):
            return False
        low, high = self.float
        inside = low <= value <= high
        if not inside or self.step is None:
            return inside
        return any(math.isclose(value, point, rel_tol=1e-9, abs_tol=1e-12) for point in self.grid())

    def count(self) -> int | None:
        """How many values there are; None where there is no step: more than can be counted."""
        low, high = self.float
        return None if self.step is None else round((high - low) / self.step) + 1

    def grid(self) -> list[Any]:
        """All values, upwards; needs a step."""
        assert self.step is not None
        low, high = self.float
        steps = round((high - low) / self.step)
        return [low + (high - low) * k / steps for k in range(steps + 1)]

    def __str__(self) -> str:
        return f"{self.float[0]} to {self.float[1]}" + (f" in steps of {self.step}" if self.step is not None else "")


@config
class IntRange:
    """An integer between two ends, both included."""

    int: tuple[Whole, Whole]
    log: bool = False
    step: Annotated[Whole, Gt(0)] = 1
    when: When = field(default_factory=dict)

    def __post_init__(self) -> None:
        low, high = self.int
        _check_ends("int", low, high, self.log, self.step if self.step != 1 else None)
        if (high - low) % self.step:
            raise ValueError(f"steps of {self.step} from {low} do not meet {high}")

    def edges(self) -> list[Any]:
        """Both ends."""
        return list(self.int)

    def contains(self, value: Any) -> bool:
        """Whether `value` is an integer between the ends, and on a step."""
        if isinstance(value, bool) or not isinstance(value, Whole):
            return False
        low, high = self.int
        return low <= value <= high and (value - low) % self.step == 0

    def count(self) -> Whole | None:
        """How many values there are."""
        return (self.int[1] - self.int[0]) // self.step + 1

    def grid(self) -> list[Any]:
        """All values, upwards."""
        return list(range(self.int[0], self.int[1] + 1, self.step))

    def __str__(self) -> str:
        return f"the integers {self.int[0]} to {self.int[1]}" + (f" in steps of {self.step}" if self.step != 1 else "")


Range = Choice | FloatRange | IntRange
KINDS: dict[str, type[Choice] | type[FloatRange] | type[IntRange]] = {
    "choice": Choice,
    "float": FloatRange,
    "int": IntRange,
}


def _check_ends(kind: str, low: Real, high: Real, log: bool, step: Real | None) -> None:
    if low > high:
        raise ValueError(f"{kind}: [{low}, {high}] runs downwards; write [{high}, {low}]")
    if low == high:
        raise ValueError(f"{kind}: [{low}, {high}] is empty: there is nothing to search; fix the field under `set`")
    if log and low <= 0:
        raise ValueError(f"{kind}: [{low}, {high}] with log: true needs ends above 0")
    if log and step is not None:
        raise ValueError(f"{kind}: log: true and step: {step} exclude each other")

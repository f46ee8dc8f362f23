"""The contract of a sink: whoever wants to be told how a run goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mwray.config import leaves

if TYPE_CHECKING:
    from mwray.experiment import Experiment


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run before its first step."""

    folder: Path
    experiment: dict[str, Any]
    """Every setting by its dotted name."""
    epochs: int
    steps_per_epoch: int
    first_epoch: int
    """The epoch, counted from 0, at which this start begins: the number of finished epochs."""
    class_names: tuple[str, ...]
    name: str
    noun: str = "image"
    """What it trains on: "image" or "vector"."""

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        folder: Path,
        steps_per_epoch: int,
        first_epoch: int,
        class_names: tuple[str, ...],
        noun: str = "image",
    ) -> RunInfo:
        """Describe a run of `experiment` in `folder`; the folder's name is the run's."""
        return cls(
            folder=folder,
            experiment=leaves(experiment),
            epochs=experiment.epochs,
            steps_per_epoch=steps_per_epoch,
            first_epoch=first_epoch,
            class_names=class_names,
            name=folder.name,
            noun=noun,
        )


class Sink(Protocol):
    """Told by the loop, in this order: start, then step and write, then finish unless the run broke off, then close."""

    def start(self, run: RunInfo) -> None:
        """The run begins, or goes on at `run.first_epoch`."""

    def step(self, epoch: int, step: int) -> None:
        """One more optimisation step was launched. Called thousands of times: must cost next to nothing."""

    def write(self, epoch: int, values: Mapping[str, float], arrays: Mapping[str, np.ndarray]) -> None:
        """An epoch is measured; `epoch` is the number of finished epochs, from 1.

        Args:
            epoch: finished epochs.
            values: numbers by name; accuracies are fractions. Names may be absent, and methods add their own.
            arrays: any of "curve.loss" and "curve.weight" [K], "sample.loss", "sample.weight" and "sample.clean" [N]
                (weights NaN where a sample was not visited), "confusion" [C, C] (rows true, columns predicted).
        """

    def finish(self, summary: Mapping[str, Any]) -> None:
        """All epochs are trained; `summary` is that of `mwray.train.evaluate.summarise`."""

    def close(self) -> None:
        """Let go of terminal and files. Always called, also after an error or Ctrl-C, perhaps before `start`."""

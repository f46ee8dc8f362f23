"""A run of two phases, each of which goes through the experiment's whole schedule of learning rates in its own time."""

from __future__ import annotations

from dataclasses import dataclass

from mwray.config import ConfigError


@dataclass(frozen=True)
class Phases:
    """Epochs 0 .. first - 1 are the first phase and first .. total - 1 the second.

    The learning rate of an epoch is that which the experiment's schedule has as far through all of its epochs: a
    phase of 20 epochs in a run of 40 with a drop at 36 has its drop at 18. So a method of two phases costs no more
    epochs than one of a single phase, and each phase ends at the schedule's last rate. To give each phase the length
    that BaseModel has, give the run the sum of both and scale the milestones with it.
    """

    first: int
    total: int

    @classmethod
    def of(cls, first_epochs: int | None, default: float, total: int) -> Phases:
        """Phases whose first one takes `first_epochs` of `total`; None: the share `default`, rounded.

        Raises:
            ConfigError: a phase is left without an epoch.
        """
        first = max(round(default * total), 1) if first_epochs is None else first_epochs
        if first_epochs is None and total > 1:
            first = min(first, total - 1)
        if first >= total:
            raise ConfigError(
                f"method.first_epochs: {first} epochs for the first of two phases leave none of epochs={total} for the "
                f"second; {f'at most {total - 1} would do' if total > 1 else 'set epochs to 2 or more'}"
            )
        return cls(first=first, total=total)

    def second(self, epoch: int) -> bool:
        """Whether `epoch` (counted from 0) belongs to the second phase."""
        return epoch >= self.first

    def progress(self, epoch: int) -> float:
        """How far its phase is when `epoch` starts: 0 <= progress < 1."""
        start, end = self._bounds(epoch)
        return (epoch - start) / (end - start)

    def schedule_epoch(self, epoch: int) -> int:
        """The epoch of the experiment's schedule whose learning rate `epoch` has."""
        start, end = self._bounds(epoch)
        return (epoch - start) * self.total // (end - start)

    def _bounds(self, epoch: int) -> tuple[int, int]:
        return (self.first, self.total) if self.second(epoch) else (0, self.first)

"""The order in which Ray Tune starts trials: that in which they were given, and no process thrown away."""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import FIFOScheduler


class TuneScheduler(FIFOScheduler):
    """Ray Tune's question which of the waiting trials to start.

    Its own answer, the oldest one, may be a trial whose process is just being started; that trial would get a process
    that came free, and the starting one would be killed. Where a start takes longer than the time between two trials'
    ends no new process would ever come up, and a machine that joins would stay idle (seen in Ray 2.60). Without an
    answer, what came free goes to the next trial that has no process yet.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Leave it to the order in which trials were given."""

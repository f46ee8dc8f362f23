"""One worker of a standing group: trains with the others what their desk gives them, one trial after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from mwray.cluster import leave, warn
from mwray.cluster.bucket import at_hand
from mwray.cluster.trial import Job, outcome, ready, train_noting
from mwray.cluster.worker import Place, Several, Stopped, progress
from mwray.process_group import Exchange
from mwray.records import Run
from mwray.train.loop import Left

LOOK_SECONDS = 1.0
"""Between two looks whether this process is to leave, while it waits for the desk."""

Ask = Callable[..., Any]
"""Calls a method of the group's `Desk` by its name, and waits for the answer."""


def serve(config: Mapping[str, Any]) -> None:
    """What Ray Train runs in each worker of a group, and again in all of them where one has died.

    Raises:
        Left: this process is to leave.
        RuntimeError: a training failed, which is told. The others may wait for this one in an exchange, and what an
            error leaves behind nobody knows: Ray Train makes the processes anew.
    """
    attend(Place.here(), asking(config["desk"]))


def asking(desk: Any) -> Ask:
    """How this process asks the actor `desk`."""

    def ask(name: str, *given: Any) -> Any:
        answer = getattr(desk, name).remote(*given)
        while not ray.wait([answer], timeout=LOOK_SECONDS)[0]:
            if (why := leave.asked()) is not None:
                raise Left(f"{why}; the last finished epoch has its checkpoint")
        return ray.get(answer)

    return ask


def attend(place: Place, ask: Ask) -> None:
    """Train what there is until the group is to leave."""
    seen = 0
    while (taken := ask("take", seen)) is not None:
        number, text = taken
        same = _train(place, ask, number, Job.from_config({"job": text}))
        seen = number if same else number - 1


def _train(place: Place, ask: Ask, number: int, given: Job) -> bool:
    """Train one trial; returns False where the others have taken another one."""
    torch.set_num_threads(given.cpus)
    with at_hand(given, place.rank) as (job, push), warn.kept(job.path) as warnings:
        worker = GroupWorker(place, ask, number, warnings.take, push)
        try:
            if (reason := ready(job)) is None:
                if not worker.begin(job.path):
                    return False
                reason = train_noting(job, worker)
        except Stopped:
            return True
        told = place.rank == 0 or reason is not None
        end = {**outcome(job, reason), "warnings": warnings.take()} if told else {}
    if told:
        ask("end", number, end)
    if reason is not None:
        raise RuntimeError(reason)
    return True


class GroupWorker(Several):
    """The loop's worker for one trial of a standing group.

    Rank 0 waits after each epoch until the search has heard of it, and the others for what rank 0 was told: a trial
    that is to be stopped takes no step more, and all leave it at the same one.
    """

    def __init__(
        self,
        place: Place,
        ask: Ask,
        number: int,
        warnings: Callable[[], Sequence[str]] = tuple,
        saved: Callable[[], None] = lambda: None,
    ) -> None:
        """Train number `number` of the desk; the rest as `Several`."""
        super().__init__(place, warnings, saved)
        self._ask, self._number = ask, number
        self._agreement = Exchange(self.rank, self.size, self.device)  # counts apart from what the training exchanges

    def begin(self, folder: Path) -> bool:
        """Agree with the others on what is trained; returns whether it is the same training.

        A training that goes on tells its last epoch again: whoever died may have had no time to.

        Raises:
            Stopped: it is not to go on.
        """
        records = Run(folder).records() if self.rank == 0 else []
        return self._agree(not records or self._told(records[-1]))

    def report(self, values: Mapping[str, float], checkpoint: Path | None) -> None:
        """Tell the search, and wait for its word; the checkpoint stays in the run's folder.

        Raises:
            Stopped: it is not to go on.
            PeerLost: another worker is gone.
        """
        self._saved()
        self._agree(self.rank != 0 or self._told(values))

    def resume(self) -> Path | None:
        """Return None: the run's own folder is where to resume from."""
        return None

    def _told(self, values: Mapping[str, Any]) -> bool:
        return bool(self._ask("report", self._number, progress(values, self._warnings())))

    def _agree(self, go_on: bool) -> bool:
        mine = torch.tensor([float(self._number), float(not go_on)], dtype=torch.float64, device=self.device)
        number, stop = self._agreement.average([mine])[0].tolist()
        if number == self._number and stop:
            raise Stopped
        return bool(number == self._number)

"""Several trainings side by side on one device: the loop's own sessions, their steps taken together where they can be.

Each training keeps everything of its own: folder, records, checkpoints in the form that `train` writes and reads,
evaluations, sinks. What is shared is the computation of a step: trainings whose steps have the same shapes become one
stack (`mwray.pack`), the others take their steps in turn. Numbers are those of `train` to rounding, not bit by bit: a
grouped convolution adds up in another order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mwray.config import leaves, read, to_dict
from mwray.experiment import Experiment
from mwray.methods.base import Step
from mwray.pack.stack import Pair, Stack, kind, phase, stack
from mwray.records import Run
from mwray.train.execution import precision
from mwray.train.loop import Session, hold, stay
from mwray.train.memory import keep_freed_memory
from mwray.train.sinks import Sink
from mwray.worker import LocalWorker, Worker

FEWEST = 4
MOST_PIXELS = 16 * 16
"""On a CPU, what a stack must have to be faster than steps in turn. Measured (RESULTS.md): with the small network on
8x8 images one of 4 gains 6 to 16 per cent and one of 8 a quarter; ResNet-8 on 32x32 images loses with any number."""


@dataclass(frozen=True)
class Ended:
    """How a training came to its end."""

    summary: dict[str, Any] | None
    """Of a finished one, as `train` returns it."""
    error: Exception | None = None


@dataclass
class Slot:
    """One training of a pack."""

    name: str
    session: Session
    work: Generator[Pair, Step, dict[str, Any]]
    closing: ExitStack
    """Closes its sinks and lets go of its folder."""
    random: list[torch.Tensor]
    """The state of the global random generators as this training left them."""
    pair: Pair | None = None
    """The batches of its next step."""
    steps: int = 0
    """Taken in this epoch."""
    group: Hashable = None
    """Trainings of equal groups can be stacked; None: it takes its steps by itself."""
    place: tuple[Stack, int] | None = None
    """The stack that holds its state, and its row there."""


@dataclass
class Pack:
    """Trainings that go on together, a step of each at a time.

    Args:
        note: is told, once for each reason, of trainings that cannot be stacked.
        always: stack whatever can be stacked, also where steps in turn are faster.
    """

    note: Callable[[str], None] = lambda text: None
    always: bool = False
    slots: dict[str, Slot] = field(default_factory=dict)
    _refused: dict[Hashable, str] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    def add(
        self,
        name: str,
        experiment: Experiment,
        folder: Path,
        *,
        worker: Worker | None = None,
        sinks: Sequence[Sink] = (),
        checkpoint_every: int = 1,
        leave: Callable[[], str | None] = stay,
    ) -> Ended | None:
        """Begin a training, or go on with it where its folder left off; arguments as for `mwray.train.loop.train`.

        Returns:
            How it ended, if that is over at once: a folder that is finished already, or one that cannot be trained.
        """
        assert name not in self.slots
        worker = worker or LocalWorker()
        keep_freed_memory()
        with ExitStack() as stack:
            try:
                experiment = read(Experiment, to_dict(experiment))
                run, values = Run(folder), to_dict(experiment)
                if (finished := run.summary_of(values)) is not None:
                    return Ended(finished)
                stack.enter_context(hold(folder))
                if (finished := run.summary_of(values)) is not None:  # by the process that was waited for
                    return Ended(finished)
                with torch.random.fork_rng(devices=_cuda(worker.device)):
                    session = Session(experiment, folder, worker, sinks, leave)
                    random = _random_states(worker.device)
                stack.callback(session.close)
            except Exception as error:  # its own end, and no other training's
                return Ended(None, error)
            closing = stack.pop_all()
        slot = self.slots[name] = Slot(name, session, session.work(checkpoint_every), closing, random)
        return self._advance(slot, None)

    def drop(self, name: str) -> None:
        """Stop a training; its folder keeps the last checkpoint."""
        slot = self.slots.pop(name)
        slot.work.close()
        slot.closing.close()

    def close(self) -> None:
        """Stop all of them."""
        for name in list(self.slots):
            self.drop(name)

    def round(self) -> dict[str, Ended]:
        """Take one step of every training; returns those that are over now.

        An error in one training ends that one. One that a whole stack meets is raised: its trainings go on from their
        checkpoints when they are started again.
        """
        ended: dict[str, Ended] = {}
        for group, slots in self._groups().items():
            stackable = len(slots) > 1 and (self.always or _pays(slots))
            shown = self._together(group, slots) if stackable else None
            for number, slot in enumerate(slots):
                try:
                    step = self._alone(slot) if shown is None else shown[number]
                except Exception as error:
                    self._end(slot)
                    ended[slot.name] = Ended(None, error)
                    continue
                if (end := self._advance(slot, step)) is not None:
                    ended[slot.name] = end
            for held in {id(slot.place[0]): slot.place[0] for slot in slots if slot.place and slot.steps == 0}.values():
                held.refresh()  # an epoch may have brought another learning rate
        return ended

    def _groups(self) -> dict[Hashable, list[Slot]]:
        """The trainings that step in this round, by what can be stacked; whoever is alone has a group of one."""
        groups: dict[Hashable, list[Slot]] = {}
        for slot in self.slots.values():
            stackable = slot.group is not None and slot.group not in self._refused
            groups.setdefault(slot.group if stackable else slot.name, []).append(slot)
        return {group: [slot for slot in slots if not _waits(slot, slots)] for group, slots in groups.items()}

    def _together(self, group: Hashable, slots: list[Slot]) -> list[Step] | None:
        """One step of all; None where they cannot be stacked after all, which is found at the first one."""
        pairs = [slot.pair for slot in slots if slot.pair is not None]
        with precision(slots[0].session.experiment.precision):
            places = [slot.place for slot in slots]
            if (
                places[0] is not None
                and all(p and p[0] is places[0][0] for p in places)
                and len(places[0][0]) == len(slots)
            ):
                return places[0][0].update(pairs)
            for slot in slots:
                _settle(slot)
            try:
                stacked = stack([slot.session.method for slot in slots])
                shown = stacked.update(pairs)
            except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
                self._refuse(group, slots, error)
                return None
        for row, slot in enumerate(slots):
            slot.place = stacked, row
        return shown

    def _alone(self, slot: Slot) -> Step:
        """A step by the method itself, with the random numbers that are its own."""
        _settle(slot)
        assert slot.pair is not None
        with _random_of(slot), precision(slot.session.experiment.precision):
            return slot.session.method.update(*slot.pair)

    def _advance(self, slot: Slot, step: Step | None) -> Ended | None:
        """Hand on what a step showed (None: begin) and get the next batches; returns the end, if this is it."""
        slot.steps = 0 if step is None or slot.steps + 1 == slot.session.steps else slot.steps + 1
        try:
            if slot.steps:
                assert step is not None
                slot.pair = slot.work.send(step)
                return None
            if slot.place is not None:  # the end of an epoch looks at the method and saves it
                slot.place[0].unload(slot.place[1])
            with _random_of(slot), precision(slot.session.experiment.precision):
                slot.pair = next(slot.work) if step is None else slot.work.send(step)
            group = self._group_of(slot)
            if group != slot.group:  # after a warm-up, say
                slot.group, slot.place = group, None
        except StopIteration as end:
            self._end(slot)
            return Ended(dict(end.value))
        except Exception as error:
            self._end(slot)
            return Ended(None, error)
        return None

    def _end(self, slot: Slot) -> None:
        self.slots.pop(slot.name, None)
        slot.closing.close()

    def _group_of(self, slot: Slot) -> Hashable | None:
        session, pair = slot.session, slot.pair
        assert pair is not None
        method = kind(session.method)
        if method is None:
            self._tell(f"method {session.experiment.method.name!r} takes its steps by itself: its step is not stacked")
            return None
        network = tuple((name, repr(value)) for name, value in leaves(session.experiment.model).items())
        shapes = tuple(batch.x.shape for batch in pair if batch is not None)
        return method, network, session.experiment.precision, str(session.worker.device), shapes

    def _refuse(self, group: Hashable, slots: Sequence[Slot], error: Exception) -> None:
        """Let the trainings of `group` step in turn from now on: nothing of theirs was touched."""
        self._refused[group] = str(error)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        self._tell(f"{slots[0].session.experiment.model.name} cannot be stacked, its trainings step in turn: {reason}")

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.note(text)


def train_together(
    trainings: Sequence[tuple[Experiment, Path]],
    *,
    at_once: int,
    device: torch.device | str | None = None,
    sinks: Callable[[], Sequence[Sink]] = tuple,
    note: Callable[[str], None] = lambda text: None,
    always: bool = False,
) -> list[Ended]:
    """Train all of `trainings`, `at_once` side by side, the next one in the place of each that ends.

    Args:
        trainings: what to train, and the folder of each.
        at_once: how many go on at a time.
        device: where; default: the GPU if there is one.
        sinks: makes the sinks of one training.
        note: told of trainings that cannot be stacked.
        always: stack whatever can be stacked, also where steps in turn are faster.

    Returns:
        How each came to its end, in order.
    """
    ended: dict[int, Ended] = {}
    pack, queue = Pack(note, always), list(enumerate(trainings))
    try:
        while queue or pack.slots:
            while queue and len(pack.slots) < at_once:
                number, (experiment, folder) = queue.pop(0)
                end = pack.add(str(number), experiment, folder, worker=LocalWorker(device), sinks=sinks())
                if end is not None:
                    ended[number] = end
            ended |= {int(name): end for name, end in pack.round().items()}
    finally:
        pack.close()
    return [ended[number] for number in range(len(trainings))]


def _pays(slots: Sequence[Slot]) -> bool:
    """Whether a stack of these trainings is faster than their steps in turn: on a CPU it often is not."""
    pair = slots[0].pair
    assert pair is not None
    small = math.prod(pair[0].x.shape[2:]) <= MOST_PIXELS and len(slots) >= FEWEST
    return small or slots[0].session.worker.device.type != "cpu"


def _waits(slot: Slot, slots: Sequence[Slot]) -> bool:
    """Whether a training that has just come lets the others go ahead.

    Weight nets that move every k-th step do so in the same steps, or all would pay for each: the new one waits, fewer
    than k steps, until it is in step with one that has the same k.
    """
    mine = phase(slot.session.method)
    if mine is None or slot.place is not None:
        return False
    others = [phase(other.session.method) for other in slots if other.place is not None]
    same = [other for other in others if other is not None and other[0] == mine[0]]
    return bool(same) and mine not in same


def _settle(slot: Slot) -> None:
    """Take a training's state out of its stack."""
    if slot.place is not None:
        slot.place[0].unload(slot.place[1])
        slot.place = None


@contextmanager
def _random_of(slot: Slot) -> Iterator[None]:
    """This training's state of the global random generators, while it draws; the caller's again afterwards."""
    device = slot.session.worker.device
    with torch.random.fork_rng(devices=_cuda(device)):
        torch.set_rng_state(slot.random[0])
        if len(slot.random) > 1:
            torch.cuda.set_rng_state(slot.random[1], device)
        try:
            yield
        finally:
            slot.random = _random_states(device)


def _random_states(device: torch.device) -> list[torch.Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _cuda(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []

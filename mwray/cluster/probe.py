"""How many trials share a GPU: before the search starts, a short probe measures the memory that one trial takes.

A ResNet-32 at batch 100 fills a tenth of a 24 GB card, and leaves it idle half of the time; one trial on each GPU would
be for nothing. Without GPUs nothing is probed.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from mwray.config import ConfigError, override, read, to_dict
from mwray.data.splits import split
from mwray.experiment import Experiment
from mwray.space import Choice, Space
from mwray.train.loop import train
from mwray.worker import LocalWorker

AUTO = "auto"
STEPS = 8
"""Training steps of a probe: the allocator's peak is reached in the second, once gradients and momenta exist."""
POINTS = 6
"""Points probed, at most."""
FREE = 0.1
"""Share of a GPU's memory that is left alone: pieces the allocator cannot use, and whatever a probe did not meet."""
CONTEXT = 2**29
"""Bytes of a process's CUDA context and kernels, at least; outside of what torch counts."""
MOST = 16
"""Trials on one GPU, however small they are. Our choice, not measured: they take turns, and each wants a core."""
SIZED = (
    "model.",
    "method.",
    "optimizer.name",
    "batch_size",
    "meta_batch_size",
    "precision",
    "data.source",
    "data.image_size",
)
"""Searched fields that may change a trial's memory, by the beginning of their names ..."""
SMALL = ("method.weight_net.",)
"""... and those that do not count: a weight net has some hundred parameters."""


@dataclass(frozen=True)
class Measured:
    """What one trial takes of one GPU."""

    peak: int
    """Bytes that torch had taken from the driver at most, and the images of the whole data set."""
    outside: int
    """Bytes of the process that torch does not count."""
    total: int
    """Bytes of the GPU."""
    name: str

    def trials(self, cores: float) -> int:
        """How many trials share such a GPU, with `cores` CPU cores to each GPU."""
        room = (1 - FREE) * self.total / (self.peak + max(self.outside, CONTEXT))
        return max(1, min(int(room), int(cores), MOST))


Probe = Callable[[Sequence[Experiment], str | None], Measured | None]
"""Takes points and a Ray resource that the GPU is to have; None: not one of them could be trained."""


def gpus_per_trial(
    space: Space,
    given: float | str | None,
    workers: int,
    nodes: Callable[[], Sequence[Mapping[str, float]]],
    joined: bool,
    probe: Probe,
    say: Callable[[str], None],
) -> float | None:
    """GPUs for each trial; None: as `mwray.cluster.connect.allot` would divide.

    Args:
        space: what is searched.
        given: a number, which stays; "auto", which waits for a GPU to come if there is none yet; None: as "auto" where
            there is a GPU now.
        workers: processes of each trial; above 1 each gets a GPU of its own, since NCCL refuses two on one.
        nodes: resources of every node there is now.
        joined: whether this is a cluster, which may grow, and not this machine alone.
        probe: measures; `on_a_gpu` outside of tests.
        say: told what is waited for, and where the number is from.

    Raises:
        ConfigError: `given` is another text, or left out where no machine is there yet that could be asked.
    """
    if isinstance(given, str) and given != AUTO:
        raise ConfigError(f"--gpus-per-trial: {given!r} is neither a number nor {AUTO!r}")
    with_gpu = _with_gpu(nodes())
    if given is None and not any(node.get("CPU", 0) for node in nodes()):
        # Left to itself, a trial would ask for a core, get a machine with a GPU, and train on its cores.
        raise ConfigError(
            "--gpus-per-trial: no worker is there yet that has GPUs or not; give auto, or a number (0 trains on CPUs)"
        )
    if isinstance(given, float | int) or (given is None and not with_gpu):
        return given
    if not with_gpu and not joined:
        say("there is no GPU here: trials train on CPUs")
        return None
    if workers > 1:
        return float(workers)
    kinds: set[str | None] = {name for node in with_gpu for name in node if name.startswith("accelerator_type:")}
    points = largest(space)
    say(f"measuring how much of a GPU a trial takes{'' if with_gpu else ', as soon as there is one'}")
    found = [measured for kind in sorted(kinds, key=str) or [None] if (measured := probe(points, kind)) is not None]
    if not found:
        say("the probe could not train a single step: one trial on each GPU")
        return 1.0
    cores = min((node.get("CPU", 0) / node["GPU"] for node in _with_gpu(nodes())), default=float(MOST))
    tightest = min(found, key=lambda measured: measured.trials(cores))
    count = tightest.trials(cores)
    share = math.floor(1e4 / count) / 1e4  # Ray counts in ten-thousandths
    taken, total = (number / 2**30 for number in (tightest.peak + max(tightest.outside, CONTEXT), tightest.total))
    text = f"a trial takes up to {taken:.1f} of the {total:.0f} GiB of {tightest.name}: {count} on each GPU"
    say(f"{text} (--gpus-per-trial {share:g})")
    return share


def _with_gpu(nodes: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    return [node for node in nodes if node.get("GPU", 0) >= 1]


def largest(space: Space) -> list[Experiment]:
    """Points among which the one that takes most memory is likely to be.

    Every range of numbers at its upper end; of the choices that may change memory, each value once.
    """
    names = [name for name in space.ranges if name.startswith(SIZED) and not name.startswith(SMALL)]
    choices = [(name, value) for name in names if isinstance(r := space.ranges[name], Choice) for value in r.choice]
    points: dict[str, Experiment] = {}
    for picked in [dict([choice]) for choice in choices] or [{}]:
        values: dict[str, Any] = {}
        for name in names:
            if space.active(name, values):
                values[name] = picked.get(name, space.ranges[name].edges()[-1])
        with suppress(ConfigError):  # two fields that exclude each other
            points.setdefault(str(values), space.experiment(values))
    return list(points.values())[:POINTS] or [space.base]


def on_a_gpu(points: Sequence[Experiment], kind: str | None) -> Measured | None:
    """Measure on a GPU of the cluster that has the resource `kind`, alone on it; waits until one is free."""
    task = ray.remote(num_cpus=1, num_gpus=1, max_calls=1, resources={kind: 0.001} if kind else None)(measure)
    found: Measured | None = ray.get(task.remote([to_dict(point) for point in points]))
    return found


def measure(points: Sequence[Mapping[str, Any]]) -> Measured | None:
    """Run in a process with a GPU of its own: train a few steps of each point, and read the allocator's peak."""
    if not torch.cuda.is_available():
        return None
    peaks = [_peak(read(Experiment, point)) for point in points]
    known = [peak for peak in peaks if peak is not None]
    if not known:
        return None
    free, total = torch.cuda.mem_get_info()
    outside = total - free - torch.cuda.memory_reserved()
    return Measured(max(known), min(outside, 2**31), total, torch.cuda.get_device_name())


class _Enough(Exception):
    """The probe has seen what it wanted."""


class _Stop:
    """A sink that ends the training after its first, short epoch."""

    def start(self, info: Any) -> None:
        """Do nothing."""

    def step(self, epoch: int, step: int) -> None:
        """Do nothing."""

    def write(self, epoch: int, values: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        """Leave."""
        raise _Enough

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _peak(experiment: Experiment) -> int | None:
    """Bytes that the allocator held at most; all there are where they did not suffice; None where nothing ran."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        rehearse(experiment, "cuda")
    except torch.cuda.OutOfMemoryError:
        return int(torch.cuda.mem_get_info()[1])
    except Exception:  # whatever it is: the trial itself will say it
        return None
    return torch.cuda.max_memory_reserved() + _images(experiment)


def rehearse(experiment: Experiment, device: str) -> None:
    """Train `STEPS` steps and evaluate a thousand images, as a trial would, and keep nothing of it."""
    few: dict[str, Any] = {"data.num_train": STEPS * experiment.batch_size, "data.num_test": 1000}
    if experiment.method.name == "mwnet":  # the step that moves the weight net takes most, and it need not be the first
        few |= {"method.meta.warm_up": 0, "method.meta.every": 1}
    if experiment.data.num_train is not None:
        few["data.num_train"] = min(few["data.num_train"], experiment.data.num_train)
    with tempfile.TemporaryDirectory() as folder, suppress(_Enough):
        train(override(experiment, few), Path(folder), worker=LocalWorker(device), sinks=[_Stop()])


def _images(experiment: Experiment) -> int:
    """Bytes of all images or feature vectors: a trial keeps them on its GPU."""
    splits = split(experiment.data, experiment.seed)
    sets = (splits.train, splits.meta, splits.validation, splits.test)
    return sum(chosen.images.nbytes for chosen in sets)

"""How steps are timed and their memory counted, and what machine it was."""

from __future__ import annotations

import gc
import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

PACKAGES = ("torch", "higher", "torchopt", "betty-ml", "numpy", "scikit-learn", "cleanlab")


def interleaved(
    steps: Mapping[str, Callable[[], object]], rounds: int, device: str, clock: str = "wall", most: float = math.inf
) -> dict[str, list[float]]:
    """Seconds of each step in each round; a round runs all of them once, so that a busy machine slows them alike.

    `clock`: "wall", or "processor" for the time of all threads of this process, which other processes disturb less.
    After `most` seconds no further round begins.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    now = time.process_time if clock == "processor" else time.perf_counter
    begun = time.perf_counter()
    for number in range(rounds):
        if number and time.perf_counter() - begun > most:
            break
        for name, step in steps.items():
            gc.collect()
            _wait(device)
            start = now()
            step()
            _wait(device)
            seconds[name].append(now() - start)
    return seconds


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(low), float(middle), float(high)


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside held at one time; kernels' own scratch memory is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self._made: dict[int, StorageWeakRef] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func` and count what lives after it."""
        results = func(*args, **(kwargs or {}))
        for result in results if isinstance(results, (list, tuple)) else [results]:
            if isinstance(result, Tensor):
                storage = result.untyped_storage()
                self._made.setdefault(storage._cdata, StorageWeakRef(storage))
        sizes = {key: _bytes(reference) for key, reference in self._made.items()}
        self._made = {key: reference for key, reference in self._made.items() if sizes[key] is not None}
        self.bytes = max(self.bytes, sum(size or 0 for size in sizes.values()))
        return results


def _bytes(reference: StorageWeakRef) -> int | None:
    """What the memory is large now - it can have been given back - or None if it is gone."""
    if reference.expired():
        return None
    return int(torch.UntypedStorage._new_with_weak_ptr(reference.cdata).nbytes())


def peak_bytes(step: Callable[[], object], device: str) -> int:
    """Memory of one step above what is there before it: the allocator's count on CUDA, that of `Peak` on a CPU."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with Peak() as peak:
        step()
    return peak.bytes


def surroundings(device: str) -> dict[str, Any]:
    """Machine, threads and versions, for the record."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU, {_cpu_name()}"
    return {"device": name, "threads": torch.get_num_threads(), "cores": os.cpu_count(), "versions": versions}


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()

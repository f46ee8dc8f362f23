"""Starting or joining Ray, and what fits on it at once."""

from __future__ import annotations

import logging
import math
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private.node import Node

from mwray.cluster.address import check_address
from mwray.cluster.watch import Head, watched
from mwray.config import ConfigError
from mwray.storage import PATIENCE

HEAD = "node:__internal_head__"
"""A resource of 1 that Ray gives the head node."""
SLOTS = 10_000
OBJECT_STORE = 256 * 2**20
"""Bytes. Nothing of size travels through the object store; Ray's default of 30 % of memory would be for nothing."""
AS_GIVEN = (
    PATIENCE,
    "MWRAY_EXECUTION",
    "MWRAY_RECOMPUTE",
    "MWRAY_KEEP_FREED_MEMORY",
    "MWRAY_DOWNLOAD",
    "MWRAY_OVERLAP",
)
"""Environment variables that a trial's process gets from the driver, on whatever machine it is."""
STARTS = 3
"""Attempts at starting Ray on this machine, which may be busy."""

logger = logging.getLogger("mwray")


@contextmanager
def connected(address: str | None) -> Iterator[Head]:
    """Ray for the length of a `with`: a local one with all cores (None), or a running cluster ("auto", "host:port").

    A Ray that the caller has started is used as it is, and left running. Where its head is lost, this process ends:
    `mwray.cluster.watch` says why, and how to be told before.

    Raises:
        ConfigError: there is no cluster at `address`.
    """
    _quiet()
    if ray.is_initialized():
        yield Head()
        return
    where: dict[str, Any] = {"address": address}
    if address is None:  # "local" so that a RAY_ADDRESS in the environment does not take over
        where = {"address": "local", "resources": {"trial_slot": SLOTS}, "object_store_memory": OBJECT_STORE}
    else:
        check_address(address)
    _start(where, STARTS if address is None else 1)
    try:
        with watched(_doors()) as head:
            yield head
    finally:
        ray.shutdown()


def _start(where: Mapping[str, Any], times: int) -> None:
    """Start or join Ray; a local one is started anew where it came up too slowly for Ray's own 30 seconds."""
    for left in reversed(range(times)):
        try:
            # The dashboard stays on: Ray Train asks its state service which trials are gone, and without it the workers
            # of a stopped trial keep their cores for ever.
            ray.init(
                **where,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": _passed_on(os.environ)},
            )
            return
        except ConnectionError:
            raise
        except Exception as error:
            _end_half_started(error)
            if left == 0:
                raise
            logger.warning("Ray did not start (%s); once more", error)
            ray.shutdown()


def _end_half_started(error: Exception) -> None:
    """End the processes of a Ray that did not come up: Ray (2.60) forgets them, and they run as long as this process.

    Twenty of them make the next start slower still.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = frame.f_locals.get("self")
        if isinstance(node, Node):
            node.kill_all_processes(check_alive=False, allow_graceful=False)
            return


def _doors() -> dict[str, str]:
    """Where the processes listen that this driver cannot do without."""
    doors = {"the head of the Ray cluster": ray.get_runtime_context().gcs_address}
    node = ray._private.worker._global_node
    if node is not None and node.raylet_socket_name:
        doors["this machine's raylet"] = node.raylet_socket_name
    return doors


def _quiet() -> None:
    """Ray reads these when it starts; what the caller has set stays."""
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a run's folder has its own records and TensorBoard files
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # mwray.cluster.search has one for SIGINT and SIGTERM
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # shown in one line by the display
        "TUNE_WARN_THRESHOLD_S": "10",
        "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # snapshots of all trials, which nobody reads; 2 s each for 500 of them
        "TUNE_MAX_PENDING_TRIALS_PG": "64",  # processes started side by side; `limit` bounds them
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of data sets stay right
        "RAY_AIR_NEW_OUTPUT": "0",
    }.items():
        os.environ.setdefault(name, value)


def _passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """What every process of the search needs in its environment."""
    passed = {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # the default of 2 s is a floor under every epoch's report
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process less to start; workers take the warning themselves
        # A process is used for the next trial once the training that was stopped has left it, after its epoch; Ray's
        # default of 2 s is less than an epoch, and costs a new process.
        "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "MWRAY_COMMAND": " ".join(sys.argv),  # what a run's environment.json names as its command
    }
    passed |= {name: environment[name] for name in AS_GIVEN if environment.get(name)}
    for name in ("MWRAY_DATA", "MWRAY_WEIGHT_NETS"):
        if folders := environment.get(name):
            passed[name] = os.pathsep.join(str(Path(part).resolve()) for part in folders.split(os.pathsep))
    return passed


def scratch() -> Path:
    """A folder on this machine for what Ray wants to keep and nobody reads; it goes with Ray's session."""
    node = ray._private.worker._global_node
    return Path(node.get_session_dir_path() if node is not None else tempfile.gettempdir()) / "mwray"


def driver_resources() -> dict[str, float]:
    """What the process that drives a Ray Train run inside a trial takes: no core, but a place on the head.

    Were it to take a core, the last group of workers would never fit. A resource other than CPU has to be named all
    the same: Ray refuses an empty request. Clusters started by our files have `trial_slot`; any other has a head.
    """
    return {"CPU": 0, "trial_slot": 1} if "trial_slot" in ray.cluster_resources() else {"CPU": 0, HEAD: 0.001}


# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Allotment:
    """What one trial gets."""

    workers: int
    cpus: int
    """For each worker; also the threads that torch may use."""
    gpus: float
    """For each worker; below 1, trials share a GPU."""

    def __str__(self) -> str:
        return f"{self.workers} worker{'s' * (self.workers > 1)} of {self.cpus} CPU and {self.gpus:g} GPU"

    def fits(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """How many such trials run on `nodes` at once: a worker is never spread over two machines."""
        workers = sum(self._on(node) for node in nodes)
        return workers // self.workers

    def _on(self, node: Mapping[str, float]) -> int:
        by_cpu = int(node.get("CPU", 0) // self.cpus)
        # 1e-9: ten times 0.1 GPU fit on one GPU, whatever binary fractions say.
        return by_cpu if self.gpus == 0 else min(by_cpu, math.floor(node.get("GPU", 0) / self.gpus + 1e-9))


def nodes() -> list[dict[str, float]]:
    """Resources of every living node, as Ray counts them."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def allot(
    nodes: Sequence[Mapping[str, float]], workers: int, concurrency: int | None, gpus_per_trial: float | None
) -> Allotment:
    """Divide the machines among trials.

    A trial gets `gpus_per_trial` GPUs (default: one for each worker where the cluster has any), and its share of the
    cores where GPUs or `concurrency` bound the number of trials; otherwise one core for each worker, which for the
    small networks of a search on CPUs gives more trainings an hour than several threads do.

    Raises:
        ConfigError: a number is impossible.
    """
    if workers < 1 or (concurrency is not None and concurrency < 1) or (gpus_per_trial or 0) < 0:
        raise ConfigError(
            f"{workers=}, {concurrency=}, {gpus_per_trial=}: workers and trials are 1 or more, GPUs 0 or more"
        )
    have_gpus = any(node.get("GPU", 0) >= 1 for node in nodes)
    gpus = (1.0 if have_gpus else 0.0) if gpus_per_trial is None else gpus_per_trial / workers
    if gpus > 1 and gpus != int(gpus):
        raise ConfigError(f"--gpus-per-trial: {gpus} GPUs for a worker: above 1 Ray gives out whole GPUs only")
    single = Allotment(workers, 1, gpus)
    bound = single.fits(nodes) if gpus else None
    if concurrency is not None:
        bound = concurrency if bound is None else min(bound, concurrency)
    if not bound:
        return single
    for cpus in range(int(max(node.get("CPU", 0) for node in nodes)), 1, -1):
        if Allotment(workers, cpus, gpus).fits(nodes) >= bound:
            return Allotment(workers, cpus, gpus)
    return single


def limit(allotment: Allotment, nodes: Sequence[Mapping[str, float]], concurrency: int | None, joined: bool) -> int:
    """Trials to have in flight now; asked again and again, so that machines that join are used.

    Never more than fit where a trial is a group of workers: a group that waits for cores when its trial is stopped
    keeps its claim on them for ever (seen in Ray 2.60). A trial of one worker may wait in Ray's queue: that is what
    makes an autoscaler start a machine.

    Raises:
        ConfigError: not one fits on this machine.
    """
    fitting = allotment.fits(nodes)
    if fitting == 0 and not joined:
        raise ConfigError(f"a training of {allotment} does not fit: this machine has {_total(nodes)}")
    if joined and allotment.workers == 1 and concurrency is not None:
        return concurrency
    return max(1, fitting if concurrency is None else min(fitting, concurrency))


def _total(nodes: Sequence[Mapping[str, float]]) -> str:
    return ", ".join(f"{sum(node.get(kind, 0) for node in nodes):g} {kind}s" for kind in ("CPU", "GPU"))

"""One training over several processes, through Ray Train."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

from mwray.cluster import leave, warn
from mwray.cluster.bucket import at_hand
from mwray.cluster.connect import allot, connected, limit, nodes
from mwray.cluster.failure import FAILURE, clear_failure, failure_of
from mwray.cluster.follow import following
from mwray.cluster.sight import Sight
from mwray.cluster.trial import Job, train_noting
from mwray.cluster.worker import TrainWorker
from mwray.errors import UserError
from mwray.experiment import Experiment
from mwray.records import Run
from mwray.train.iteration import check_shares

RESTARTS = 100
"""Of a group of workers, when one of them dies; `mwray.cluster.failure.MOST` bounds those that lead nowhere."""
ADDRESS = "RAY_ADDRESS"
START_FAILURES = 5
"""Of the group as a whole, before giving up: Ray's own default is to try for ever."""


class TrainingFailed(UserError, ValueError):
    """A training over several workers ended with an error; the message is the error's, and says where the rest is."""


def fit(
    experiment: Experiment, folder: Path, workers: int, *, address: str | None = None, gpus_per_worker: float = 0
) -> dict[str, Any]:
    """Train `experiment` in `folder` over `workers` processes; go on from the folder's newest checkpoint.

    The processes exchange gradients by NCCL where each has a GPU of its own, else by gloo. Rank 0 writes the folder.

    Args:
        experiment: what to train; its batch sizes are over all workers together.
        folder: the run's folder, on storage that all nodes see.
        workers: how many processes.
        address: a running Ray cluster ("auto", "host:port"); None: a local Ray.
        gpus_per_worker: 0 trains on CPUs.

    Returns:
        The run's summary, as `mwray.train.loop.train` returns it.

    Raises:
        ConfigError: the workers do not fit, cannot share a batch equally, or not all nodes see the folder.
        TrainingFailed: the training ended with an error.
    """
    folder = folder.resolve()
    check_shares(experiment, workers)
    with connected(address):
        allotment = allot(nodes(), workers, 1, gpus_per_worker * workers)
        limit(allotment, nodes(), 1, joined=address is not None)  # refuses what does not fit
        folder.mkdir(parents=True, exist_ok=True)
        Sight(folder).check()
        job = Job.of(
            experiment,
            folder,
            metric="",
            workers=workers,
            cpus=allotment.cpus,
            gpus=gpus_per_worker,
        )
        clear_failure(folder)
        with following(folder, experiment.epochs):
            run(make_trainer(train_worker, job.config(), job, job.path.name, folder / "ray"))
    return _summary(folder)


def make_trainer(
    function: Callable[[dict[str, Any]], None], config: dict[str, Any], job: Job, name: str, storage: Path
) -> TorchTrainer:
    """A Ray Train run.

    Args:
        function: what each worker runs.
        config: what it is given.
        job: names workers, and cpus and gpus of each.
        name: of the run: under the same one Ray Train finds the checkpoints again that it was told of.
        storage: for Ray Train's own files.
    """
    backend = "nccl" if job.gpus >= 1 and job.workers > 1 else "gloo"  # NCCL refuses two ranks on one GPU
    return TorchTrainer(
        function,
        train_loop_config=config,
        torch_config=TermConfig(backend=backend),
        scaling_config=ray.train.ScalingConfig(
            num_workers=job.workers, use_gpu=job.gpus > 0, resources_per_worker=_resources(job)
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(storage),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            failure_config=ray.train.FailureConfig(max_failures=RESTARTS, controller_failure_limit=START_FAILURES),
        ),
    )


def run(trainer: TorchTrainer) -> None:
    """Carry a run out, its processes being told which Ray is theirs.

    Whoever frees the places of a run whose controller has died asks the Ray that was started last on this machine
    (2.60). Where there are several that is another one, and the places of a living run are taken away, or those of a
    dead one never freed.
    """
    before = os.environ.get(ADDRESS)
    ENV_VARS_TO_PROPAGATE.add(ADDRESS)
    os.environ[ADDRESS] = ray.get_runtime_context().gcs_address
    try:
        trainer.fit()
    finally:
        os.environ.pop(ADDRESS)
        if before is not None:
            os.environ[ADDRESS] = before


def train_worker(config: Mapping[str, str]) -> None:
    """What each worker runs.

    An error of the training itself is written down before this raises: Ray takes the group down, starts it again, and
    the second start finds the note and leaves at once. Only lost workers are worth training again.
    """
    torch.set_num_threads(Job.from_config(config).cpus)
    rank = ray.train.get_context().get_world_rank()
    with at_hand(Job.from_config(config), rank) as (job, push), warn.kept(job.path) as warnings:
        if (job.path / FAILURE).exists():
            return
        worker = TrainWorker(warnings.take if rank == 0 else tuple, push)
        worker.report_again(job.path)
        train_noting(job, worker)
        if (failure := failure_of(job.path)) is not None:  # the others may still wait for this one
            raise RuntimeError(failure["reason"])


class TermBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    """Ray Train's torch backend on processes that take SIGTERM as a request to leave."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Set the workers up, from their main threads."""
        worker_group.execute(leave.listen)
        super().on_start(worker_group, backend_config)


class TermConfig(TorchConfig):
    """Settings of `TermBackend`."""

    @property
    def backend_cls(self) -> Any:
        """The backend's class."""
        return TermBackend


def _resources(job: Job) -> dict[str, float]:
    return {"CPU": job.cpus, "GPU": job.gpus} if job.gpus else {"CPU": job.cpus}


def _summary(folder: Path) -> dict[str, Any]:
    failure = failure_of(folder)
    if failure is not None:
        raise TrainingFailed(f"{failure['reason']} (the whole traceback is in {folder / FAILURE})")
    summary = Run(folder).summary()
    if summary is None:
        raise TrainingFailed(f"{folder}: the workers ended, and the run is not finished; the same command goes on")
    shutil.rmtree(folder / "ray", ignore_errors=True)  # Ray Train's copies of checkpoints that the folder has itself
    return summary

"""Kills at random moments on a real search: `make test-faults` (an hour on two cores) prints what they cost.

Each test is one kind of fault, injected `MWRAY_FAULTS_TIMES` times (20): in one search where that survives it, in as
many starts of the same command where it does not; searches follow one another until there were enough.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mwray.cluster.watch import CODE
from tests.cluster.faults.harness import MARK, Search, Tally, family, moments, patiently_started, terminate, wait
from tests.cluster.faults.verify import verify

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]

TIMES = int(os.environ.get("MWRAY_FAULTS_TIMES") or 20)
SEED = int(os.environ.get("MWRAY_FAULTS_SEED") or 0)
TRIAL = "ray::ResourceTrainable"  # what Ray Tune calls a trial's process
SPOT_SECONDS = 15.0
"""Between the notice and the end; clouds give 30 and more."""
WORKER = "ray::RayTrainWorker"


@pytest.fixture
def folder(request):
    """On a real disk, and gone afterwards unless the test failed."""
    path, failed = Path(tempfile.mkdtemp(prefix="mwray-faults-", dir="/var/tmp")), request.session.testsfailed
    yield path
    if request.session.testsfailed == failed:
        shutil.rmtree(path, ignore_errors=True)


def searches(folder: Path, tally: Tally, **settings):
    """Searches to inject faults into, until there were enough of them."""
    number = 0
    while tally.times < TIMES:
        search = Search(folder / f"search{number}", seed=SEED + number, **settings)
        try:
            search.start()
            yield search
        finally:
            search.end()
        number += 1


def one_of(chance: random.Random, search: Search, title: str):
    """One process by its title."""
    found = search.processes(title)
    return [chance.choice(found)] if found else []


def survive(folder: Path, tally: Tally, title: str, **settings) -> None:
    """Kill one process with this title again and again: the search goes on by itself."""
    chance = random.Random(SEED)
    workers = settings.pop("workers", 1)
    for search in searches(folder, tally, **settings):
        for _ in moments(search, chance, lambda search=search: search.processes(title)):
            search.kill(one_of(chance, search, title))
            if tally.times + len(search.kills) >= TIMES:
                break
        wait(search)
        verify(search, tally, workers=workers)


def start_again(folder: Path, tally: Tally, victims: Callable[[Search], list], ends: bool, **settings) -> None:
    """Kill what takes the driver along; the same command goes on.

    Args:
        folder: for the searches.
        tally: counts.
        victims: processes of a search to kill together.
        ends: whether the driver is expected to notice and to end by itself.
        settings: of `Search`.
    """
    chance = random.Random(SEED)
    for search in searches(folder, tally, **settings):
        while search.code is None and tally.times + len(search.kills) < TIMES:
            # A driver that has not reached its Ray yet says something else when it is gone.
            for _ in moments(search, chance, lambda search=search: victims(search), early=not ends):
                killed = time.monotonic()
                search.kill(victims(search))
                code = search.driver.wait(90)
                if ends and code != 0:  # 0: it had all that it wanted and ended before it asked its head
                    tally.waits.append(time.monotonic() - killed)
                    assert code == CODE, search.tail()
                    assert "counts as lost" in search.tail()
                break
            if search.code != 0:
                search.start()
        wait(search)
        verify(search, tally)


def test_a_trials_process(folder, report):
    tally = Tally("a trial's process")
    survive(folder, tally, TRIAL, trials=4, epochs=40)
    report(tally)


def test_a_ray_train_worker(folder, report):
    tally = Tally("a Ray Train worker of a two-worker trial")
    survive(folder, tally, WORKER, trials=2, epochs=40, arguments=["--workers-per-trial", "2"], workers=2)
    report(tally)


def test_the_gcs(folder, report):
    tally = Tally("the head's GCS")
    start_again(folder, tally, lambda search: search.processes("gcs_server"), ends=True, trials=3, epochs=30)
    report(tally)


def test_the_head_with_all_that_runs_on_it(folder, report):
    tally = Tally("the head: GCS, raylet, driver, all its processes")
    start_again(folder, tally, lambda search: search.processes(""), ends=False, trials=3, epochs=30)
    report(tally)


def test_the_raylet_of_the_drivers_machine(folder, report):
    tally = Tally("the raylet of the driver's machine")
    start_again(folder, tally, lambda search: search.processes("raylet"), ends=True, trials=3, epochs=30)
    report(tally)


@pytest.fixture
def cluster(folder, monkeypatch):
    """A head without cores and two workers with one each; `mend` puts a new worker in a dead one's place."""
    from ray.cluster_utils import Cluster

    mark = f"cluster-{folder.name}"
    environment = {MARK: mark, "PYTHONPATH": str(Path.cwd()), "RAY_USAGE_STATS_ENABLED": "0"}
    for name, value in {**environment, "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}.items():
        monkeypatch.setenv(name, value)
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100 * 2**20}
    made = patiently_started(lambda: Cluster(initialize_head=True, head_node_args=head))
    made.workers = [add_worker(made) for _ in range(2)]
    made.mark = mark
    yield made
    made.shutdown()


def test_the_driver(folder, cluster, report):
    """On a cluster that goes on: the next driver meets what is left of the last one's trials."""
    tally = Tally("the driver")

    def driver(search: Search):
        return [psutil.Process(search.driver.pid)] if search.code is None else []

    start_again(folder, tally, driver, ends=False, trials=3, epochs=30, arguments=["--address", cluster.address])
    report(tally)


def add_worker(cluster):
    """A node of one core."""
    return patiently_started(lambda: cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20))


def raylet(node) -> psutil.Process:
    """The process that is a node to Ray."""
    (found,) = node.all_processes["raylet"]
    return psutil.Process(found.process.pid)


def lose_workers(folder, cluster, tally, victims) -> None:
    """Kill `victims(search, node)` of one worker node after another; each is replaced."""
    chance = random.Random(SEED)
    arguments = ["--address", cluster.address]
    for search in searches(folder, tally, trials=4, epochs=40, arguments=arguments):
        own, search.mark = search.mark, cluster.mark  # trials belong to the cluster's nodes
        for _ in moments(search, chance, lambda search=search: search.processes(TRIAL)):
            node = cluster.workers.pop(chance.randrange(2))
            search.kill(victims(search, node))
            cluster.remove_node(node, allow_graceful=False)
            cluster.workers.append(add_worker(cluster))
            if tally.times + len(search.kills) >= TIMES:
                break
        wait(search)
        search.mark = own
        verify(search, tally)


def test_a_worker_host(folder, cluster, report):
    tally = Tally("a worker host: its raylet and all processes below it")
    lose_workers(folder, cluster, tally, lambda search, node: family(raylet(node)))
    report(tally)


def test_a_worker_hosts_raylet(folder, cluster, report):
    tally = Tally("a worker host's raylet")
    lose_workers(folder, cluster, tally, lambda search, node: [raylet(node)])
    report(tally)


def test_a_worker_host_that_is_drained(folder, cluster, report):
    """Ray's notice of a spot machine's end: trials leave, and the machine goes half a minute later."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    tally = Tally("a worker host, drained before it goes")
    gcs = GcsClient(address=cluster.address)

    def drain(search, node):
        reason = autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
        end = int((time.time() + SPOT_SECONDS) * 1000)
        search.warned.append(search.look())
        accepted, why = gcs.drain_node(node.node_id, reason, "a test", end)
        assert accepted, why
        time.sleep(SPOT_SECONDS)
        return family(raylet(node))

    lose_workers(folder, cluster, tally, drain)
    report(tally)


def test_sigterm_to_a_trial(folder, report):
    """A warning: the process leaves after its step, and the trial goes on elsewhere."""
    tally = Tally("SIGTERM to a trial's process")
    chance = random.Random(SEED)
    for search in searches(folder, tally, trials=4, epochs=40):
        for _ in moments(search, chance, lambda search=search: search.processes(TRIAL)):
            for victim in one_of(chance, search, TRIAL):
                search.note()
                terminate(victim)
            if tally.times + len(search.kills) >= TIMES:
                break
        wait(search)
        verify(search, tally)
    report(tally)

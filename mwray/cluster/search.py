"""A search over Ray: trials of a space, BaseModel beside them, and a leaderboard; goes on where it was stopped.

folder/space.json                        what is searched
folder/study.journal                     Optuna's journal: every trial, its point, its value
folder/trials/0003-1f2e3d4c5b6a/         a run's folder each: records, checkpoints, pictures, TensorBoard files
folder/base/0a1b2c3d4e5f/                BaseModel at the same noise, schedule, epochs and seed; one for each seed
folder/leaderboard.csv, .json, best.json what came out; points.csv over seeds
folder/summary.md, pictures/             what mattered, in words and drawn
folder/search.log, heartbeat.json        what happened; who drives it, how far it is, what it has spent
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune
from rich.console import Console

from mwray.cluster import display as displays
from mwray.cluster import heartbeat, leaderboard, summary
from mwray.cluster.bucket import Keeper, Shared
from mwray.cluster.connect import Allotment, connected, driver_resources, limit, nodes, scratch
from mwray.cluster.demand import Demand
from mwray.cluster.failure import FAILURE
from mwray.cluster.group import OverWorkers
from mwray.cluster.heartbeat import Heartbeat, Spend
from mwray.cluster.leaderboard import Row, SearchResult
from mwray.cluster.log import LogFile, Logged
from mwray.cluster.packed import Packed
from mwray.cluster.questions import TuneCallback, TuneSearcher, TuneStopper
from mwray.cluster.scheduler import TuneScheduler
from mwray.cluster.session import Session
from mwray.cluster.study import Study
from mwray.cluster.trial import Alone
from mwray.cluster.watch import Head
from mwray.config import fingerprint, override
from mwray.lock import locked
from mwray.records import write_atomically
from mwray.remote import Remote
from mwray.space import Space
from mwray.storage import StorageError

logger = logging.getLogger("mwray")

RESTARTS = 100
"""Of a trial whose process dies, in all: machines are taken away. `mwray.cluster.failure.MOST` bounds those that lead
nowhere, and an error of the training itself is never tried again."""
WIDTH = 140
"""Columns of the leaderboard where the output is no terminal."""


def search(
    space: Space,
    folder: Path | Remote,
    *,
    trials: int | None = None,
    address: str | None = None,
    concurrency: int | None = None,
    gpus_per_trial: float | str | None = None,
    workers_per_trial: int = 1,
    retry_failed: bool = False,
    pack: int = 1,
    display: bool = True,
) -> SearchResult:
    """Search `space`, keeping everything in `folder`; the same call again goes on, or shows what came out.

    Args:
        space: what is searched (`mwray.space.load`).
        folder: the search's folder; with several machines, on storage that all of them see, or in object storage.
        trials: points in all, those of earlier calls included; default: the space's own number. Each is as many
            trainings as the space has seeds.
        address: a running Ray cluster ("auto", "host:port"); None: a local Ray with all cores.
        concurrency: trials at once, at most; default and upper bound: as many as fit.
        gpus_per_trial: a fraction shares one GPU; "auto": as many trials on each as its memory holds, by a short probe,
            which waits for a GPU to come; None: that, where the cluster has a GPU now. Each of several workers has one.
        workers_per_trial: above 1, each trial is trained by so many processes, which Ray Train keeps together.
        retry_failed: try trials once more that failed in earlier calls.
        pack: above 1, so many trials share a process and its device, their steps taken as one computation where their
            shapes allow it (`mwray.train.pack`).
        display: show a table of trials, and the leaderboard at the end.

    Raises:
        ConfigError: `folder` holds another search, a trial does not fit, not all nodes see `folder`, no cluster answers
            at `address`, or options exclude one another.
        LockedError: another process drives the search in `folder`.
        StorageError: `folder` could not be written for longer than `mwray.storage.patience`; the same call goes on.
    """
    demand = Demand(address is not None, concurrency, gpus_per_trial, workers_per_trial, pack)
    store = Keeper(folder) if isinstance(folder, Remote) else Shared(folder)
    folder = store.folder
    console = Console() if Console().is_terminal else Console(width=WIDTH)
    with locked(folder), store.open():
        study = Study(space, folder, target=trials, workers=workers_per_trial)
        _write_space(folder, space, study.target)
        screen = Logged(displays.make(console, display), LogFile(folder))
        if retry_failed:
            _retry(study, folder, screen)
        bases = _bases(space, folder)
        session = None
        if study.unfinished or any(base.state == "waiting" for base in bases):
            with connected(address) as head:
                session = _run(study, bases, store, screen, head, demand)
        if session is not None and session.storage_failed is not None:
            raise session.storage_failed
        result = _result(study, folder, session)
        leaderboard.write(result)
        _summarise(study, result)
        if session is not None:
            for line in displays.closing(result):
                screen.record(line)
    if display:
        displays.report(result, console)
        if result.interrupted:
            console.print("Stopped. What is finished is kept; the same command goes on from there.", highlight=False)
    return result


def _run(
    study: Study, bases: Sequence[Row], store: Shared | Keeper, screen: Logged, head: Head, demand: Demand
) -> Session:
    """Drive the search over the Ray that is connected."""
    store.sight.check()
    allotment = demand.allot(study.space, screen)
    pack, driver = demand.packed, uuid.uuid4().hex[:12]

    def fitting() -> int:
        return limit(allotment, nodes(), demand.processes, demand.joined)

    fitting()  # refuses before anything is shown
    session = Session(
        study,
        [base for base in bases if base.state == "waiting"],
        screen,
        lambda: min(fitting() * pack, demand.concurrency or fitting() * pack),
        {"workers": demand.workers, "cpus": allotment.cpus, "gpus": allotment.gpus, "driver": driver},
        _spend(allotment, pack, store.folder),
        store,
    )
    screen.note(f"process {os.getpid()} on {socket.gethostname()}: {' '.join(sys.argv)}")
    screen.begin([*leaderboard.rows(study), *bases], study.target + len(bases), leaderboard.columns(study.space))
    sign = Heartbeat(store.folder, lambda: _told(session, screen))
    head.tell(lambda why: _farewell(screen, sign, why))
    how = "broken off"
    try:
        with _interruptible(session):
            if pack > 1:
                Packed(session, pack, fitting, allotment.cpus, allotment.gpus).run()
            else:
                _tuner(session, driver, demand.workers, {"CPU": allotment.cpus, "GPU": allotment.gpus}).fit()
        how = "interrupted" if session.interrupted else session.stopped or "finished"
    finally:
        screen.close()
        sign.close(how)
    return session


def _spend(allotment: Allotment, pack: int, folder: Path) -> Spend:
    """Counts what trials take, on top of what earlier calls took; those of one process divide it."""
    each = allotment.workers / pack
    return Spend(each * allotment.cpus, each * allotment.gpus, heartbeat.read(folder).get("spend"))


def _farewell(screen: Logged, sign: Heartbeat, why: str) -> None:
    """The head of the cluster is lost, and this process ends."""
    screen.close()
    screen.note(why)
    sign.beat(why, ask=False)  # Ray would be asked how many machines there are


def _told(session: Session, screen: Logged) -> dict[str, Any]:
    """What the heartbeat says beside who beats."""
    board = screen.board
    return {
        "target": board.target,
        "ended": board.ended,
        "left": board.left(),
        "running": session.running,
        "nodes": len(nodes()),
        "spend": session.spend.total(),
    }


def _tuner(session: Session, driver: str, workers: int, single: dict[str, float]) -> tune.Tuner:
    """Ray Tune, for carrying out alone: no sampler, no scheduler and no snapshot of its own is relied on."""
    if workers > 1:
        trainable = tune.with_resources(OverWorkers, tune.PlacementGroupFactory([driver_resources()]))
    else:
        trainable = tune.with_resources(Alone, single)
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            num_samples=-1,  # until the searcher has no more
            search_alg=TuneSearcher(session),
            scheduler=TuneScheduler(),
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=driver,  # a new one each time: nothing is restored from it
            storage_path=str(scratch()),  # nobody reads it, and the search's storage may fail without hurting it
            verbose=0,
            stop=TuneStopper(session),
            callbacks=[TuneCallback(session)],
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
        ),
    )


@contextmanager
def _interruptible(session: Session) -> Iterator[None]:
    """SIGINT and SIGTERM end the search in order; a second one breaks it off. Only in a main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if session.interrupted:
            raise KeyboardInterrupt
        session.interrupt()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bases(space: Space, folder: Path) -> tuple[Row, ...]:
    """BaseModel on the same images with the same noise, at each seed; () where the recipe is BaseModel already."""
    if space.base.method.name == "base":
        return ()
    seeds = space.ranges["seed"].grid() if space.seeds > 1 else [space.base.seed]
    found = [override(space.base, {"method.name": "base", "seed": seed}) for seed in seeds]
    return tuple(leaderboard.base_row(one, folder / "base" / fingerprint(one), space) for one in found)


def _result(study: Study, folder: Path, session: Session | None) -> SearchResult:
    study.settle()
    rows = leaderboard.ranked(leaderboard.rows(study), study.space.mode)
    over = not study.unfinished and any(row.state == "finished" for row in rows)
    return SearchResult(
        folder=folder,
        rows=rows,
        bases=_bases(study.space, folder),
        finished=over,
        interrupted=session is not None and session.interrupted,
        stopped=None if session is None else session.stopped,
        names=leaderboard.columns(study.space),
        spend=session.spend.total() if session is not None else heartbeat.read(folder).get("spend", {}),
        mode=study.space.mode,
    )


def _summarise(study: Study, result: SearchResult) -> None:
    """Write what was found; a search that has its results must not end with an error of their description."""
    try:
        summary.write(study.space, study.entries(), result)
    except StorageError as error:
        logger.warning("%s", error)
    except Exception:
        logger.warning("%s: not written", result.folder / "summary.md", exc_info=True)


def _retry(study: Study, folder: Path, screen: Logged) -> None:
    """Take up what failed: trials through the study, BaseModel by forgetting that it did."""
    for number in study.retry_failed():
        screen.note(f"trial {number} failed before, and is tried again under a new number")
    for noted in folder.glob(f"base/*/{FAILURE}"):
        noted.unlink(missing_ok=True)


def _write_space(folder: Path, space: Space, target: int) -> None:
    text = json.dumps({"source": space.source, "trials": target, **space.description()}, indent=1)
    write_atomically(folder / "space.json", f"{text}\n".encode())

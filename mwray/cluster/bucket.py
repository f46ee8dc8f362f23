"""A search in object storage: each machine works on a folder of its own, and what is to last goes there and back.

The driver's folder holds the journal and what is small of each trial; a trial's process has a folder with the rest,
pulled when it starts and pushed after every epoch. So no machine need see another's disk, and none is needed again.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mwray.cluster.claim import CLAIM, Claim, TakenOver, claimed
from mwray.cluster.sight import Sight
from mwray.cluster.status import Place
from mwray.remote import Mirror, Remote
from mwray.storage import StorageError

if TYPE_CHECKING:
    from mwray.cluster.trial import Job

logger = logging.getLogger("mwray")

BEAT = 5.0
"""Seconds between two signs of life, and between two pushes that nobody asks for."""
SMALL = ("records.jsonl", "experiment.json", "environment.json", "failure.json", "done")


class Shared:
    """The driver's side of a search in a folder that all machines see: there is nothing to bring anywhere.

    Attributes:
        folder: the search's folder.
        sight: whether all machines see it.
        failed: why nothing can be kept any more; never, here: whoever writes to the folder hears it.
    """

    failed: StorageError | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.sight = Sight(self.folder)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hold nothing: `mwray.lock` holds the folder."""
        try:
            yield
        finally:
            self.sight.close()

    def push(self) -> None:
        """Do nothing."""

    def fetch(self, run: Path) -> None:
        """Do nothing."""

    def address(self, run: Path) -> str:
        """No address: a job's folder is enough."""
        return ""


class Keeper:
    """The driver's side: claims the place, pulls what an earlier driver left, pushes what this one writes.

    Attributes:
        folder: this machine's copy of the search's folder.
        sight: whether all machines reach the storage.
        failed: why nothing is pushed any more: the storage is away, or another driver has taken the search over.
    """

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self.folder = remote.scratch
        self.sight = Sight(remote)
        self._claim = Claim(remote)
        self._mirror = Mirror(remote.guarded(self._claim.look), self.folder, left_out=_not_the_drivers)
        self._busy = threading.Lock()
        self.failed: StorageError | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hold the place for the length of a `with`; all is pushed in the end, also after an error.

        Raises:
            LockedError: another process drives the search.
            StorageError: the storage failed for `mwray.storage.patience` seconds.
        """
        self._claim.take()
        try:
            # The claim has a thread of its own: to pull or push hundreds of trials takes longer than it stays young.
            with self._every_beat("claim", self._claim.renew):
                with self._busy:
                    self._mirror.pull()
                if self.failed is not None:
                    raise self.failed
                try:  # only what was pulled whole is pushed: until then an older copy may lie here
                    with self._every_beat("push", self.push):
                        yield
                finally:
                    self.sight.close()
                    self.push()
        finally:
            self._claim.drop()

    def push(self) -> None:
        """Bring everything of the driver's to the storage now: before a trial is begun, after one has ended.

        Raises:
            StorageError: the storage failed for `mwray.storage.patience` seconds.
            TakenOver: another driver has the search: nothing of this one's is pushed any more.
        """
        if self.failed is not None:
            raise self.failed
        try:
            with self._busy:
                self._mirror.push()  # which looks at the claim before each file
        except TakenOver as error:
            self.failed = error
            raise

    def fetch(self, run: Path) -> None:
        """Fetch what is small of a trial that another process trained."""
        with self._busy:
            self._mirror.pull(run.relative_to(self.folder).as_posix())

    def address(self, run: Path) -> str:
        """Where a trial's own folder is in the storage."""
        return (self.remote / run.relative_to(self.folder).as_posix()).address

    @contextmanager
    def _every_beat(self, name: str, act: Callable[[], None]) -> Iterator[None]:
        """Call `act` again and again, in a thread, for the length of a `with` or until it fails, which is kept."""
        over = threading.Event()
        thread = threading.Thread(target=self._beat, args=(act, over), name=name, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _beat(self, act: Callable[[], None], over: threading.Event) -> None:
        while not over.wait(BEAT):
            try:
                act()
            except StorageError as error:
                self.failed = error
                return
            except Exception as error:  # a thread's error is nobody's: kept, it ends the search in order
                logger.warning("%s: could not be pushed", self.folder, exc_info=True)
                self.failed = StorageError(f"{self.remote.address}: {type(error).__name__}: {error}")
                return


def _not_the_drivers(name: str) -> bool:
    """Trials are pushed by their own processes: of theirs the driver keeps copies of what is small."""
    path = PurePosixPath(name)
    if path.parts[0] in ("trials", "base"):
        return path.name not in SMALL
    return path.name in ("lock", CLAIM) or path.name.startswith((".now-", ".seen-"))


@contextmanager
def read_only(address: str) -> Iterator[Place]:
    """What is small of a search in object storage, in a folder for the length of a `with`; nothing is written there."""
    remote = Remote(address)
    with tempfile.TemporaryDirectory() as folder:
        holder, age = claimed(remote)
        mirror = Mirror(remote, Path(folder) / "search", left_out=_not_the_drivers)
        mirror.pull()
        yield Place(mirror.local, remote, holder, age)


@contextmanager
def at_hand(job: Job, rank: int = 0) -> Iterator[tuple[Job, Callable[[], None]]]:
    """The job with a folder of this process's own, and a function that brings the folder to the storage.

    A job on a shared file system stays as it is, and the function does nothing. Of several workers only rank 0 pushes.
    """
    if not job.remote:
        yield job, lambda: None
        return
    remote = Remote(job.remote)
    folder = remote.scratch / (f"rank{rank}" if rank else "run")
    mirror = Mirror(remote, folder)
    mirror.pull()
    mine = replace(job, folder=str(folder))
    push = (lambda: None) if rank else mirror.push
    try:
        yield mine, push
    finally:
        push()
    shutil.rmtree(folder)

"""Real searches on a disk that is full: for a while, and until the search has given up."""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from mwray.cluster.connect import connected
from mwray.cluster.search import search
from mwray.records import Run
from mwray.storage import PATIENCE, StorageError
from tests.cluster.helpers import small

pytestmark = pytest.mark.slow

EPOCHS = 25
FULL = "No space left on device"


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"mounting needs root: {done.stderr}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


@contextmanager
def patient(ray_home, seconds):
    """A local Ray of which every process waits `seconds` for storage: trials are told when their process begins."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(ray_home))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv(PATIENCE, str(seconds))
        with connected(None):
            yield


@contextmanager
def filled_after_first(folder):
    """From the first finished trial on the disk is full, until what is yielded is set."""
    enough = threading.Event()
    filler = threading.Thread(target=fill, args=(folder, enough))
    filler.start()
    try:
        yield enough
    finally:
        enough.set()
        filler.join()


def fill(folder, enough):
    deadline = time.monotonic() + 100
    while not list(folder.glob("*/*/done")) and time.monotonic() < deadline:
        time.sleep(0.02)
    while not enough.is_set():  # again and again: what the search deletes makes room
        with (folder / "filler").open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        enough.wait(0.05)
    (folder / "filler").unlink()


def check_whole(result, folder):
    assert result.finished and [row.state for row in (*result.rows, result.base)] == ["finished"] * 3
    for row in result.rows:
        assert [record["epoch"] for record in Run(row.folder).records()] == list(range(1, EPOCHS + 1))
    assert not list(folder.rglob(".*.part"))


def test_a_search_on_a_disk_that_is_full_for_a_while_waits_for_it(disk, ray_home):
    with patient(ray_home, 120), filled_after_first(disk) as enough:
        waker = threading.Thread(target=wake_when_full, args=(disk, enough))
        waker.start()
        result = search(small(epochs=EPOCHS, trials=2), disk, display=False)
        waker.join()
    check_whole(result, disk)
    assert FULL in (disk / "search.log").read_text()


def wake_when_full(folder, enough):
    """Make room again five seconds after the disk filled up."""
    deadline = time.monotonic() + 100
    while not (folder / "filler").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(5)
    enough.set()


def test_a_search_on_a_disk_that_stays_full_stops_in_order_and_the_same_call_goes_on(disk, ray_home):
    searched = small(epochs=EPOCHS, trials=2)
    with patient(ray_home, 1):
        with filled_after_first(disk):
            try:  # trials lose their storage; whether the driver does too depends on what was deleted in between
                assert not search(searched, disk, display=False).finished
            except StorageError as error:
                assert FULL in str(error)
        done = {path.parent for path in disk.glob("trials/*/done")}
        times = {path: path.stat().st_mtime for folder in done for path in folder.iterdir()}
        result = search(searched, disk, display=False)
        assert times == {path: path.stat().st_mtime for path in times}  # what was finished was left as it is
    check_whole(result, disk)

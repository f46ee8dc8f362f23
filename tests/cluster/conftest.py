"""Where the tests of the cluster package keep their files, and the one local Ray that they share."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@pytest.fixture
def tmp_path():
    """A folder in memory: a study waits for the disk at every step, and a busy disk makes seconds of that."""
    folder = Path(tempfile.mkdtemp(prefix="mwray-", dir=MEMORY if MEMORY.is_dir() else None))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_home(tmp_path_factory):
    """One home for every Ray of this process: Ray makes its token once, and looks for it there each time."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def mark(tmp_path_factory):
    """What `tests.cluster.networks` needs: its path has to be in the environment before Ray's processes start."""
    from tests.cluster.networks import MARK

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, str(tmp_path_factory.mktemp("mark") / "died"))
        yield


@pytest.fixture(scope="module")
def marked_ray(mark, local_ray):
    """A local Ray whose processes know where the mark is."""


@pytest.fixture(scope="module")
def local_ray(ray_home):
    """A local Ray for a module's tests; it writes its token into a home of its own and not into the user's."""
    from mwray.cluster.connect import connected

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(ray_home))
        patch.setenv("OMP_NUM_THREADS", "1")
        with connected(None):
            yield

"""A server on this machine that speaks S3 (moto), for a module's tests."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mwray.remote import Remote

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test-key-id",
    "AWS_SECRET_ACCESS_KEY": "test-secret-that-nobody-may-write-down",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "MWRAY_STORAGE_PATIENCE": "20",
}


class Server:
    """May be stopped and started again on its port: what it holds stays with this process."""

    def __init__(self) -> None:
        self._kind = pytest.importorskip(
            "moto.server", reason="needs moto: pip install 'mwray[dev]'"
        ).ThreadedMotoServer
        self.host, self.port = "127.0.0.1", 0

    def start(self) -> None:
        self._running = self._kind(self.host, self.port, verbose=False)
        self._running.start()
        self.host, self.port = self._running.get_host_and_port()
        # S3 shows an object whole or not at all; this server empties it and then fills it, in one of many threads.
        self._running._server.app = _one_at_a_time(self._running._server.app)

    def stop(self) -> None:
        self._running.stop()


def _one_at_a_time(app: Callable[..., Any]) -> Callable[..., Any]:
    lock = threading.Lock()

    def answer(*request: Any) -> Any:
        with lock:
            return app(*request)

    return answer


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The server, running."""
    made = Server()
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def bucket(server, tmp_path_factory) -> Iterator[str]:
    """Address of a bucket: "{}" stands for a path in it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("MWRAY_SCRATCH", str(tmp_path_factory.mktemp("scratch")))
        where = f"{server.host}:{server.port}"
        place = f"s3://tests/{{}}?scheme=http&endpoint_override={where}&allow_bucket_creation=true"
        Remote(place.format("made")).filesystem.create_dir("tests")
        yield place


@pytest.fixture
def place(bucket, request) -> Remote:
    """A place of the test's own."""
    return Remote(bucket.format(f"{re.sub(r'[^a-z0-9_]+', '-', request.node.name)}-{os.getpid()}"))

"""A server on this machine that speaks S3 (moto), for a module's tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from mwray.remote import Remote

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test-key-id",
    "AWS_SECRET_ACCESS_KEY": "test-secret-that-nobody-may-write-down",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "MWRAY_STORAGE_PATIENCE": "20",
}


@pytest.fixture(scope="module")
def bucket(tmp_path_factory) -> Iterator[str]:
    """Address of a bucket: "{}" stands for a path in it."""
    server = pytest.importorskip("moto.server", reason="needs moto: pip install 'mwray[dev]'")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("MWRAY_SCRATCH", str(tmp_path_factory.mktemp("scratch")))
        running = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        running.start()
        host, port = running.get_host_and_port()
        try:
            place = f"s3://tests/{{}}?scheme=http&endpoint_override={host}:{port}&allow_bucket_creation=true"
            Remote(place.format("made")).filesystem.create_dir("tests")
            yield place
        finally:
            running.stop()


@pytest.fixture
def place(bucket, request) -> Remote:
    """A place of the test's own."""
    return Remote(bucket.format(f"{request.node.name.replace('[', '-').rstrip(']')}-{os.getpid()}"))

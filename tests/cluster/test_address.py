"""Addresses at which no Ray can be joined are refused at once, in a line."""

from __future__ import annotations

import socket

import pytest
from ray.exceptions import AuthenticationError

from mwray.cluster import address
from mwray.cluster.address import check_address
from mwray.config import ConfigError


@pytest.fixture
def listening():
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        yield f"127.0.0.1:{door.getsockname()[1]}"


@pytest.fixture
def closed():
    """A port that is taken, so that no other process gets it, and at which nobody listens."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{door.getsockname()[1]}"


@pytest.mark.parametrize(
    "given",
    ["nonsense", "", "local", "host:", ":6379", "host:http", "host:²", "host:0", "host:65536", "ray://host:10001"]
    + ["a..b:6379", ".a:6379", f"{'a' * 64}.b:6379"],
)
def test_what_is_no_host_and_port_is_refused_with_an_example(given):
    with pytest.raises(ConfigError, match=r"give auto, or the head's host:port such as") as caught:
        check_address(given)
    assert f"--address {given}:" in str(caught.value)


def test_a_port_on_which_nobody_listens_is_refused_before_ray_is_asked(closed, monkeypatch):
    monkeypatch.setattr(address, "GcsClient", lambda **_: pytest.fail("Ray was asked"))
    with pytest.raises(ConfigError, match=rf"--address {closed}: no Ray cluster answers there \(.*refused\)"):
        check_address(closed)


def test_a_host_without_an_address_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match=r"nowhere\.invalid:6379: no Ray cluster answers there"):
        check_address("nowhere.invalid:6379")


def test_auto_means_what_ray_address_says_and_names_it(closed, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", closed)
    with pytest.raises(ConfigError, match=rf"--address auto \({closed}\): no Ray cluster answers"):
        check_address("auto")
    monkeypatch.setenv("RAY_ADDRESS", "ray://host:1")
    with pytest.raises(ConfigError, match=r"RAY_ADDRESS ray://host:1: give auto"):
        check_address("auto")
    monkeypatch.setattr(address, "canonicalize_bootstrap_address", lambda given: closed)
    for said in ("auto", ""):  # to Ray the same as none
        monkeypatch.setenv("RAY_ADDRESS", said)
        with pytest.raises(ConfigError, match=rf"--address auto \({closed}\): no Ray cluster answers"):
            check_address("auto")


def test_a_head_that_refuses_the_token_is_no_traceback_and_no_silence(listening, monkeypatch):
    def refuse(**_):
        raise AuthenticationError("Invalid token")

    monkeypatch.setattr(address, "GcsClient", refuse)
    with pytest.raises(ConfigError, match=rf"--address {listening}: .* refuses this machine's token \(Invalid token\)"):
        check_address(listening)


@pytest.mark.slow
def test_a_listener_that_is_no_ray_is_refused(listening):
    with pytest.raises(ConfigError, match=rf"--address {listening}: no Ray cluster answers there \(.*GCS"):
        check_address(listening)

"""Whether a Ray cluster answers at an address: asked before joining, which at a wrong one takes Ray (2.60) minutes."""

from __future__ import annotations

import os
import socket

from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # Cython, without stubs
from ray.exceptions import AuthenticationError, RayError

from mwray.config import ConfigError

DOOR_SECONDS = 10.0
"""For a connection to be made; a busy head's kernel still answers."""
ADVICE = "Start one with `ray up cluster.yaml` and run this on its head, or leave --address out to use this machine"


def check_address(address: str) -> None:
    """Make sure that a Ray cluster can be joined at `address`, "auto" or "host:port".

    Raises:
        ConfigError: it is neither, nobody listens there, or who listens is no head of a Ray cluster.
    """
    where = _bootstrap(address)
    host, _, port = where.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=DOOR_SECONDS).close()
    except OSError as error:
        raise _nobody(address, where, str(error)) from None
    try:
        GcsClient(address=where)
    except AuthenticationError as error:
        raise ConfigError(
            f"--address {_meant(address, where)}: the cluster there refuses this machine's token ({error.message}). "
            "Give RAY_AUTH_MODE=token, and the cluster's token as ~/.ray/auth_token or RAY_AUTH_TOKEN"
        ) from None
    except RayError as error:
        raise _nobody(address, where, str(error)) from None


def _bootstrap(address: str) -> str:
    """The host:port that is meant; "auto" asks RAY_ADDRESS, then what runs on this machine."""
    if address != "auto":
        return _checked(address, f"--address {address}")
    if (named := os.environ.get("RAY_ADDRESS", "auto")) not in ("", "auto"):
        return _checked(named, f"--address auto, RAY_ADDRESS {named}")
    try:
        return str(canonicalize_bootstrap_address(address))
    except ConnectionError:
        raise ConfigError(f"--address auto: no Ray cluster runs on this machine. {ADVICE}") from None


def _checked(address: str, given: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not _a_name(host) or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"{given}: give auto, or the head's host:port such as 10.0.0.5:6379")
    return address


def _a_name(host: str) -> bool:
    """Whether `host` can be looked up at all: none of the parts between its points is empty or too long."""
    try:
        return bool(host.encode("idna"))
    except UnicodeError:
        return False


def _meant(address: str, where: str) -> str:
    return address if where == address else f"{address} ({where})"


def _nobody(address: str, where: str, why: str) -> ConfigError:
    return ConfigError(f"--address {_meant(address, where)}: no Ray cluster answers there ({why}). {ADVICE}")

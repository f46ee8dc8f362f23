"""Machines that are none: namespaces of this one, each with an address, a host name, processes and a home of its own.

They share its file system - so one folder can be storage that all of them mount - and nothing else. The first machine
is the switch as well: its network namespace holds the bridge. Nothing outlives the process that made them: each dies
with its parent, and takes its network and its mounts along.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NETWORK = "10.77.0"
TOOLS = {"sshd": "openssh-server", "ip": "iproute2", "unshare": "util-linux", "rsync": "rsync", "setpriv": "util-linux"}
SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
STARTED = 60.0
"""Seconds until a machine answers, at most."""

# What a machine runs first, in its own namespaces; sshd stays as their process 1. $1 is its folder, where `boot` may be
# what else a machine of its kind does.
INIT = """
mount --make-rprivate /
hostname "$(cat "$1/name")"
ip link set lo up
mkdir -p /run/sshd /tmp/ray
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/hosts" /etc/hosts
mount --bind "$1/ray" /tmp/ray
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /mnt && mkdir /mnt/mwray && mount --bind "$2" /mnt/mwray
[ ! -e "$1/boot" ] || . "$1/boot"
exec "$3" -D -e -f "$1/sshd_config"
"""


def missing() -> str | None:
    """Why there can be no machines here; None: there can."""
    if os.geteuid() != 0:
        return "making hosts out of namespaces needs root"
    absent = [package for tool, package in TOOLS.items() if shutil.which(tool, path=SEARCHED) is None]
    if absent:
        return f"apt-get install {' '.join(sorted(set(absent)))}"
    tried = subprocess.run(["unshare", "--net", "--pid", "--mount", "--fork", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else f"namespaces are not allowed here: {tried.stderr.decode().strip()}"


@dataclass
class Machine:
    """One machine. `run` is like sitting at it; ssh from another one works as well."""

    name: str
    address: str
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    _outer: subprocess.Popen[bytes] | None = None

    @property
    def home(self) -> Path:
        """Its root user's home, which other machines do not use."""
        return self.folder / "home"

    @property
    def pid(self) -> int:
        """Of its process 1, as this machine counts."""
        assert self._outer is not None
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")
        return int(children.read_text().split()[0])

    def run(self, command: str, *, timeout: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a shell command there, in this process's folder; both outputs come back as one text."""
        variables = {"HOME": str(self.home), "PATH": f"{sys.prefix}/bin:{SEARCHED}", "LANG": "C.UTF-8"}
        words = ["nsenter", f"--target={self.pid}", "--net", "--pid", "--mount", "--uts", "--ipc", "env", "-i"]
        words += [f"{key}={value}" for key, value in {**variables, **self.environment}.items()]
        words += ["bash", "-c", f"cd {os.getcwd()} && {command}"]
        # Into a file: a pipe would be waited for until the last process that a command leaves behind - ssh's shared
        # connection, Ray's own - has closed it, and what was printed before a timeout would be lost.
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
            try:
                code = subprocess.run(words, **streams, timeout=timeout, check=False).returncode
            except subprocess.TimeoutExpired:
                code = -signal.SIGKILL
                output.write(f"\n(no end within {timeout:g} s)\n")
            output.seek(0)
            text = output.read()
        assert not check or code == 0, f"{self.name}$ {command}\n{text}"
        return subprocess.CompletedProcess(words, code, text)

    def processes(self) -> list[str]:
        """Command lines of all its processes but sshd."""
        own = os.readlink(f"/proc/{self.pid}/ns/pid")
        return [command for pid in os.listdir("/proc") if pid.isdigit() and (command := _command(pid, own))]

    def start(self, shared: Path) -> None:
        """Boot it, without a network."""
        sshd = shutil.which("sshd", path=SEARCHED)
        assert sshd is not None
        spaces = ["--net", "--uts", "--ipc", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
        with (self.folder / "log").open("wb") as log:
            self._outer = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", *spaces, "bash", "-ec", INIT, "init"]
                + [str(self.folder), str(shared), sshd],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(lambda: "listening on" in (self.folder / "log").read_text(), STARTED, f"{self.name} to start")

    def stop(self) -> None:
        """Pull the plug."""
        if self._outer is not None:
            with suppress(OSError, IndexError):  # first process 1, and with it all others: so that each is waited for
                os.kill(self.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self._outer.wait(STARTED)
            self._outer.kill()
            self._outer.wait()
            self._outer = None


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Return as soon as `condition()` holds.

    Raises:
        TimeoutError: it did not within `seconds`.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.2)


@contextmanager
def machines(names: Sequence[str]) -> Iterator[dict[str, Machine]]:
    """Machines with these names on one network, each reachable from each by ssh as root; gone at the end of the `with`.

    Their folder `/mnt/mwray` is one and the same; `shared(machine)` is where it lies for us.
    """
    base = Path(tempfile.mkdtemp(prefix="mwray-hosts-", dir="/var/tmp"))
    made = {name: Machine(name, f"{NETWORK}.{10 + number}", base / name) for number, name in enumerate(names)}
    try:
        (base / "shared").mkdir()
        for key in ("user", "host"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(base / key)], check=True)
        for machine in made.values():
            prepare(machine, list(made.values()), f"{base}/user.pub")
        for machine in made.values():
            machine.start(base / "shared")
        _connect(list(made.values()))
        yield made
    finally:
        for machine in made.values():
            machine.stop()
        shutil.rmtree(base, ignore_errors=True)


def shared(machine: Machine) -> Path:
    """The folder that all machines see as /mnt/mwray."""
    return machine.folder.parent / "shared"


def prepare(machine: Machine, known: Sequence[Machine], keys: str, *users: str) -> None:
    """Its files: home, users besides root, names of the machines it knows, and where the keys are that let in."""
    base = machine.folder.parent
    for folder in ("home/.ssh", "ray"):
        (machine.folder / folder).mkdir(parents=True)
    (machine.folder / "name").write_text(machine.name)
    hosts = "".join(f"{other.address} {other.name}\n" for other in known)
    (machine.folder / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
    others = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith("root:")]
    root = f"root:x:0:0:root:{machine.home}:/bin/bash"
    (machine.folder / "passwd").write_text("\n".join([root, *users, *others]) + "\n")
    (machine.folder / "sshd_config").write_text(
        f"HostKey {base}/host\nAuthorizedKeysFile {keys}\nPidFile none\nUsePAM no\nStrictModes no\n"
        "PasswordAuthentication no\nPermitRootLogin prohibit-password\nMaxStartups 100\nMaxSessions 100\n"
    )


def _connect(made: Sequence[Machine]) -> None:
    """The bridge, which lives in the first one's network namespace, and a cable from each of the others to it."""
    switch = made[0]
    ip(switch, "link add switch type bridge")
    ip(switch, "link set switch up")
    ip(switch, f"address add {switch.address}/24 dev switch")
    for machine in made[1:]:
        plug_in(machine, switch)


def plug_in(machine: Machine, switch: Machine) -> None:
    """A cable from a machine that was started to the first one, and wait until it answers."""
    cable(machine, switch)
    ip(machine, f"address add {machine.address}/24 dev eth0")
    answers(machine, switch, machine.address)


def cable(machine: Machine, switch: Machine) -> None:
    """A cable from a machine to the first one; at the machine it is called eth0 and has no address yet."""
    port = "port" + "".join(f"{int(number):02x}" for number in machine.address.split("."))
    ip(switch, f"link add {port} type veth peer name eth0 netns {machine.pid}")
    ip(switch, f"link set {port} master switch up")
    ip(machine, "link set eth0 up")


def answers(machine: Machine, switch: Machine, address: str) -> None:
    """Wait until the machine's sshd answers the first one at this address."""
    asks = f"exec 3<>/dev/tcp/{address}/22"
    wait_for(lambda: switch.run(asks, check=False).returncode == 0, STARTED, f"{machine.name} to answer")


def listening(machine: Machine, address: str, port: int) -> socket.socket:
    """A socket of this process that listens in the machine's network."""

    def enter() -> socket.socket:
        with Path(f"/proc/{machine.pid}/ns/net").open() as network:
            if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), 0):
                raise OSError(ctypes.get_errno(), f"no way into {machine.name}'s network")
        return socket.create_server((address, port))

    with ThreadPoolExecutor(1) as pool:  # only its thread is in there, and ends
        return pool.submit(enter).result()


def ip(machine: Machine, command: str) -> None:
    """Run iproute2 in the machine's network and our process namespace, by whose numbers it finds the other machine."""
    words = ["nsenter", f"--target={machine.pid}", "--net", "ip", *command.split()]
    subprocess.run(words, check=True, env={**os.environ, "PATH": SEARCHED})


def _command(pid: str, namespace: str) -> str | None:
    """Command line of a process of that namespace, unless it is sshd or gone."""
    try:
        if os.readlink(f"/proc/{pid}/ns/pid") != namespace:
            return None
        text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
    return None if "sshd" in text.split(" ")[0] else text or None

"""What AWS does: an instance that moto says is there becomes a machine, and loses its power when moto says it ended.

A machine has the instance's private and public address, Ubuntu's user with the key pair's key, sudo, shared storage
once that is mounted, and the address at which an instance asks about itself. Other than on AWS, an environment is
there already, so that install.sh finds its work done; a file says where AWS is; a bind mount stands for NFS; and
spot.sh asks every second, since a trial here is over in ten.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.cluster.hosts.aws import Aws
from tests.cluster.hosts.machines import SEARCHED, Machine, answers, cable, ip, listening, prepare, shared

USER, NUMBER = "ubuntu", 1000
NETWORK, PUBLIC = "172.31.0.0/16", "54.0.0.0/8"
"""Where moto takes private and public addresses from: the former are for instances among themselves."""
ITSELF = "169.254.169.254"
TOKEN = "X-aws-ec2-metadata-token"
"""The header of IMDSv2."""
SETTINGS = "export PYTHONPATH=$HOME/mwray RAY_raylet_start_wait_time_s=180\n"
"""Of a machine's shell. What the environment of these tests has of mwray is their checkout; a machine uses its own
copy, which `ray up` brings. Ray gives up on a node that has not started within half a minute: too soon for three of
them on two busy cores."""
HIDDEN = ("/root", "/home")
"""This machine's homes, which its instances do not have."""

# What an instance does as it boots, see `machines.INIT`. Python may lie in a home that an ordinary user may not enter.
BOOT = """
umount /mnt/mwray && rmdir /mnt/mwray
chown -R {number}:{number} "$1/home" && mkdir "$1/tmp" && chmod 1777 "$1/tmp" && mount --bind "$1/tmp" /tmp
{keep}
for place in {hidden}; do mount -t tmpfs -o mode=755 tmpfs $place; done
{give}
mkdir /home/{user} && mount --bind "$1/home" /home/{user}
over="$1/over" && mkdir "$over" && mount -t tmpfs tmpfs "$over" && mkdir "$over/work" && cp -a "$1/sbin" "$over"
mount -t overlay -o "lowerdir=/usr/sbin,upperdir=$over/sbin,workdir=$over/work" overlay /usr/sbin
"""
# Programs of the image, beside those of this machine, whose file system is the instance's too. apt-get must install
# nothing in it; as in a fresh image, it knows no package before `update`. pip is Ubuntu's, which refuses. mount.nfs4 is
# called by mount(8), with source, folder, -o and options.
PROGRAMS = {
    "sbin/sudo": 'exec /usr/sbin/setpriv --reuid 0 --regid 0 --clear-groups env "$@"',
    "sbin/apt-get": """echo "apt-get $*" >>"{folder}/commands"
case " $* " in
  *" update "*) touch "{folder}/updated" ;;
  *" install "*) [ -e "{folder}/updated" ] && cp "{folder}/mount.nfs4" /usr/sbin ;;
esac""",
    "sbin/pip": 'echo "error: externally-managed-environment" >&2; exit 1',
    "mount.nfs4": 'echo "mount.nfs4 $*" >>"{folder}/commands"; exec mount --bind "{shared}" "$2"',
}


@dataclass
class Cloud:
    """The machines, by the ids of their instances."""

    aws: Aws
    laptop: Machine
    code: Path
    """The files by which install.sh knows whether a machine is up to date."""
    packages: Sequence[str]
    """What install.sh is told to install beyond them."""
    machines: dict[str, Machine] = field(default_factory=dict)
    notices: set[str] = field(default_factory=set)
    """Instances that are about to be taken back."""
    failures: list[str] = field(default_factory=list)
    _ends: dict[str, ThreadingHTTPServer] = field(default_factory=dict)
    _over: bool = False

    def start(self) -> None:
        """Follow moto from now on."""
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Pull all plugs."""
        self._over = True
        self._thread.join()
        for name in list(self.machines):
            self._unplug(name)

    def _follow(self) -> None:
        while not self._over:
            there = {instance.id: instance for instance in self.aws.instances("pending", "running")}
            for name in set(self.machines) ^ set(there):
                try:
                    self._boot(there[name]) if name in there else self._unplug(name)
                except Exception as error:  # of a thread that must go on; the tests look for it
                    self.failures.append(f"{name}: {error!r}")
            time.sleep(0.3)

    def _unplug(self, name: str) -> None:
        if server := self._ends.pop(name, None):
            server.shutdown()
            server.server_close()
        self.machines.pop(name).stop()

    def _boot(self, instance: Any) -> None:
        folder = self.laptop.folder.parent / instance.id
        name = instance.private_dns_name.partition(".")[0]
        machine = self.machines[instance.id] = Machine(name, instance.private_ip, folder)
        prepare(machine, [machine], ".ssh/authorized_keys", f"{USER}:x:{NUMBER}:{NUMBER}::/home/{USER}:/bin/bash")
        self._image(machine)
        key = self.aws.ec2.describe_key_pairs([instance.key_name])[0]
        (machine.home / ".ssh/authorized_keys").write_bytes(key.material_public)
        machine.start(shared(self.laptop))
        cable(machine, self.laptop)
        ip(machine, f"address add {instance.private_ip}/16 dev eth0")
        ip(machine, f"address add {instance.public_ip}/32 dev eth0")
        ip(machine, f"route add {self.laptop.address.rpartition('.')[0]}.0/24 dev eth0")
        ip(machine, f"address add {ITSELF}/32 dev lo")
        self._ends[instance.id] = self._itself(machine, instance)
        answers(machine, self.laptop, instance.public_ip)

    def _image(self, machine: Machine) -> None:
        """Files of the machine image: programs, and an environment that install.sh finds to be up to date."""
        _programs(machine, shared(self.laptop))
        _environment(machine.home / "venv")
        (machine.home / ".mwray-installed").write_text(stamp(self.code, f"/home/{USER}/venv", *self.packages))
        (machine.home / ".bashrc").write_text(f"export PATH=/usr/sbin:$PATH MWRAY_SPOT_PAUSE=1\n{SETTINGS}")
        (machine.home / ".aws").mkdir()
        (machine.home / ".aws/config").write_text(f"[default]\nendpoint_url = {self.aws.url}\n")

    def _itself(self, machine: Machine, instance: Any) -> ThreadingHTTPServer:
        """What answers an instance that asks about itself: its role's keys, and whether it is taken back."""
        cloud = self

        class Answers(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self._say("token" if self.path == "/latest/api/token" else None)

            def do_GET(self) -> None:
                if self.headers.get(TOKEN) != "token":  # HttpTokens: required
                    return self.send_error(401)
                return self._say(cloud._about(instance, self.path))

            def _say(self, text: str | None) -> None:
                if text is None:
                    return self.send_error(404)
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())
                return None

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer((ITSELF, 80), Answers, bind_and_activate=False)
        server.socket.close()
        server.socket = listening(machine, ITSELF, 80)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def _about(self, instance: Any, path: str) -> str | None:
        role = self.aws.role(instance)
        roles = "/latest/meta-data/iam/security-credentials/"
        if path == "/latest/meta-data/spot/instance-action" and instance.id in self.notices:
            return json.dumps({"action": "terminate", "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
        if role is not None and path == roles:
            return str(role.name)
        if role is not None and path == f"{roles}{role.name}":
            return json.dumps(self.aws.credentials(role))
        return None


def stamp(code: Path, venv: str, *packages: str) -> str:
    """What install.sh writes down of an environment that is as these files want it."""
    parts = [(code / name).read_bytes() for name in ("constraints.txt", "pyproject.toml")]
    digest = hashlib.sha256(b"".join([*parts, f"{' '.join([venv, *packages])}\n".encode()]))
    return f"{digest.hexdigest()}  -\n"


def _environment(folder: Path) -> None:
    """The environment of these tests as if uv had made it: without pip."""
    (folder / "bin").mkdir(parents=True)
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", folder)
    (folder / "lib").symlink_to(Path(sys.prefix) / "lib")
    for program in Path(sys.prefix, "bin").iterdir():
        if not program.name.startswith("pip"):
            (folder / "bin" / program.name).symlink_to(program)


def _programs(machine: Machine, storage: Path) -> None:
    """sudo, apt-get and what it installs, and the commands by which all of it comes into view."""
    folder = machine.folder
    (folder / "sbin").mkdir()
    for name, text in PROGRAMS.items():
        (folder / name).write_text(f"#!/bin/sh\n{text.format(folder=folder, shared=storage)}\n")
        (folder / name).chmod(0o755)
    shutil.copy(shutil.which("setpriv", path=SEARCHED), folder / "sbin/setpriv")
    (folder / "sbin/setpriv").chmod(0o4755)  # belongs to root, and is run as root by all: in the instance alone
    kept = [place for place in {sys.prefix, sys.base_prefix} if place.startswith(HIDDEN)]
    keep = [f'mkdir "$1/kept{n}" && mount --bind "{place}" "$1/kept{n}"' for n, place in enumerate(kept)]
    give = [f'mkdir -p "{place}" && mount --move "$1/kept{n}" "{place}"' for n, place in enumerate(kept)]
    boot = BOOT.format(number=NUMBER, user=USER, hidden=" ".join(HIDDEN), keep="\n".join(keep), give="\n".join(give))
    (folder / "boot").write_text(boot)

"""What Ray accepts and we do not: each rule is a function of a cluster file, and every reason is in its message."""

from __future__ import annotations

import difflib
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mwray.cluster.check.cost import TYPE_KEYS, is_spot, prices_table
from mwray.cluster.check.document import Document, Mistake, Place
from mwray.cluster.check.pins import of_command, of_image, pins
from mwray.cluster.check.provider import node_configs, provider_settings
from mwray.config import nearest

Rule = Callable[[Document, Mapping[str, Any]], Iterator[Mistake]]
"""Takes the file and the configuration with Ray's defaults filled in; without them where Ray refuses the file."""

INSTALLER = "launch/clusters/install.sh"
LOOPBACK_SCRIPT = "launch/clusters/loopback.sh"
SPOT_SCRIPT = "launch/clusters/spot.sh"
FILL_IN = re.compile(r"FILL_IN_\w+")
SECRET_NAME = re.compile(r"secret_?(access_?)?key|password|api_?key|auth_?token$|_token$", re.IGNORECASE)
WRITTEN = re.compile(r"[^\s$~/{]\S{7,}")
"""Neither a path from the home or the root, nor a variable. A slash further on says nothing: AWS keys have them."""
SECRET = re.compile(
    r"\b(AKIA|ASIA)[A-Z0-9]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\b\w*(SECRET|PASSWORD|API_KEY|TOKEN(?!IZ))\w*=['\"]?[^\s'\"$~/{`][^\s'\"]{7,}"
)
"""An AWS key, a private key, or `export SOME_SECRET=...` in a command."""
LOOPBACK = ("127.0.0.1", "localhost")
SSH = 22
EVERYBODY = ("0.0.0.0/0", "::/0")
BY_HAND = "make the group by the commands in docs/clusters.md, with your own address, and leave IpPermissions out"


def filled_in(document: Document) -> Iterator[Mistake]:
    """Values that only the user's own account or network has; each is named once. For any kind of file."""
    seen: set[str] = set()
    for place, value in document.scalars():
        for name in FILL_IN.findall(str(value)):
            if name not in seen:
                yield document.mistake(place, f"{name} is to be filled in (docs/clusters.md says with what)")
            seen.add(name)


def written_once(document: Document) -> Iterator[Mistake]:
    """A key that comes twice: YAML takes the last one. For any kind of file."""
    for place in document.twice:
        yield document.mistake(place, "is there twice; only this one would count")


def versions(document: Document, prepared: Mapping[str, Any]) -> Iterator[Mistake]:
    """Every version that is named, by a command or an image, is that of constraints.txt."""
    pinned = pins()
    for place, command in commands(document):
        yield from (document.mistake(place, text) for text in of_command(command, pinned))
    for key, image in (document.get("docker") or {}).items():
        if key.endswith("image") and image:
            yield from (document.mistake(("docker", key), text) for text in of_image(str(image), pinned))


def installed(document: Document, prepared: Mapping[str, Any]) -> Iterator[Mistake]:
    """Every host gets mwray."""
    setup = [command for place, command in commands(document) if str(place[-2]).endswith("setup_commands")]
    if not any(INSTALLER in command or "mwray" in command for command in setup):
        yield document.mistake(("setup_commands",), f"no command installs mwray; run {INSTALLER}")


def head_setup(document: Document, prepared: Mapping[str, Any]) -> Iterator[Mistake]:
    """Nothing is installed on the head behind the back of the environment that install.sh makes."""
    if _provider(prepared) in TYPE_KEYS and "head_setup_commands" not in document.data:
        yield document.mistake(
            ("setup_commands",),
            "without head_setup_commands: [] Ray runs a `pip install` of its own on the head, which fails where pip is "
            "missing (uv's environments) or refuses (Ubuntu's), and then no head is ever ready",
        )


def secrets(document: Document) -> Iterator[Mistake]:
    """No secret is written down: the file is copied, shown and committed. For any kind of file."""
    lines = set()  # once, where several places share it by an alias
    for place, value in document.scalars():
        named = isinstance(value, str) and SECRET_NAME.search(str(_name(document, place))) and WRITTEN.fullmatch(value)
        mistake = document.mistake(
            place, "a secret is written here; leave it to the environment, a role, or a file that is mounted"
        )
        if mistake.line not in lines and (named or SECRET.search(str(value))):
            lines.add(mistake.line)
            yield mistake


def mounted_files(document: Document, prepared: Mapping[str, Any]) -> Iterator[Mistake]:
    """What is to be copied to the cluster exists here."""
    for remote, local in (document.get("file_mounts") or {}).items():
        if not Path(str(local)).expanduser().exists():
            hint = (
                "make it with `ray get-auth-token --generate`"
                if str(local).endswith("auth_token")
                else f"local paths start where `ray up` is run, here {Path.cwd()}: run it from the top of the checkout"
            )
            yield document.mistake(("file_mounts", remote), f"{local} does not exist; {hint}")
    for place, command in commands(document):
        for script in re.findall(r"~/\S*launch/clusters/\w+\.sh", command):
            if document.get("file_mounts") and not _arrives(document, script):
                yield document.mistake(place, f"{script} is nothing that file_mounts bring; mount the folder launch")
    key = document.get("auth", "ssh_private_key")
    if key and not Path(key).expanduser().exists():
        yield document.mistake(("auth", "ssh_private_key"), f"{key} does not exist; the comment in the file says how")


def token(document: Document, prepared: Mapping[str, Any]) -> Iterator[Mistake]:
    """Who has no token is turned away, and nobody else can read it."""
    text = "\n".join(command for _, command in commands(document))
    if "RAY_AUTH_MODE=disabled" in text or not (INSTALLER in text or "RAY_AUTH_MODE=token" in text):
        yield document.mistake(
            ("setup_commands",), f"RAY_AUTH_MODE=token is not set: anybody who reaches Ray runs code; run {INSTALLER}"
        )
    mounts = document.get("file_mounts") or {}
    found = [(remote, str(local)) for remote, local in mounts.items() if str(remote).endswith(".ray/auth_token")]
    if not found:
        yield document.mistake(("file_mounts",), 'no token travels: add "~/.ray/auth_token": ~/.ray/auth_token')
    for remote, local in found:
        path = Path(local).expanduser()
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield document.mistake(("file_mounts", remote), f"{local} can be read by others: chmod 600 {local}")


def head_command(document: Document, prepared: Mapping[str, Any]) -> Iterator[Mistake]:
    """Ray is started on the head so that it scales, shows its dashboard to nobody else, and frees what it should."""
    if "head_start_ray_commands" not in prepared:
        return
    place, command = _start(document, prepared, "head_start_ray_commands")
    host = re.search(r"--dashboard-host[= ](\S+)", command)
    if host is not None and host[1].strip("'\"") not in LOOPBACK:
        who = "this" if place[0] != "provider" else "Ray's own head_start_ray_commands"
        yield document.mistake(
            place, f"{who} opens the dashboard to {host[1]}; give `ray start` --dashboard-host=127.0.0.1"
        )
    if re.search(r"--include-dashboard[= ]['\"]?(false|0|no)\b", command, re.IGNORECASE):
        yield document.mistake(place, "without the dashboard, Ray Train never frees the machines of a stopped trial")
    if LOOPBACK_SCRIPT not in command:
        yield document.mistake(
            place, f"Ray's client port stays open to the network; run {LOOPBACK_SCRIPT} after `ray start`"
        )
    if "--autoscaling-config=" not in command:
        yield document.mistake(place, "no --autoscaling-config=~/ray_bootstrap_config.yaml: no worker would be started")
    if _provider(prepared) == "local" and "RAY_enable_autoscaler_v2=0" not in command:
        yield document.mistake(
            place, "export RAY_enable_autoscaler_v2=0 before `ray start`: the newer autoscaler leaves out one worker"
        )


def worker_command(document: Document, prepared: Mapping[str, Any]) -> Iterator[Mistake]:
    """Ray on a worker joins the head, and hears of it when the machine is about to be taken away."""
    if "worker_start_ray_commands" not in prepared:
        return
    place, command = _start(document, prepared, "worker_start_ray_commands")
    if "$RAY_HEAD_IP" not in command:
        yield document.mistake(place, "does not name $RAY_HEAD_IP: workers would not join the head")
    provider, wanted = _provider(prepared), f"{SPOT_SCRIPT} {_provider(prepared)}"
    spot = any(is_spot(node["node_config"]) for node in _node_types(prepared).values())
    if provider in TYPE_KEYS and spot and wanted not in command:
        yield document.mistake(
            place, f"nobody tells Ray that a spot machine is about to be taken away; run {wanted} after `ray start`"
        )


def node_types(document: Document, prepared: Mapping[str, Any]) -> Iterator[Mistake]:
    """The head stays, and alone holds the drivers of trials."""
    head = prepared.get("head_node_type")
    for name, node in _node_types(prepared).items():
        place = ("available_node_types", name)
        if name == head and is_spot(node["node_config"]):
            yield document.mistake((*place, "node_config"), "the head is spot: losing it stops the search")
        if name != head and head in _node_types(prepared) and "trial_slot" in node["resources"]:
            yield document.mistake((*place, "resources", "trial_slot"), "trial_slot belongs to the head alone")
        key = TYPE_KEYS.get(_provider(prepared))
        # Under a misspelt name it is told by node_configs.
        if key is not None and not difflib.get_close_matches(key, node["node_config"], 1, 0.8):
            yield document.mistake((*place, "node_config"), f"{key} is missing: which machine?")


def priced(document: Document, prepared: Mapping[str, Any]) -> Iterator[Mistake]:
    """What every machine costs is known: a type that is not in the table is a slip, or a bill of unknown size."""
    provider = _provider(prepared)
    if provider not in TYPE_KEYS:
        return
    known = list(prices_table()[provider]["hour"])
    for name, node in _node_types(prepared).items():
        given = node["node_config"].get(TYPE_KEYS[provider])
        if given is not None and given not in known:
            yield document.mistake(
                ("available_node_types", name, "node_config", TYPE_KEYS[provider]),
                f"no price is known for {given}.{nearest(str(given), known)} If this is what you mean, put dollars for "
                "an hour of it into launch/clusters/prices.yaml",
            )


def removed(document: Document, prepared: Mapping[str, Any]) -> Iterator[Mistake]:
    """After `ray down` nothing is paid for."""
    if _provider(prepared) == "aws" and document.get("provider", "cache_stopped_nodes") is not False:
        yield document.mistake(
            ("provider", "cache_stopped_nodes"),
            "give cache_stopped_nodes: false; machines that are stopped and not terminated go on paying for disks",
        )


def ports(document: Document, prepared: Mapping[str, Any]) -> Iterator[Mistake]:
    """No door to the outside but ssh, and that one for nobody but you.

    Ray (2.60) reads IpPermissions only to fill a group without rules, and always adds ssh from everywhere to them.
    """
    for index, rule in enumerate(document.get("provider", "security_group", "IpPermissions") or []):
        place, outside = ("provider", "security_group", "IpPermissions", index), list(_ranges(rule))
        if outside and (rule.get("FromPort"), rule.get("ToPort")) != (SSH, SSH):
            yield document.mistake(place, f"opens more than ssh (port 22) to the outside, to {', '.join(outside)}")
        elif any(value in EVERYBODY for value in outside):
            yield document.mistake(place, f"opens ssh to the whole world, {', '.join(outside)}; {BY_HAND}")
        else:
            yield document.mistake(place, f"Ray would add ssh for the whole world to this rule; {BY_HAND}")
    if _provider(prepared) == "aws" and not document.get("provider", "security_group", "GroupName"):
        yield document.mistake(
            ("provider",), "no security_group.GroupName: Ray would make a group with ssh open to the whole world"
        )


def shared_storage(document: Document, prepared: Mapping[str, Any]) -> Iterator[Mistake]:
    """Machines that come and go see one folder."""
    mounted = any(re.search(r"\bmount\b", command) for _, command in commands(document))
    if _provider(prepared) in TYPE_KEYS and not mounted:
        yield document.mistake(("setup_commands",), "no command mounts shared storage: results would go with a machine")


RULES: tuple[Rule, ...] = (
    versions, installed, head_setup, mounted_files, token, head_command, worker_command, node_types, priced, removed,
    ports, shared_storage, provider_settings, node_configs,
)  # fmt: skip


def commands(document: Document) -> Iterator[tuple[Place, str]]:
    """Every shell command of the file, with its place."""
    for place, value in document.scalars():
        if len(place) >= 2 and isinstance(value, str) and str(place[-2]).endswith("_commands"):
            yield place, value


def _provider(prepared: Mapping[str, Any]) -> str:
    return str((prepared.get("provider") or {}).get("type"))


def _node_types(prepared: Mapping[str, Any]) -> Mapping[str, Any]:
    return prepared.get("available_node_types") or {}


def _ranges(rule: Any) -> Iterator[str]:
    """The addresses that a rule of a security group lets in; Ray's schema says nothing of its form."""
    for key in ("IpRanges", "Ipv6Ranges"):
        ranges = rule.get(key) if isinstance(rule, Mapping) else None
        for entry in ranges if isinstance(ranges, list) else []:
            yield str(entry.get("CidrIp") or entry.get("CidrIpv6")) if isinstance(entry, Mapping) else str(entry)


def _arrives(document: Document, script: str) -> bool:
    """Whether a file of the cluster's machines is one that lies here and is copied there."""
    for remote, local in (document.get("file_mounts") or {}).items():
        if script == remote or script.startswith(f"{str(remote).rstrip('/')}/"):
            return (Path(str(local)).expanduser() / script[len(str(remote)) :].lstrip("/")).exists()
    return False


def _name(document: Document, place: Place) -> Any:
    """What a value is called: its key, or the name beside it in a container's list of variables."""
    return document.get(*place[:-1], "name") if place[-1] == "value" else place[-1]


def _start(document: Document, prepared: Mapping[str, Any], key: str) -> tuple[Place, str]:
    """The commands that start Ray, as one text, and the place of the one with `ray start` in it."""
    given = prepared.get(key) or []
    index = next((i for i, command in enumerate(given) if re.search(r"\bray start\b|join\.sh", command)), 0)
    return ((key, index) if key in document.data else ("provider", "type")), "\n".join(given)

"""Whether the machines of a cluster see the place that is written to: those that are there, and those that join later.

Without this, a search on a folder of the head's own disk goes well until the first trial runs elsewhere.
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import mwray
from mwray.cluster.errors import in_a_line
from mwray.config import ConfigError
from mwray.remote import Remote, is_remote
from mwray.storage import StorageError, patiently

ANSWER_SECONDS = 90.0
"""For a machine to look; its first process takes a while to start."""
PAUSE = 5.0
"""Seconds between two looks for machines that have joined."""


class Sight:
    """Asks machines to look for a marker in the place, a process of Ray's on each."""

    def __init__(self, place: Path | Remote) -> None:
        self.place = place
        self._known: set[str] | None = None
        self._looks: dict[Any, Mapping[str, Any]] = {}
        self._marker = ExitStack()
        self._turn, self._deadline = float("-inf"), 0.0

    def check(self) -> None:
        """Make sure that every machine sees the place and has this version of mwray.

        Raises:
            ConfigError: names the machines that do not, or do not answer.
            StorageError: this machine cannot write there.
        """
        nodes = _living()
        self._known = set(nodes)
        if len(nodes) < 2 and isinstance(self.place, Path):
            return
        with _marked(self.place) as marker:
            looks = {_look_from(node_id, marker): node for node_id, node in nodes.items()}
            ready, late = ray.wait(list(looks), num_returns=len(looks), timeout=ANSWER_SECONDS)
            answers, silent = _answers({look: looks[look] for look in ready})
        silent |= {looks[look]["NodeID"]: f"nothing within {ANSWER_SECONDS:.0f} s" for look in late}
        there = _living()  # who has left meanwhile needs to see nothing
        if missing := [f"{_host(nodes[one])} ({why})" for one, why in silent.items() if one in there]:
            raise ConfigError(
                f"--folder {_name(self.place)}: whether it is seen there, these did not answer: {'; '.join(missing)}. "
                "Look at `ray status`, and start Ray there again or end it"
            )
        if why := _refusal(self.place, answers):
            raise ConfigError(why)

    def trouble(self) -> str | None:
        """Why machines that joined since `check` are of no use, as far as is known now; waits for none of them.

        Whoever does not answer is asked again, as long as it is there: no trial runs on it either.

        Raises:
            StorageError: this machine cannot write to the place.
        """
        if self._known is None or time.monotonic() - self._turn < PAUSE:
            return None
        self._turn = time.monotonic()
        if not self._looks:
            self._ask({node_id: node for node_id, node in _living().items() if node_id not in self._known})
            return None
        ready, late = ray.wait(list(self._looks), num_returns=len(self._looks), timeout=0)
        answers, _ = _answers({look: self._looks.pop(look) for look in ready})
        self._known |= set(answers)
        if late and self._turn > self._deadline:
            self._looks.clear()
        if not self._looks:
            self.close()
        return _refusal(self.place, answers)

    def close(self) -> None:
        """Remove the marker that machines may still be looking for."""
        with suppress(OSError):
            self._marker.close()

    def _ask(self, nodes: Mapping[str, Mapping[str, Any]]) -> None:
        if nodes:
            marker = self._marker.enter_context(_marked(self.place))
            self._looks = {_look_from(node_id, marker): node for node_id, node in nodes.items()}
            self._deadline = self._turn + ANSWER_SECONDS


@contextmanager
def _marked(place: Path | Remote) -> Iterator[str]:
    """A file of a new name in the place, for the length of a `with`; gives its path or address."""
    name = f".seen-{uuid.uuid4().hex}"
    if isinstance(place, Remote):
        place.write(name, b"seen")
        try:
            yield (place / name).address
        finally:
            place.delete(name)
    else:
        path = place / name
        patiently(path.touch, path)
        try:
            yield str(path)
        finally:
            path.unlink(missing_ok=True)


def _living() -> dict[str, Mapping[str, Any]]:
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}


def _host(node: Mapping[str, Any]) -> str:
    return str(node.get("NodeManagerHostname") or node.get("NodeManagerAddress") or node["NodeID"])


def _name(place: Path | Remote) -> str:
    return place.address if isinstance(place, Remote) else str(place)


def _answers(looks: Mapping[Any, Mapping[str, Any]]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What looks that are over came to, by the node's id: answers, and why there is none."""
    answers, silent = {}, {}
    for look, node in looks.items():
        try:
            answers[node["NodeID"]] = ray.get(look)
        except ray.exceptions.RayError as error:
            silent[node["NodeID"]] = in_a_line(error)
    return answers, silent


def _refusal(place: Path | Remote, answers: Mapping[str, Mapping[str, Any]]) -> str | None:
    other = [f"{answer['host']} has {answer['version']}" for answer in answers.values() if _differs(answer)]
    if other:
        return f"mwray {mwray.__version__} is here, and {', '.join(other)}; install the same everywhere"
    blind = [answer["host"] for answer in answers.values() if not answer["sees"]]
    return _blind(place, blind) if blind else None


def _differs(answer: Mapping[str, Any]) -> bool:
    return bool(answer["version"] != mwray.__version__)


def _blind(place: Path | Remote, hosts: Sequence[str]) -> str:
    if isinstance(place, Remote):
        return (
            f"--folder {place.address}: {', '.join(hosts)} cannot read it. Has each node credentials for the bucket "
            "(a role, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of `ray start`)?"
        )
    return (
        f"--folder {place}: {', '.join(hosts)} cannot see it. Give a folder on storage that every node mounts, or an "
        "address such as s3://bucket/path"
    )


def _look_from(node_id: str, path: str) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
    return ray.remote(num_cpus=0)(_look).options(scheduling_strategy=strategy).remote(path)


def _look(path: str) -> dict[str, Any]:
    """Run on a node."""
    return {"host": socket.gethostname(), "sees": _sees(path), "version": mwray.__version__}


def _sees(path: str) -> bool:
    if not is_remote(path):
        return Path(path).exists()
    place, _, query = path.partition("?")
    folder, _, name = place.rpartition("/")
    try:
        return Remote(f"{folder}?{query}" if query else folder).read(name) is not None
    except StorageError:
        return False

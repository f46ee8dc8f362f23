"""spot.sh hears of a spot machine's end from each provider's own address, imitated here, and passes it on to Ray."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import yaml

from tests.cluster.check.shipped import AWS, CLUSTERS

SCRIPT = CLUSTERS / "spot.sh"
KEY = "key-of-this-minute"
NODE, HEAD = "0123abcd" * 7, "10.0.0.2:6379"
PAUSE = 0.05


class Metadata(BaseHTTPRequestHandler):
    """What a machine can ask about itself, as AWS (version 2, with a key) and Google Cloud answer."""

    def do_PUT(self) -> None:
        """Give out a key."""
        wanted = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.answer(200 if wanted else 400, KEY)

    def do_GET(self) -> None:
        """Say whether the machine is taken."""
        self.server.asked.append(self.path)
        if self.path == "/latest/meta-data/spot/instance-action":
            if self.headers["X-aws-ec2-metadata-token"] != KEY:
                self.answer(401, "")
            elif self.server.taken:
                self.answer(200, '{"action": "terminate", "time": "2030-01-01T00:02:00Z"}')
            else:
                self.answer(404, "<html>Not Found</html>")
        elif self.path == "/computeMetadata/v1/instance/preempted":
            known = self.headers["Metadata-Flavor"] == "Google"
            self.answer(200 if known else 403, "TRUE" if self.server.taken else "FALSE")
        else:
            self.answer(400, "")

    def answer(self, code: int, text: str) -> None:
        """Send it."""
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Not in the tests' output."""


@pytest.fixture
def cloud():
    """A provider's address, at which nothing is taken so far."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        server.taken, server.asked = False, []
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def machine(tmp_path, cloud):
    """A worker: a process with a raylet's words, and tools that note how they are called instead of doing it."""
    tools, calls = tmp_path / "tools", tmp_path / "calls"
    tools.mkdir()
    words = ["raylet", f"--node_id={NODE}", "--agent_command=x --node_id=0 --gcs-address=0", f"--gcs-address={HEAD}"]
    raylet = subprocess.Popen(["bash", "-c", "read -r", *words], stdin=subprocess.PIPE)
    for tool, body in {
        "ray": f'[ ! -e {tmp_path}/refuses ] || {{ echo "no head" >&2; exit 1; }}',
        "pgrep": f"echo {raylet.pid}",
        "pkill": "exit 0",
    }.items():
        (tools / tool).write_text(f'#!/bin/sh\necho "{tool} $*" >>{calls}\n{body}\n')
        (tools / tool).chmod(0o755)
    environment = {
        "HOME": str(tmp_path),
        "PATH": f"{tools}:{os.environ['PATH']}",
        "MWRAY_METADATA": f"http://127.0.0.1:{cloud.server_port}",
        "MWRAY_SPOT_PAUSE": str(PAUSE),
        "MWRAY_SPOT_LOG": str(tmp_path / "log"),
    }
    yield SimpleNamespace(
        folder=tmp_path,
        environment=environment,
        start=lambda provider: subprocess.run(["sh", SCRIPT, provider], env=environment, check=True, timeout=60),
        calls=lambda tool: [line for line in read(calls).splitlines() if line.startswith(f"{tool} ")],
        log=lambda: read(tmp_path / "log"),
        watching=lambda: watching(tmp_path),
    )
    (tmp_path / ".mwray-spot").write_text("nobody")  # which ends the one that watches
    raylet.communicate(b"\n")
    wait_for(lambda: not watching(tmp_path), "spot.sh to end")


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def watching(folder: Path) -> list[int]:
    """The copies of spot.sh that watch for the machine of that folder, without the shells that they start in turn."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
            own = f"HOME={folder}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if own and command.endswith(b"\0watch\0"):
            found[int(pid)] = parent
    return [pid for pid, parent in found.items() if parent not in found]


def wait_for(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, f"waited 60 s for {what}"
        time.sleep(0.02)


@pytest.mark.parametrize(("provider", "seconds"), [("aws", 115), ("gcp", 25)])
def test_ray_is_told_once_which_node_is_taken_and_when(provider, seconds, cloud, machine):
    machine.start(provider)  # and comes back: the ssh session that starts it goes on
    wait_for(lambda: len(cloud.asked) > 3, "questions")
    assert machine.calls("ray") == []
    cloud.taken = True
    wait_for(lambda: "Ray has been told" in machine.log(), "the notice")
    (call,) = machine.calls("ray")
    assert call == (
        f"ray drain-node --address={HEAD} --node-id={NODE} --reason=DRAIN_NODE_REASON_PREEMPTION "
        f"--reason-message={provider} takes this spot machine back --deadline-remaining-seconds={seconds}"
    )
    wait_for(lambda: not machine.watching(), "its end")
    assert machine.calls("pkill") == []


def test_without_an_answer_it_asks_again(cloud, machine):
    machine.environment["MWRAY_METADATA"] = "http://127.0.0.1:9"  # nobody listens there
    machine.start("aws")
    wait_for(lambda: "watches" in machine.log(), "the start")
    time.sleep(10 * PAUSE)
    assert machine.watching() and machine.calls("ray") == [] and cloud.asked == []


def test_a_ray_that_cannot_be_told_is_tried_again_and_trainings_are_asked_to_leave_once(cloud, machine):
    (machine.folder / "refuses").touch()
    cloud.taken = True
    machine.start("aws")
    wait_for(lambda: len(machine.calls("ray")) > 2, "several trials")
    (machine.folder / "refuses").unlink()
    wait_for(lambda: "Ray has been told" in machine.log(), "the notice")
    (call,) = machine.calls("pkill")
    assert call.startswith("pkill -TERM") and "RayTrainWorker" in call
    assert "no head" in machine.log()


def test_the_newest_copy_watches_alone(machine):
    """`ray up` of a running cluster runs the commands again."""
    machine.start("gcp")
    wait_for(lambda: machine.log().count("watches") == 1, "the first")
    first = int((machine.folder / ".mwray-spot").read_text())
    machine.start("gcp")
    wait_for(lambda: machine.log().count("watches") == 2, "the second")
    second = int((machine.folder / ".mwray-spot").read_text())
    assert first != second
    wait_for(lambda: machine.watching() == [second], "the second alone")


def test_it_says_what_it_wants():
    done = subprocess.run(["sh", SCRIPT, "azure"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "aws or gcp; got 'azure'" in done.stderr


def test_ray_has_the_command_and_its_options():
    """It is not among those that Ray promises to keep."""
    from ray.scripts.scripts import drain_node

    text = SCRIPT.read_text()
    call = text[text.index("ray drain-node") :].partition("\n}")[0]
    options = {name: option for option in drain_node.params for name in option.opts}
    given = [word.partition("=")[0] for word in call.split() if word.startswith("--")]
    assert len(given) == 5 and set(given) <= set(options)
    assert "DRAIN_NODE_REASON_PREEMPTION" in options["--reason"].type.choices


@pytest.mark.parametrize(("path", "provider"), [(AWS, "aws"), (CLUSTERS / "gcp.yaml", "gcp")], ids=["aws", "gcp"])
def test_workers_start_it_after_ray_and_the_head_does_not(path, provider):
    data = yaml.safe_load(path.read_text())
    started = data["worker_start_ray_commands"]
    assert "ray start" in started[-2] and started[-1] == f"sh ~/mwray/launch/clusters/spot.sh {provider}"
    assert "spot.sh" not in str(data["head_start_ray_commands"])

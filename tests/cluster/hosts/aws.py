"""What AWS answers: moto, in this process, behind an address in a machine's network. It knows who asked it for what.

Two answers are not moto's: that a zone has no room left, and which image is the newest.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from tests.cluster.hosts.machines import Machine, listening

REGION = "us-west-2"
ACCOUNT = "123456789012"  # moto's
PORT = 5000
FULL = "InsufficientInstanceCapacity"
REFUSAL = f"<Response><Errors><Error><Code>{FULL}</Code><Message>no room</Message></Error></Errors></Response>"


@dataclass
class Call:
    """One request."""

    asker: str
    """Its address."""
    action: str
    """As in a policy, such as ec2:RunInstances."""
    parameters: dict[str, str]
    status: str = ""
    zone: str = ""
    """That a RunInstances asked for."""


@dataclass
class Aws:
    """The account, empty but for a user who may do everything."""

    address: str
    calls: list[Call] = field(default_factory=list)
    full: set[tuple[str, str]] = field(default_factory=set)
    """Instance types and zones in which there is no room for them."""
    _turn: threading.RLock = field(default_factory=threading.RLock)
    """Moto's tables are looked through by the tests while its threads write to them."""

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://{self.address}:{PORT}"

    @property
    def ec2(self) -> Any:
        """Moto's EC2, as it stands."""
        return _backend("ec2", REGION)

    def instances(self, *states: str) -> list[Any]:
        """Instances in these states, the oldest first; without any: in whatever state."""
        with self._turn:
            every = [instance for instance in self.ec2.all_instances() if not states or instance.state in states]
        return sorted(every, key=lambda instance: instance.launch_time)

    def image(self) -> str:
        """An image of Ubuntu."""
        return next(image.id for image in self.ec2.describe_images() if "ubuntu" in image.name.lower())

    def administrator(self) -> dict[str, str]:
        """A user who may do everything, as `aws configure` is given it."""
        iam = _backend("iam", "aws")
        iam.create_user(REGION, "me")
        everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        iam.put_user_policy("me", "everything", json.dumps(everything))
        key = iam.create_access_key("me")
        return {"aws_access_key_id": key.access_key_id, "aws_secret_access_key": key.secret_access_key}

    def role(self, instance: Any) -> Any:
        """The role of an instance; None: it has none."""
        found = self.ec2.iam_instance_profile_associations.get(instance.id)
        return found.iam_instance_profile.roles[0] if found else None

    def policy(self, role: str) -> str:
        """The one policy of a role of the account."""
        (document,) = _backend("iam", "aws").get_role(role).policies.values()
        return str(document)

    def credentials(self, role: Any) -> dict[str, str]:
        """What the machine's own address says of its role."""
        with self._turn:
            assumed = _backend("sts", "aws").assume_role(REGION, "machine", role.arn, "", 3600, "")
        return {
            "Code": "Success",
            "AccessKeyId": assumed.access_key_id,
            "SecretAccessKey": assumed.secret_access_key,
            "Token": assumed.session_token,
            "Expiration": assumed.expiration.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Answer a request, and note it."""
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        call = _read(environ, body)
        if subnet := call.parameters.get("SubnetId"):
            call.zone = self.ec2.get_subnet(subnet).availability_zone
        self.calls.append(call)

        def note(status: str, headers: list[tuple[str, str]], *rest: Any) -> Callable[[bytes], object]:
            call.status = status
            return start(status, headers, *rest)

        if call.action == "ec2:RunInstances" and (call.parameters["InstanceType"], call.zone) in self.full:
            note("500 Internal Server Error", [("Content-Type", "text/xml")])
            return [REFUSAL.encode()]
        if call.action == "ssm:GetParameter":  # moto has no AWS images of this kind
            note("200 OK", [("Content-Type", "application/x-amz-json-1.1")])
            return [json.dumps({"Parameter": {"Name": json.loads(body)["Name"], "Value": self.image()}}).encode()]
        with self._turn:
            answer: Iterable[bytes] = self._moto(environ, note)
        return answer

    def serve(self, machine: Machine) -> Callable[[], None]:
        """Listen at that machine's network; returns what ends it."""
        from moto.moto_server.werkzeug_app import MotoRequestHandler
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        class Quiet(MotoRequestHandler):
            def log_request(self, *_: object) -> None:
                pass

        self._moto = DomainDispatcherApplication(create_backend_app)
        with closing(listening(machine, self.address, PORT)) as door:
            server = make_server(self.address, PORT, self, threaded=True, request_handler=Quiet, fd=door.fileno())
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def end() -> None:
            server.shutdown()
            server.server_close()

        return end


def strict(patch: pytest.MonkeyPatch) -> None:
    """Moto checks, as AWS does, who may do what, and whether images, keys and types of machines exist."""
    pytest.importorskip("moto.server", reason="needs moto: pip install 'mwray[dev]'")
    from moto import settings
    from moto.core.authorization import ActionAuthenticatorMixin
    from moto.efs.responses import EFSResponse

    patch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
    for name in ("ENABLE_AMI_VALIDATION", "ENABLE_KEYPAIR_VALIDATION", "EC2_ENABLE_INSTANCE_TYPE_VALIDATION"):
        patch.setattr(settings, name, True)
    # It takes the signature of a request with a query for wrong, which none of EC2 and IAM has.
    patch.setattr(EFSResponse, "_authenticate_and_authorize_normal_action", lambda *_: None)
    patch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", ActionAuthenticatorMixin.request_count)


def forget() -> None:
    """What moto has of the account."""
    from moto.moto_api._internal.models import moto_api_backend

    moto_api_backend.reset()


def _backend(service: str, region: str) -> Any:
    from moto.backends import get_backend

    return get_backend(service)[ACCOUNT][region]  # type: ignore[call-overload]


def _read(environ: WSGIEnvironment, body: bytes) -> Call:
    """Who asks for what: by the form of EC2 and IAM, the header of SSM, or, of others, by path."""
    scope = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].split("/")
    service = scope[3] if len(scope) > 3 else "unsigned"
    form = dict(parse_qsl(body.decode(errors="replace"))) if b"Action=" in body else {}
    target = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
    action = form.get("Action") or target or f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
    return Call(environ["REMOTE_ADDR"], f"{service}:{action}", form)

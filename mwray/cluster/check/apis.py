"""What AWS and Google Cloud take for a machine, by the descriptions of their APIs that come with their own packages.

Both packages are asked for only where a file is theirs: who has machines of their own needs neither.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mwray.cluster.check import form
from mwray.cluster.check.form import Api, Form

PACKAGES = {"aws": "boto3", "gcp": "google-api-python-client"}
"""Distributions that hold the descriptions; `ray up` needs them as well."""

_AWS_KINDS = {
    "structure": form.SETTINGS,
    "list": form.LIST,
    "string": form.TEXT,
    "timestamp": form.TEXT,  # Ray writes the configuration as JSON, which has no dates
    "integer": form.WHOLE,
    "long": form.WHOLE,
    "float": form.NUMBER,
    "double": form.NUMBER,
    "boolean": form.TRUTH,
}
_GOOGLE_KINDS = {
    "object": form.SETTINGS,
    "array": form.LIST,
    "string": form.TEXT,
    "integer": form.DIGITS,
    "number": form.NUMBER,
    "boolean": form.TRUTH,
}


def load(provider: str) -> Api | None:
    """The description of the machines of `provider`, "aws" or "gcp"; None where the package that has it is missing."""
    if provider == "aws":
        return _aws() if find_spec("boto3") and find_spec("botocore") else None
    found = find_spec("googleapiclient")
    path = Path(found.origin).parent / "discovery_cache/documents/compute.v1.json" if found and found.origin else None
    return _google(path) if path and path.exists() else None


@functools.cache
def _aws() -> Api:
    """The parameters of RunInstances."""
    import botocore.loaders
    import botocore.model

    described = botocore.loaders.Loader().load_service_model("ec2", "service-2")
    asked = botocore.model.ServiceModel(described, "ec2").operation_model("RunInstances").input_shape
    members = {name: _of_shape(shape) for name, shape in asked.members.items()}
    # Not held to the list of types: the table of prices is what knows them, and a new one only has to be written there.
    members["InstanceType"] = Form(form.TEXT)
    # Ray chooses one of these for each machine.
    members["SubnetIds"] = Form(form.LIST, each=lambda: Form(form.TEXT))
    template = members["LaunchTemplate"]
    version_too = {**template.members(), "Version": Form(form.TEXT_OR_WHOLE)}  # Ray makes a text of it
    members["LaunchTemplate"] = dataclasses.replace(template, members=lambda: version_too)
    # Not `needed`: MinCount and MaxCount, which Ray sets.
    return Api(f"AWS (botocore {version('botocore')})", Form(form.SETTINGS, members=lambda: members))


def _of_shape(shape: Any) -> Form:
    """Of one of botocore's shapes."""
    kind = _AWS_KINDS.get(shape.type_name, form.ANYTHING)
    if kind == form.SETTINGS:
        members = functools.partial(_of_members, shape)
        return Form(kind, members=members, needed=tuple(shape.required_members))
    if kind == form.LIST:
        return Form(kind, each=lambda: _of_shape(shape.member))
    return Form(kind, tuple(getattr(shape, "enum", ())))


def _of_members(shape: Any) -> Mapping[str, Form]:
    return {name: _of_shape(below) for name, below in shape.members.items()}


@functools.cache
def _google(path: Path) -> Api:
    """The resource Instance."""
    document = json.loads(path.read_text())
    schemas = document["schemas"]
    members = dict(_of_properties(schemas["Instance"], schemas))
    # Ray takes these two out: one goes beside the machine, the other is for TPUs.
    members["sourceInstanceTemplate"] = Form(form.TEXT)
    members["networkConfig"] = Form(form.ANYTHING)
    name = f"Google Cloud ({document['name']} {document['version']} of {document['revision']})"
    return Api(name, Form(form.SETTINGS, members=lambda: members))


def _of_schema(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Form:
    """Of a part of a discovery document."""
    if "$ref" in schema:
        return _of_schema(schemas[schema["$ref"]], schemas)
    kind = _GOOGLE_KINDS.get(schema["type"], form.ANYTHING)
    if kind == form.TEXT and schema.get("format", "").endswith("int64"):  # JSON's own numbers hold 53 bits for sure
        kind = form.DIGITS
    items = schema.get("items", schema.get("additionalProperties"))
    return Form(
        kind,
        tuple(schema.get("enum", ())),
        functools.partial(_of_properties, schema, schemas),
        None if items is None else lambda: _of_schema(items, schemas),
        # Ray's own examples have `scheduling: [{preemptible: true}]`, which Google takes.
        or_list=kind == form.SETTINGS,
    )


def _of_properties(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Mapping[str, Form]:
    return {name: _of_schema(below, schemas) for name, below in schema.get("properties", {}).items()}

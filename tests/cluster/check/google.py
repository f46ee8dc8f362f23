"""A stand-in for google-api-python-client, which is large: the part of its description that our file needs."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

REAL = find_spec("googleapiclient") is not None

TEXT, TRUTH = {"type": "string"}, {"type": "boolean"}
SCHEMAS = {
    "Instance": {
        "machineType": TEXT,
        "description": TEXT,
        "disks": {"type": "array", "items": {"$ref": "AttachedDisk"}},
        "labels": {"type": "object", "additionalProperties": TEXT},
        "networkInterfaces": {"type": "array", "items": {"$ref": "NetworkInterface"}},
        "scheduling": {"$ref": "Scheduling"},
    },
    "AttachedDisk": {
        "autoDelete": TRUTH,
        "boot": TRUTH,
        "type": {"type": "string", "enum": ["PERSISTENT", "SCRATCH"]},
        "initializeParams": {"$ref": "AttachedDiskInitializeParams"},
    },
    "AttachedDiskInitializeParams": {"diskSizeGb": {"type": "string", "format": "int64"}, "sourceImage": TEXT},
    "NetworkInterface": {"networkIP": TEXT},
    "Scheduling": {
        "automaticRestart": TRUTH,
        "instanceTerminationAction": {"type": "string", "enum": ["DELETE", "STOP"]},
        "minNodeCpus": {"type": "integer", "format": "int32"},
        "onHostMaintenance": {"type": "string", "enum": ["MIGRATE", "TERMINATE"]},
        "preemptible": TRUTH,
        "provisioningModel": {"type": "string", "enum": ["SPOT", "STANDARD"]},
    },
}


def stand_in(folder: Path) -> Path:
    """Make a package under `folder` that has nothing but the description."""
    documents = folder / "googleapiclient" / "discovery_cache" / "documents"
    documents.mkdir(parents=True)
    (folder / "googleapiclient" / "__init__.py").touch()
    schemas = {name: {"id": name, "type": "object", "properties": members} for name, members in SCHEMAS.items()}
    text = json.dumps({"name": "compute", "version": "v1", "revision": "20260101", "schemas": schemas})
    (documents / "compute.v1.json").write_text(text)
    return folder

"""The same for Kubernetes: a manifest for the KubeRay operator, of which Ray's launcher knows nothing.

The manifest's form is checked by `kubectl apply --dry-run=server`, against the operator that is installed there; here
is what that cannot know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mwray.cluster.check.document import Document, Mistake, Place
from mwray.cluster.check.pins import of_image, pins
from mwray.cluster.check.rules import LOOPBACK

KIND = "RayCluster"
GPU = "nvidia.com/gpu"
GROUP = 100
"""Of user ray in Ray's images; the user is 1000."""


def is_manifest(documents: Sequence[Document]) -> bool:
    """Whether this is a Kubernetes manifest and not a file for `ray up`."""
    return any("apiVersion" in document.data for document in documents)


def check(documents: Sequence[Document]) -> Iterator[Mistake]:
    """What is wrong with a manifest."""
    clusters = [document for document in documents if document.data.get("kind") == KIND]
    if not clusters:
        yield documents[0].mistake(("kind",), f"there is no {KIND} in this manifest")
    for document in clusters:
        yield from _versions(document)
        yield from _security(document)
        yield from _head(document)
        yield from _storage(document)
    if clusters and not any(document.data.get("kind") == "NetworkPolicy" for document in documents):
        yield clusters[0].mistake((), "no NetworkPolicy beside it: every pod of the Kubernetes cluster reaches Ray")


def describe(documents: Sequence[Document]) -> list[str]:
    """Size at most; what a node costs depends on the Kubernetes cluster's own pools."""
    lines = []
    for document in documents:
        groups = document.get("spec", "workerGroupSpecs")
        for index in range(len(groups) if isinstance(groups, list) else 0):
            pods = document.get("spec", "workerGroupSpecs", index, "maxReplicas")
            group = document.get("spec", "workerGroupSpecs", index, "groupName")
            lines.append(f"{pods!s:>3} x pods of group {group}, {_gpus(document, index)} GPUs each")
    return [*lines, "what a pod costs depends on the node pools of the Kubernetes cluster"]


def _versions(document: Document) -> Iterator[Mistake]:
    pinned = pins()
    if document.get("spec", "rayVersion") != pinned["ray"]:
        given = document.get("spec", "rayVersion")
        yield document.mistake(("spec", "rayVersion"), f"is {given!r}, where constraints.txt has {pinned['ray']!r}")
    for place, image in document.scalars():
        if place[-1] == "image" and "containers" in place:
            yield from (document.mistake(place, text) for text in of_image(str(image), pinned))


def _security(document: Document) -> Iterator[Mistake]:
    if document.get("spec", "authOptions", "mode") != "token":
        yield document.mistake(
            ("spec", "authOptions", "mode"), "authOptions.mode has to be token: anybody who reaches Ray runs code"
        )
    place: Place = ("spec", "headGroupSpec", "rayStartParams", "dashboard-host")
    if document.get(*place) not in LOOPBACK:
        yield document.mistake(place, "give dashboard-host: 127.0.0.1; the operator's default is all addresses")


def _head(document: Document) -> Iterator[Mistake]:
    place: Place = ("spec", "headGroupSpec", "rayStartParams", "num-cpus")
    if document.get(*place) != "0":
        yield document.mistake(place, 'give num-cpus: "0", or trials run in the pod that must not be lost')
    if document.get("spec", "enableInTreeAutoscaling") is not True:
        yield document.mistake(
            ("spec", "enableInTreeAutoscaling"), "is not true: no worker would come when trials wait"
        )


def _storage(document: Document) -> Iterator[Mistake]:
    """Every pod may write to the volume that it mounts."""
    groups = document.get("spec", "workerGroupSpecs")
    workers = [("spec", "workerGroupSpecs", index) for index in range(len(groups) if isinstance(groups, list) else 0)]
    lines = set()  # once, where several pods share it by an alias
    for group in (("spec", "headGroupSpec"), *workers):
        place: Place = (*group, "template", "spec")
        mistake = document.mistake(
            (*place, "securityContext", "fsGroup"),
            f"give securityContext.fsGroup: {GROUP}, the group of Ray's image; a volume of root's is not writable",
        )
        wrong = document.get(*place, "volumes") and document.get(*place, "securityContext", "fsGroup") != GROUP
        if wrong and mistake.line not in lines:
            lines.add(mistake.line)
            yield mistake


def _gpus(document: Document, group: int) -> Any:
    """What the first container, Ray's, may use."""
    place = ("spec", "workerGroupSpecs", group, "template", "spec", "containers", 0, "resources", "limits", GPU)
    return document.get(*place) or 0

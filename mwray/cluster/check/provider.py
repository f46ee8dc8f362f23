"""What Ray hands to a provider as it is, or never reads: its own schema lets anything through there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mwray.cluster.check import apis
from mwray.cluster.check.document import Document, Mistake
from mwray.cluster.check.form import Api, compare
from mwray.cluster.check.pins import pins
from mwray.config import nearest

_ANY = (
    "type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips", "use_external_head_ip",
    "disable_node_updaters", "disable_launch_config_check", "foreground_node_launch", "worker_liveness_check",
)  # fmt: skip
READ = {
    "aws": (*_ANY, "security_group", "key_pair", "aws_credentials", "cloudwatch"),
    "gcp": (*_ANY, "project_id", "gcp_credentials"),
}
"""Everything that Ray (2.60) looks for under `provider`."""


def provider_settings(document: Document, prepared: Mapping[str, Any]) -> Iterator[Mistake]:
    """What Ray would pass over in silence: its schema lets any name through under `provider`."""
    provider = document.get("provider", "type")
    known = READ.get(provider, ())
    for name in document.get("provider") if known else ():
        if name not in known:
            text = f"Ray reads no such setting with provider {provider}.{nearest(name, list(known))}"
            yield document.mistake(("provider", name), text)


def node_configs(document: Document, prepared: Mapping[str, Any]) -> Iterator[Mistake]:
    """Each machine type is what the provider takes; it would say so itself when other machines run already."""
    provider, types = document.get("provider", "type"), document.get("available_node_types")
    if provider not in apis.PACKAGES or not types:
        return
    api = apis.load(provider)
    if api is None:
        package = apis.PACKAGES[provider]
        text = f"{package} is not installed: `ray up` needs it, and node_config goes unchecked"
        wanted = f"{package}=={pins()[package]}"
        yield document.mistake(("provider", "type"), f"{text}; pip install -c constraints.txt {wanted}")
        return
    told = set()  # once, where several types share it by an alias
    for name, node in types.items():
        place = ("available_node_types", name, "node_config")
        for mistake in _node_config(document, place, node["node_config"], provider, api):
            what = (mistake.line, mistake.where.rpartition(".")[2], mistake.text)
            if what not in told:
                told.add(what)
                yield mistake


def _node_config(
    document: Document, place: tuple[str, ...], config: Mapping[str, Any], provider: str, api: Api
) -> Iterator[Mistake]:
    if provider == "gcp" and "machineType" not in config and {"acceleratorType", "acceleratorConfig"} & set(config):
        return  # a TPU, which is of another API
    yield from compare(document, place, config, api.machine, api.name)
    if provider == "aws" and "SubnetId" in config:
        yield document.mistake((*place, "SubnetId"), "Ray puts its own choice there; give SubnetIds, a list")

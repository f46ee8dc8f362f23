"""What a cluster costs for an hour, from a table of prices with its date."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PRICES = Path(__file__).parents[3] / "launch" / "clusters" / "prices.yaml"
TYPE_KEYS = {"aws": "InstanceType", "gcp": "machineType"}
"""Where the providers that are paid by the hour keep the machine type."""


@dataclass(frozen=True)
class Machines:
    """Some machines of one kind, at full size."""

    name: str
    count: int
    type: str
    price: float | None
    """US dollars for an hour of one; None: the table does not have it."""
    spot: bool

    @property
    def cost(self) -> float:
        """US dollars for an hour of all."""
        return self.count * (self.price or 0.0)


def machines(prepared: Mapping[str, Any], table: Mapping[str, Any] | None = None) -> list[Machines]:
    """The head and as many workers as may ever run, dearest first: what the bill can come to.

    Args:
        prepared: configuration with Ray's defaults filled in.
        table: prices; default: launch/clusters/prices.yaml.

    Returns:
        Nothing where the machines are not paid by the hour.
    """
    provider = prepared["provider"]["type"]
    if provider not in TYPE_KEYS:
        return []
    prices = (prices_table() if table is None else table)[provider]["hour"]
    kinds = [_kind(name, node, provider, prices) for name, node in prepared["available_node_types"].items()]
    head = next(kind for kind in kinds if kind.name == prepared["head_node_type"])
    found = [Machines(head.name, 1, head.type, head.price, head.spot)]
    room = int(prepared["max_workers"])
    unknown_first = float("inf")
    workers = (kind for kind in kinds if kind.count > 0 and kind.name != head.name)
    for kind in sorted(workers, key=lambda k: unknown_first if k.price is None else k.price, reverse=True):
        count = min(kind.count, room)
        room -= count
        if count:
            found.append(Machines(kind.name, count, kind.type, kind.price, kind.spot))
    return found


def is_spot(node_config: Mapping[str, Any]) -> bool:
    """Whether the provider may take a machine back at any time."""
    scheduling = node_config.get("scheduling")
    parts = scheduling if isinstance(scheduling, list) else [scheduling]
    return any(
        part.get("provisioningModel") == "SPOT" or part.get("preemptible") or part.get("MarketType") == "spot"
        for part in [*parts, node_config.get("InstanceMarketOptions")]
        if isinstance(part, Mapping)  # neither Ray's schema nor ours says what it has to be
    )


def describe(prepared: Mapping[str, Any], table: Mapping[str, Any] | None = None) -> list[str]:
    """The bill as lines of text."""
    table = prices_table() if table is None else table
    found = machines(prepared, table)
    if not found:
        return [f"provider {prepared['provider']['type']}: nothing is paid by the hour"]
    lines = [_line(kind) for kind in found]
    total = sum(kind.cost for kind in found)
    missing = sorted({kind.type for kind in found if kind.price is None})
    alone = "" if found[0].price is None else f", {found[0].cost:.2f} $ with the head alone"
    least, why = ("at least ", f" (no price known for {', '.join(missing)})") if missing else ("", "")
    lines.append(f"at full size {least}{total:.2f} $ an hour on demand{why}{alone}")
    own = prepared["provider"].get("region")
    prices = table[prepared["provider"]["type"]]
    other = f"; {own} has others" if own != prices["region"] else ""
    lines.append(f"prices of {prices['region']} as of {table['date']}{other}; storage and traffic come on top")
    return lines


def prices_table(path: Path = PRICES) -> dict[str, Any]:
    """The table of prices: `date`, and for each provider `region` and `hour`, dollars by machine type."""
    return dict(yaml.safe_load(path.read_text()))


def _kind(name: str, node: Mapping[str, Any], provider: str, prices: Mapping[str, float]) -> Machines:
    config = node["node_config"]
    machine = str(config.get(TYPE_KEYS[provider], "?"))
    return Machines(name, int(node.get("max_workers", 0)), machine, prices.get(machine), is_spot(config))


def _line(kind: Machines) -> str:
    if kind.price is None:
        return f"{kind.count:3} x {kind.type:16} {'?':>9}             {kind.name}"
    spot = ", spot: at most this" if kind.spot else ""
    return f"{kind.count:3} x {kind.type:16} {kind.price:9.4f} = {kind.cost:7.2f} $   {kind.name}{spot}"

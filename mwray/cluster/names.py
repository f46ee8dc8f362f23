"""How a search's fields and numbers are written for people. Neither Ray nor torch."""

from __future__ import annotations

import json
from typing import Any

LABELS = {
    "method.weight_net.shape": "weight net",
    "data.num_meta": "meta samples",
    "method.name": "method",
    "model.name": "network",
    "optimizer.name": "optimizer",
    "optimizer.lr": "lr",
    "method.weight_net.lr": "weight-net lr",
}
"""Headings of the usual fields; others go by the last part of their name."""


def heading(name: str) -> str:
    """A field's short name."""
    return LABELS.get(name, name.rsplit(".", 1)[-1])


def plain(value: Any) -> str:
    """A field's value in a narrow column; a field that a trial does not have is a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value)


def percent(fraction: float | None) -> str:
    """An accuracy."""
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


def clock(seconds: float) -> str:
    """A length of time."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

"""Settings of the methods that see the biased labels alone."""

from __future__ import annotations

from typing import Literal

from mwray.config import config


@config
class BaseModelSettings:
    """Plain cross-entropy on the biased labels."""

    name: Literal["base"] = "base"

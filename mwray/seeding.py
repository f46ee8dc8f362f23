"""Random numbers: one generator per use, keyed by name, so that changing one use never shifts another."""

from __future__ import annotations

import hashlib

import torch


def key(seed: int, *names: str | int) -> int:
    """A 63-bit integer that depends on `seed` and every name (SHA-256; stable over processes and versions)."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rng(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one use: `rng(seed, "shuffle", epoch)`.

    The same arguments give the same stream on the same kind of device; nothing has to be saved to resume one that is
    keyed by epoch.
    """
    return torch.Generator(device).manual_seed(key(seed, *names))

"""A model of Meta-Weight-Net over many GPUs, from counted bytes, assumed links, and compute: measured on one GPU where
`benchmarks.gpu` has left its numbers, else counted operations at the speed that others measured on one.

An exact step takes 10 forwards' work (a plain one 3) and exchanges three gradients in turn (a plain one 1), none of
which can be hidden behind the next pass, which needs it; each could be hidden behind its own backward pass.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50

from mwray.models.resnet_cifar import ResNet
from mwray.models.wide_resnet import WideResNet

SPEED = 6.06e13
"""Operations per second of one A100 (80 GB) that trains ResNet-50 in mixed precision: 2470 images a second (NVIDIA,
DeepLearningExamples, "ResNet50 v1.5 for PyTorch", container 21.03) of three forwards, 8.18e9 operations each. With TF32
it was 938 images. Eight of them reached 84 % of eight times that, with TF32 97 %, loading from disk included."""
LINK_INSIDE, LINK_OUTSIDE = 3e11, 2.5e10
"""Bytes per second of one GPU: to the others of its host of 8, and to other hosts."""
LATENCY_INSIDE, LATENCY_OUTSIDE = 2e-5, 5e-5
"""Seconds of one exchange, for each doubling of the number of GPUs."""
LAUNCH = 2.5e-3
"""Seconds that the kernels of a step take to start where they are too small to fill the GPU (ResNet-32, graphs)."""
SMALL_EXCHANGES = 4
"""Exchanges of a few numbers in a step: the sums of Eq. 40, the meta loss, the weight net's 301 slopes."""

NETWORKS: dict[str, tuple[Any, tuple[int, int, int], int]] = {
    "ResNet-32": (lambda: ResNet(32, 10, (3, 32, 32)), (3, 32, 32), 100),
    "WRN-28-10": (lambda: WideResNet(28, 10, 10, (3, 32, 32)), (3, 32, 32), 100),
    "ResNet-50": (lambda: resnet50(num_classes=14), (3, 224, 224), 32),
}
"""By name: how to build it, its images, and images per GPU (and as many meta images): the paper's batches."""

ASSUMPTIONS = (
    f"compute: 10 forwards (plain: 3) of counted operations at {SPEED:.2e} per second, what an A100 was measured at "
    f"in ResNet-50, and {1e3 * LAUNCH:g} ms at least",
    f"exchange: 2 (W - 1) / W of the bytes at {LINK_INSIDE:.1e} B/s inside a host of 8, {LINK_OUTSIDE:.1e} outside",
    f"latency: {1e6 * LATENCY_INSIDE:g} us inside, {1e6 * LATENCY_OUTSIDE:g} us outside, times log2 W, per exchange",
    f"exact step: 3 gradients of float32 and {SMALL_EXCHANGES} small exchanges; plain: 1 gradient; nothing overlaps",
    "the batch grows with W: at the paper's 100 images in all, more than a few GPUs have nothing to do",
)


MEASURED = {"ResNet-32": "resnet32", "WRN-28-10": "wrn28-10"}
"""The names of `benchmarks.gpu` for these networks, at the same batches."""


def measured(path: Path, precision: str = "fp32") -> dict[str, tuple[float, float]]:
    """Seconds of an exact and of a plain step on one GPU, by network, from `benchmarks.gpu`'s numbers: the faster path.

    Raises:
        ValueError: a network has no such times there, or they are a CPU's.
    """
    report = json.loads(path.read_text())
    if report["settings"]["device"] == "cpu":
        raise ValueError(f"{path}: measured on a CPU; `python -m benchmarks.gpu` on a GPU makes what is meant")
    found = {}
    for name, model in MEASURED.items():
        times = []
        for method in ("mwnet", "plain"):
            wanted = {"model": model, "precision": precision, "method": method}
            rows = [row for row in report["rows"] if wanted.items() <= row.items() and "milliseconds" in row]
            if not rows:
                raise ValueError(f"{path}: no time of {method} for {model} in {precision}")
            times.append(min(row["milliseconds"] for row in rows) / 1e3)
        found[name] = (times[0], times[1])
    return found


def modelled(
    name: str,
    workers: tuple[int, ...] = (1, 8, 64, 512),
    seconds: Mapping[str, tuple[float, float]] | None = None,
) -> list[dict[str, Any]]:
    """Times of a step in seconds, and efficiency: the share of W times one GPU's images per second.

    Args:
        name: one of NETWORKS.
        workers: numbers of GPUs.
        seconds: of an exact and of a plain step on one GPU, by network (`measured`); what is missing is counted.
    """
    operations, parameters = counted(name)
    guess = tuple(max(LAUNCH * part / 10, part * operations / SPEED) for part in (10, 3))
    compute, plain = (seconds or {}).get(name, guess)
    rows = []
    for size in workers:
        gradient = exchange(4 * parameters, size)
        small = SMALL_EXCHANGES * exchange(4 * 301, size)
        row = {"network": name, "workers": size, "compute": compute, "exchange": 3 * gradient + small}
        row["measured"] = name in (seconds or {})
        row["efficiency"] = compute / (compute + row["exchange"])
        row["plain_efficiency"] = plain / (plain + gradient)
        rows.append(row)
    return rows


def exchange(size: float, workers: int) -> float:
    """Seconds until `size` bytes are summed over all workers."""
    if workers == 1:
        return 0.0
    inside = workers <= 8
    link, latency = (LINK_INSIDE, LATENCY_INSIDE) if inside else (LINK_OUTSIDE, LATENCY_OUTSIDE)
    return 2 * (workers - 1) / workers * size / link + latency * (workers - 1).bit_length()


@cache
def counted(name: str) -> tuple[float, int]:
    """Operations of one forward over a GPU's images, and parameters; on no device, so at no cost."""
    make, shape, images = NETWORKS[name]
    with torch.device("meta"):
        network: nn.Module = make().eval()
        x = torch.empty(1, *shape)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(x)
    return counter.get_total_flops() * images, sum(p.numel() for p in network.parameters())

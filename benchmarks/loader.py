"""Images per second that reach training: mwray's loader against a torchvision DataLoader that does the same to them.

    python -m benchmarks.loader                       real CIFAR-10 where it is found, on this machine's CPU
    python -m benchmarks.loader --device cuda --batch 100 1000

All of them shuffle, reflect-pad by 4, crop 32x32 at random, mirror with probability 1/2, normalise, and leave float32
batches and labels on the device. Passes are interleaved. DataLoader's worker processes are started before the clock.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import v2

from benchmarks.charts import bars
from benchmarks.images import cifar10
from benchmarks.timing import quartiles, surroundings
from mwray.data.loader import Loader
from mwray.data.settings import Data
from mwray.data.sources import Source
from mwray.data.splits import split
from mwray.seeding import rng

Batches = Iterator[tuple[Tensor, Tensor]]


class AsPublished(Dataset[tuple[Tensor, int]]):
    """torchvision.datasets.CIFAR10's way: an array, made a PIL image when asked for, then transformed."""

    def __init__(self, source: Source) -> None:
        self.images = source.train_images.permute(0, 2, 3, 1).contiguous().numpy()  # [N, H, W, C], as in its pickles
        self.labels = source.train_labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(source.mean, source.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class OnTensors(Dataset[tuple[Tensor, int]]):
    """The same without PIL: torchvision's newer transforms on uint8 tensors, one image at a time."""

    def __init__(self, source: Source) -> None:
        self.images, self.labels = source.train_images, source.train_labels.tolist()
        self.transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=4, padding_mode="reflect"),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(list(source.mean), list(source.std)),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def main() -> None:
    """Measure, print a line each, write the numbers and a picture."""
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    source, what = cifar10()
    report: dict[str, Any] = {
        "settings": vars(options) | {"out": str(options.out)},
        "images": what,
        "where": surroundings(options.device),
        "batches": {},
    }
    for batch in options.batch:
        rows = measure(source, batch, options)
        report["batches"][batch] = rows
        for row in rows:
            low, high = row["quartiles"]
            print(
                f"batch {batch:5}  {row['name']:42} {row['images_per_second']:>12,.0f} images/s "
                f"({low:,.0f} to {high:,.0f})   ours is {row['ours_is']:.1f} times that",
                flush=True,
            )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "loader.json").write_text(json.dumps(report, indent=1))
    draw(report, options.out / "loader.png")
    print(f"numbers: {options.out / 'loader.json'}   picture: {options.out / 'loader.png'}")


def measure(source: Source, batch: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per way, ours first: medians over interleaved rounds of so many seconds each."""
    ways = {"mwray": ours(source, batch, options.device)}
    for name, dataset in (("DataLoader, PIL", AsPublished(source)), ("DataLoader, v2 on tensors", OnTensors(source))):
        for workers in options.workers:
            ways[f"{name}, {workers} workers"] = theirs(dataset, batch, workers, options.device)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, batches in ways.items():
            rates[name].append(_rate(batches, options.seconds, options.device))
    middle = {name: quartiles(values)[1] for name, values in rates.items()}
    return [
        {
            "name": name,
            "images_per_second": middle[name],
            "quartiles": [quartiles(values)[0], quartiles(values)[2]],
            "ours_is": float(np.median([a / b for a, b in zip(rates["mwray"], values, strict=True)])),
            "rounds": len(values),
        }
        for name, values in rates.items()
    ]


def ours(source: Source, batch: int, device: str) -> Batches:
    """Endless passes of mwray's loader."""
    splits = split(Data(source="cifar10", num_meta=0), 0, source)
    loader = Loader(splits.train, splits, torch.device(device), augment=True)
    return ((b.x, b.y) for b in loader.cycle(batch, rng(0, "order"), rng(0, "crop", device=device)))


def theirs(dataset: Dataset[Any], batch: int, workers: int, device: str) -> Batches:
    """Endless passes of a DataLoader set up as its documentation advises."""
    loader = DataLoader(
        dataset,
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device == "cuda",
    )
    while True:
        for x, y in loader:
            yield x.to(device, non_blocking=True), y.to(device, non_blocking=True)


def _rate(batches: Batches, seconds: float, device: str) -> float:
    """Images per second over at least so many seconds, after two batches that are not counted."""
    for _ in range(2):
        next(batches)
    wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start, images = time.perf_counter(), 0
    while (now := time.perf_counter() - start) < seconds:
        for _ in range(10):
            images += len(next(batches)[1])
        wait()
    del now
    return images / (time.perf_counter() - start)


def draw(report: dict[str, Any], path: Path) -> None:
    """Bars, one panel per batch size."""
    batches = report["batches"]
    most = max(len(rows) for rows in batches.values())
    figure = Figure(figsize=(7, (0.7 + 0.3 * most) * len(batches)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(batches), 1, squeeze=False)[:, 0]
    for axes, (batch, rows) in zip(panels, batches.items(), strict=True):
        values = [row["images_per_second"] for row in rows]
        colors = ["#E69F00" if row["name"] == "mwray" else "#999999" for row in rows]
        title = f"Images per second, batch {batch}, {report['images']}"
        bars(axes, [row["name"] for row in rows], values, colors, "{:,.0f}", title, margin=0.15)
    figure.savefig(path, dpi=150)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[100], help="images in a batch")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="DataLoader's worker processes")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved repeats")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each repeat, at least")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads of the main process (0: as PyTorch chooses)"
    )
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="folder of loader.json, loader.png")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Small Parquet shards in the layouts that the reader must understand."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image


def pictures(count: int, seed: int = 0, size: int = 32) -> NDArray[np.uint8]:
    """Random colour images [count, size, size, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def encode(pixels: NDArray[np.uint8], coding: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, coding, **({"lossless": True, "exact": True} if coding == "WEBP" else {}))
    return out.getvalue()


def write(
    path: Path,
    coded: Sequence[Any],
    labels: Sequence[Any],
    image: str = "img",
    label: str = "label",
    plain: bool = False,
) -> None:
    """Write one shard; `plain` stores the bytes themselves, else a struct as the hub does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = pa.array(coded, pa.binary()) if plain else pa.array([{"bytes": c, "path": None} for c in coded])
    pq.write_table(pa.table({image: cells, label: pa.array(labels)}), path)


def folder(path: Path, num_classes: int = 10, label: str = "label") -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Write two training shards and a test shard; returns the training and the test images [N, H, W, 3]."""
    train, test = pictures(2 * num_classes), pictures(num_classes, seed=1)
    half = list(range(num_classes))
    write(path / "train-00000-of-00002.parquet", [encode(p) for p in train[:num_classes]], half, label=label)
    write(path / "train-00001-of-00002.parquet", [encode(p) for p in train[num_classes:]], half, label=label)
    write(path / "test-00000-of-00001.parquet", [encode(p) for p in test], half, label=label)
    return train, test

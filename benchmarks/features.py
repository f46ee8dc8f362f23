"""Memory and time that the start of a training on feature vectors takes, by how the vectors are given (Linux).

    python -m benchmarks.features                     400,000 x 512 numbers, on this machine's CPU
    python -m benchmarks.features --rows 1000000 --columns 768

Each case is a process of its own. Counted is its anonymous memory, what it holds beside pages of files (RssAnon), over
what it held before: the most of it while the function is called, the sets are divided and 500 batches are drawn.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.timing import surroundings
from mwray.data.loader import Loader
from mwray.data.own import OwnFeatures, checked
from mwray.data.settings import Data
from mwray.data.sources import of_own
from mwray.data.splits import split
from mwray.seeding import rng

CASES = list(product((True, False), ("float32", "float64"), (True, False)))
"""With checked vectors apart or not; the type; memory-mapped or not."""


def anonymous() -> int:
    """Bytes of this process that are no pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def start(path: Path, mapped: bool, clean: bool) -> dict[str, float]:
    """Gigabytes at most, seconds until the sets are divided, and batches of 100 a second."""
    before, most, done = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            most[0] = max(most[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    rows = np.load(path, mmap_mode="r" if mapped else None)
    labels, few = np.arange(len(rows)) % 10, np.array(rows[:1000])
    apart = (few, labels[:1000]) if clean else (None, None)
    source = of_own(checked(OwnFeatures(rows, labels, few, labels[:1000], *apart), "benchmarks.features:start"))
    del rows
    splits = split(Data(source="benchmarks.features:start", num_meta=100), 0, source)
    del source
    divided = time.perf_counter()
    loader = Loader(splits.train, splits, torch.device("cpu"), augment=False)
    count = sum(1 for _ in islice(loader.epoch(100, rng(0), rng(0)), 500))
    drawn = time.perf_counter()
    done.set()
    watcher.join()
    return {"gigabytes": (most[0] - before) / 1e9, "seconds": divided - began, "batches": count / (drawn - divided)}


def write(path: Path, dtype: str, rows: int, columns: int) -> None:
    """Normal numbers, in a file as numpy.save leaves it."""
    file = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), (rows, columns))
    generator = np.random.default_rng(0)
    for begin in range(0, rows, 10_000):
        part = file[begin : begin + 10_000]
        part[:] = generator.standard_normal(part.shape, np.float32)
    file.flush()


def main() -> None:
    """Measure every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    options = parser.parse_args()
    numbers: list[dict[str, Any]] = []
    size = 4e-9 * options.rows * options.columns
    print(f"{options.rows:,} x {options.columns} numbers, {size:.2f} GB as float32")
    with tempfile.TemporaryDirectory() as folder:
        for clean, dtype, mapped in CASES:
            path = Path(folder) / f"{dtype}.npy"
            if not path.exists():
                write(path, dtype, options.rows, options.columns)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found = pool.apply(start, (path, mapped, clean))
            numbers.append({"dtype": dtype, "mapped": mapped, "clean": clean, **found})
            given = f"{dtype}, {'mapped' if mapped else 'in memory'}, {'with' if clean else 'without'} clean"
            line = "{:40} {gigabytes:5.2f} GB {seconds:6.1f} s {batches:7.0f} batches/s"
            print(line.format(given, **found), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "features.json").write_text(json.dumps({**surroundings("cpu"), "cases": numbers}, indent=1))


if __name__ == "__main__":
    main()

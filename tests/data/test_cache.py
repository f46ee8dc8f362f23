"""The cache: the second start decodes nothing, and nothing wrong in the file is ever believed."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mwray.data import cache
from mwray.data.cache import Arrays, Undecoded, cached


def _arrays(seed: int = 0) -> Arrays:
    draw = np.random.default_rng(seed)
    return Arrays(
        train_images=draw.integers(0, 256, (20, 3, 4, 4), np.uint8),
        train_labels=draw.integers(0, 10, 20),
        test_images=draw.integers(0, 256, (6, 3, 4, 4), np.uint8),
        test_labels=draw.integers(0, 10, 6),
    )


def _equal(a: Arrays, b: Arrays) -> bool:
    return all(np.array_equal(getattr(a, field), getattr(b, field)) for field in cache.FIELDS)


class Builder:
    """Counts how often it is asked to decode."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Arrays:
        self.calls += 1
        return _arrays()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "set" / "train.parquet"
    file.parent.mkdir()
    file.write_bytes(b"coded")
    return file


def test_the_second_start_decodes_nothing_and_maps_the_file(source: Path) -> None:
    build = Builder()
    first = cached("set", source.parent, [source], build)
    second = cached("set", source.parent, [source], build)
    assert build.calls == 1
    assert _equal(first, _arrays())
    assert _equal(second, _arrays())
    assert isinstance(second.train_images.base, np.memmap | np.ndarray)
    assert not second.train_images.flags.owndata
    assert [path.name for path in (source.parent / ".mwray").iterdir() if path.suffix == ".npy"] == ["set.npy"]


def test_what_a_killed_process_left_goes_with_the_next_writing(source: Path) -> None:
    left = source.parent / ".mwray" / "set.0123.tmp"
    other = source.parent / ".mwray" / "settled.0123.tmp"
    left.parent.mkdir()
    left.write_bytes(b"half")
    other.write_bytes(b"of another set, which may be writing now")
    cached("set", source.parent, [source], Builder())
    assert not left.exists() and other.exists()


def test_writing_into_the_arrays_leaves_the_file_alone(source: Path) -> None:
    build = Builder()
    for _ in range(3):
        arrays = cached("set", source.parent, [source], build)
        assert _equal(arrays, _arrays())
        arrays.train_images[:] = 0
    assert build.calls == 1


@pytest.mark.parametrize("change", ["size", "time", "name"])
def test_changed_sources_are_decoded_again(source: Path, change: str, caplog: pytest.LogCaptureFixture) -> None:
    build = Builder()
    cached("set", source.parent, [source], build)
    if change == "size":
        source.write_bytes(b"other content")
    elif change == "time":
        os.utime(source, ns=(1, 1))
    else:
        source = source.rename(source.with_name("other.parquet"))
    with caplog.at_level("WARNING"):
        cached("set", source.parent, [source], build)
    assert build.calls == 2
    assert "is decoded again: the files it was decoded from have changed" in caplog.text


def _flip_a_pixel(place: Path) -> None:
    content = bytearray(place.read_bytes())
    content[-1] ^= 1
    place.write_bytes(content)


def _spoil_the_header(place: Path) -> None:
    place.write_bytes(place.read_bytes().replace(b"train_labels", b"train'labels"))


@pytest.mark.parametrize(
    "damage",
    [
        _flip_a_pixel,
        _spoil_the_header,
        lambda place: place.write_bytes(b""),
        lambda place: place.write_bytes(b"not an array"),
        lambda place: place.write_bytes(place.read_bytes()[:-100]),
        lambda place: np.save(place, np.zeros(3)),
        lambda place: np.save(place, np.array([{"pickled": 1}], dtype=object)),
    ],
)
def test_damaged_and_foreign_files_are_replaced(source: Path, damage: object, caplog: pytest.LogCaptureFixture) -> None:
    build = Builder()
    cached("set", source.parent, [source], build)
    assert callable(damage)
    damage(source.parent / ".mwray" / "set.npy")
    with caplog.at_level("WARNING"):
        assert _equal(cached("set", source.parent, [source], build), _arrays())
    assert build.calls == 2
    assert caplog.text.count("is decoded again") == 1
    assert _equal(cached("set", source.parent, [source], build), _arrays())
    assert build.calls == 2


def test_a_folder_that_is_read_only_gets_its_cache_at_home(source: Path) -> None:
    build = Builder()
    source.parent.chmod(0o555)
    try:
        for _ in range(2):
            cached("set", source.parent, [source], build)
        assert not (source.parent / ".mwray").exists()
    finally:
        source.parent.chmod(0o755)
    assert build.calls == 1
    assert (cache.home(source.parent) / "set.npy").exists()
    assert cache.home(source.parent).is_relative_to(Path.home())


def test_where_nothing_can_be_written_it_decodes_and_says_so(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    source.parent.chmod(0o555)
    Path.home().chmod(0o555)
    try:
        with caplog.at_level("WARNING"):
            assert _equal(cached("set", source.parent, [source], _arrays), _arrays())
    finally:
        source.parent.chmod(0o755)
        Path.home().chmod(0o755)
    assert "decoded anew on every start" in caplog.text


def test_a_full_disk_costs_the_cache_but_not_the_run(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with caplog.at_level("WARNING"):
        assert _equal(cached("set", source.parent, [source], _arrays), _arrays())
    assert "No space left" in caplog.text
    assert not list((source.parent / ".mwray").glob("*.tmp"))


@pytest.mark.slow
def test_a_file_may_be_larger_than_two_gibibytes(source: Path) -> None:
    """Which NumPy allows no record. Of the images one byte is written, the last; the rest are the disk's zeros."""
    labels, test = np.arange(9000) % 7, np.zeros(1, np.int64)

    def fill(train_images: NDArray[np.uint8], test_images: NDArray[np.uint8]) -> None:
        train_images[-1, -1, -1, -1] = 77

    for _ in range(2):
        arrays = cached("set", source.parent, [source], lambda: Undecoded((3, 288, 288), labels, test, fill))
        assert arrays.train_images.shape == (9000, 3, 288, 288) and arrays.train_images.nbytes > 2**31
        assert int(arrays.train_images[-1].max()) == 77 and not arrays.test_images.any()
        assert np.array_equal(arrays.train_labels, labels)


def _decode_and_count(folder: Path) -> Arrays:
    with (folder / "calls").open("a") as file:
        file.write("x")
    return _arrays()


def _worker(folder: Path, results: multiprocessing.Queue[bool]) -> None:
    source = folder / "train.parquet"
    arrays = cached("set", folder, [source], lambda: _decode_and_count(folder))
    results.put(_equal(arrays, _arrays()))


def test_processes_that_start_at_once_decode_once(source: Path) -> None:
    context = multiprocessing.get_context("fork")  # spawning would import torch four times
    results = context.Queue()
    workers = [context.Process(target=_worker, args=(source.parent, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=30) for _ in workers] == [True] * 4
    for worker in workers:
        worker.join()
    assert (source.parent / "calls").read_text() == "x"

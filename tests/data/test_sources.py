"""Data sets in every layout they come in, and the one error for each way in which they can be wrong."""

from __future__ import annotations

import io
import os
import pickle
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mwray.config import ConfigError
from mwray.data import archives, classes, parquet, sources
from mwray.data.archives import MissingData
from mwray.data.parquet import BrokenData
from mwray.data.sources import Source
from tests.data import shards

REAL = os.environ.get("MWRAY_DATA", "")
needs_data = pytest.mark.skipif(not REAL, reason="MWRAY_DATA does not name a folder with the real CIFAR")


def _same(images: torch.Tensor, pixels: Any) -> bool:
    return bool(np.array_equal(images.numpy(), np.asarray(pixels).transpose(0, 3, 1, 2)))


def test_digits_are_the_same_in_every_run() -> None:
    source = sources.load("digits")
    assert source.train_images.shape == (1297, 1, 8, 8)
    assert source.test_images.shape == (500, 1, 8, 8)
    assert source.train_images.dtype == torch.uint8
    assert source.train_labels.dtype == torch.int64
    assert set(source.train_images.unique().tolist()) == {round(k * 255 / 16) for k in range(17)}
    counts = torch.bincount(source.test_labels)
    assert 48 <= int(counts.min()) <= int(counts.max()) <= 51  # stratified
    assert torch.equal(source.test_images, sources.load("digits").test_images)
    scaled = source.train_images.double() / 255
    assert source.mean == (pytest.approx(scaled.mean().item()),)
    assert source.std == (pytest.approx(scaled.std().item(), rel=1e-4),)
    assert not source.augmentable


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"data\.source: .*'cifar1000'\. Did you mean 'cifar100'\?"):
        sources.load("cifar1000")


def test_cifar100_classes_and_superclasses_are_the_published_ones() -> None:
    names = classes.CIFAR100
    assert len(set(names)) == 100
    assert [names[k] for k in (0, 1, 57, 67, 99)] == ["apple", "aquarium_fish", "pear", "ray", "worm"]
    # The coarse labels that the official files give for the fine labels 0, 1, 2, ...
    assert classes.CIFAR100_SUPERCLASS[:20] == (4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11)
    assert classes.CIFAR100_SUPERCLASS[-10:] == (18, 1, 2, 15, 6, 0, 17, 8, 14, 13)


# --- Parquet shards ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "cifar10", "cifar-10", "plain_text", "cifar10/plain_text"])
def test_shards_are_found_in_the_folder_or_below_it(tmp_path: Path, place: str) -> None:
    train, test = shards.folder(tmp_path / place)
    source = sources.load("cifar10", [tmp_path])
    assert _same(source.train_images, train)
    assert _same(source.test_images, test)
    assert source.train_labels.tolist() == [*range(10), *range(10)]
    assert source.class_names[3] == "cat"
    assert source.mean[0] == pytest.approx(125.3 / 255)
    assert source.augmentable


def test_folders_given_come_before_the_environment_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def labels() -> list[int]:
        return sources.load("cifar10", [tmp_path / "given"]).test_labels.tolist()

    (tmp_path / "given").mkdir()
    monkeypatch.setenv("MWRAY_DATA", os.pathsep.join([str(tmp_path / "empty"), str(tmp_path / "named")]))
    for place, label in [(Path("data"), 1), (tmp_path / "named", 2), (tmp_path / "given", 3)]:
        shards.folder(place / "cifar10")
        coded = [shards.encode(p) for p in shards.pictures(1)]
        shards.write(place / "cifar10" / "test-00000-of-00001.parquet", coded, [label])
        assert labels() == [label]


def test_other_layouts_of_the_hub(tmp_path: Path) -> None:
    train, test = shards.pictures(10), shards.pictures(3, seed=1)
    codings = ["PNG", "WEBP", "BMP", "TIFF", "PPM"]
    coded = [shards.encode(p, codings[k % 5]) for k, p in enumerate(train)]
    shards.write(tmp_path / "train" / "0000.parquet", coded, list(range(10)), image="image", plain=True)
    shards.write(tmp_path / "test" / "0000.parquet", [shards.encode(p) for p in test], [7, 8, 9], image="image")
    source = sources.load("cifar10", [tmp_path])
    assert _same(source.train_images, train)
    assert _same(source.test_images, test)


def test_grey_images_become_colour_images_and_the_other_way_round(tmp_path: Path) -> None:
    grey = shards.pictures(10)[..., 0]
    shards.folder(tmp_path / "cifar10")
    coded = [shards.encode(p) for p in grey]
    shards.write(tmp_path / "cifar10" / "test-00000-of-00001.parquet", coded, list(range(10)))
    assert _same(sources.load("cifar10", [tmp_path]).test_images, np.repeat(grey[..., None], 3, axis=3))
    small = shards.pictures(10, size=28)
    for part in ("train", "test"):
        coded = [shards.encode(np.repeat(p[..., :1], 3, axis=2)) for p in small]
        shards.write(tmp_path / "fashion_mnist" / f"{part}.parquet", coded, list(range(10)), image="image")
    assert _same(sources.load("fashion_mnist", [tmp_path]).test_images, small[..., :1])


@pytest.mark.parametrize("label", ["fine_label", "label"])
def test_cifar100_with_either_column(tmp_path: Path, label: str) -> None:
    train, _ = shards.folder(tmp_path / "cifar100", 100, label)
    source = sources.load("cifar100", [tmp_path])
    assert _same(source.train_images, train)
    assert source.superclass == classes.CIFAR100_SUPERCLASS


def test_shards_of_another_data_set_are_passed_by(tmp_path: Path) -> None:
    shards.folder(tmp_path / "cifar100", 100, "fine_label")
    shards.folder(tmp_path / "cifar10")
    both = [tmp_path / "cifar100", tmp_path / "cifar10"]
    assert len(sources.load("cifar10", both).class_names) == 10
    assert len(sources.load("cifar100", both[::-1]).class_names) == 100
    (tmp_path / "cifar100").rename(tmp_path / "unnamed")
    with pytest.raises(MissingData):
        sources.load("cifar10", [tmp_path / "unnamed"])


def test_a_neighbour_is_not_taken_for_what_is_missing(tmp_path: Path) -> None:
    shards.folder(tmp_path / "cifar10")
    shards.folder(tmp_path / "something")
    for name in ("cifar100", "fashion_mnist"):
        with pytest.raises(MissingData):
            sources.load(name, [tmp_path])


def test_where_nothing_is_found_the_error_names_folders_and_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MWRAY_DATA", str(tmp_path / "named"))
    with pytest.raises(FileNotFoundError) as caught:
        sources.load("cifar10", [tmp_path / "given"])
    message = str(caught.value)
    for part in [tmp_path / "given", f"{tmp_path / 'named'} (no such folder)", "data", ".cache/mwray/data"]:
        assert str(part) in message
    assert f"python -m mwray fetch cifar10 --data {tmp_path / 'given'}" in message
    assert f"in {tmp_path / 'given' / 'cifar10'}" in message
    assert "\n" not in message


TRAIN, TEST = "train-00000-of-00002.parquet", "test-00000-of-00001.parquet"
GOOD = shards.encode(shards.pictures(1)[0])


def _truncate(folder: Path) -> None:
    (folder / TRAIN).write_bytes((folder / TRAIN).read_bytes()[:-50])


def _garble_the_middle(folder: Path) -> None:
    content = bytearray((folder / TEST).read_bytes())
    content[4:200] = bytes(196)
    (folder / TEST).write_bytes(content)


def _one_class_only(folder: Path) -> None:
    for path in folder.glob("train-*.parquet"):
        shards.write(path, [GOOD], [0])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, rf"{TRAIN} is not a whole Parquet file .*fetch it again"),
        (_garble_the_middle, rf"{TEST}"),
        (lambda f: (f / TRAIN).write_bytes(b""), rf"{TRAIN} is not a whole Parquet file"),
        (lambda f: (f / TRAIN).unlink(), r"holds 1 of 2 train shards"),
        (lambda f: (f / TEST).unlink(), r"holds no test shard.*test-00000-of-00001\.parquet"),
        (lambda f: shards.write(f / TEST, [GOOD], [0], image="pic"), rf"{TEST} has no column 'img' or 'image'; .*pic"),
        (lambda f: shards.write(f / TEST, [GOOD], [0], label="y"), rf"{TEST} has no column 'label'; it has img, y"),
        (lambda f: shards.write(f / TEST, [GOOD, b"no image"], [0, 1]), rf"{TEST}, row 1: the image does not decode"),
        (lambda f: shards.write(f / TEST, [GOOD, GOOD[:-900]], [0, 1]), rf"{TEST}, row 1: the image does not decode"),
        (lambda f: shards.write(f / TEST, [GOOD, None], [0, 1]), rf"{TEST}, row 1: no coded image but NoneType"),
        (lambda f: shards.write(f / TEST, [GOOD, GOOD], [0, 10]), rf"{TEST}, row 1: label 10 is not .* 0 \.\. 9"),
        (lambda f: shards.write(f / TEST, [GOOD, GOOD], [-1, 0]), rf"{TEST}, row 0: label -1"),
        (lambda f: shards.write(f / TEST, [GOOD, GOOD], [0, None]), rf"{TEST}, row 1: label None"),
        (lambda f: shards.write(f / TEST, [GOOD], ["cat"]), rf"{TEST}, row 0: label 'cat'"),
        (
            lambda f: shards.write(f / TEST, [shards.encode(shards.pictures(1, size=28)[0])], [0]),
            rf"{TEST}, row 0: the image is 28x28 pixels and must be 32x32",
        ),
        (_one_class_only, r"hold 1 of 10 classes \(none of 1, 2, 3"),
    ],
)
def test_broken_shards_get_one_clear_error(tmp_path: Path, damage: Any, message: str) -> None:
    shards.folder(tmp_path / "cifar10")
    damage(tmp_path / "cifar10")
    with pytest.raises(BrokenData, match=message) as caught:
        sources.load("cifar10", [tmp_path])
    assert "\n" not in str(caught.value)


def test_the_second_load_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = shards.folder(tmp_path / "cifar10")
    sources.load("cifar10", [tmp_path])
    monkeypatch.setattr(parquet, "read", lambda *_: pytest.fail("decoded again"))
    assert _same(sources.load("cifar10", [tmp_path]).train_images, train)


# --- torchvision folders and downloads --------------------------------------------------------------------------------


def _cifar10_folder(root: Path) -> tuple[Any, Any]:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    train, test = shards.pictures(50), shards.pictures(10, seed=1)
    named = [(f"data_batch_{k + 1}", train[10 * k : 10 * k + 10]) for k in range(5)] + [("test_batch", test)]
    for name, pixels in named:
        data = {"data": pixels.transpose(0, 3, 1, 2).reshape(10, -1), "labels": list(range(10))}
        (folder / name).write_bytes(pickle.dumps(data))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(classes.CIFAR10)}))
    return train, test


def test_torchvision_folder_of_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = _cifar10_folder(tmp_path)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)  # these are not the real files
    for folder in (tmp_path, tmp_path / "cifar-10-batches-py"):
        source = sources.load("cifar10", [folder])
        assert _same(source.train_images, train)
        assert _same(source.test_images, test)
        assert source.test_labels.tolist() == list(range(10))


def test_torchvision_folder_with_wrong_sums_is_never_unpickled(tmp_path: Path) -> None:
    _cifar10_folder(tmp_path)
    with pytest.raises(BrokenData, match=r"cifar-10-batches-py is not a whole cifar10 .*mwray fetch cifar10 --data"):
        sources.load("cifar10", [tmp_path])


def test_torchvision_folder_of_fashion_mnist(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = {"train": shards.pictures(20, size=28)[..., :1], "t10k": shards.pictures(10, 1, 28)[..., :1]}
    for part, images in pixels.items():
        count = len(images)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + images.tobytes())
        labels = bytes(k % 10 for k in range(count))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + labels)
    source = sources.load("fashion_mnist", [tmp_path])
    assert _same(source.train_images, pixels["train"])
    assert _same(source.test_images, pixels["t10k"])
    assert source.test_labels.tolist() == list(range(10))
    assert source.class_names[9] == "Ankle boot"


class Downloads:
    """Stands in for torchvision: a download writes shards, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.roots: list[Path] = []
        self.error = error

    def __call__(self, archive: archives.Archive, root: Path, *, train: bool, download: bool) -> None:
        assert download
        if self.error is not None:
            raise self.error
        self.roots.append(root)
        shards.folder(root / archive.name)


def test_nothing_is_downloaded_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = Downloads()
    monkeypatch.setattr(archives, "_dataset", downloads)
    with pytest.raises(MissingData):
        sources.load("cifar10", [tmp_path])
    assert downloads.roots == []


@pytest.mark.parametrize("ask", ["argument", "environment", "fetch"])
def test_a_download_goes_into_the_first_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: str) -> None:
    downloads = Downloads()
    monkeypatch.setattr(archives, "_dataset", downloads)

    def load() -> Source:
        if ask == "fetch":
            return sources.fetch("cifar10", tmp_path / "first")
        if ask == "environment":
            monkeypatch.setenv("MWRAY_DOWNLOAD", "1")
            return sources.load("cifar10", [tmp_path / "first", tmp_path])
        return sources.load("cifar10", [tmp_path / "first", tmp_path], download=True)

    assert len(load().train_labels) == 20
    assert set(downloads.roots) == {tmp_path / "first"}
    before = len(downloads.roots)
    load()
    assert len(downloads.roots) == before  # what is there is not downloaded again


def test_fetching_into_a_folder_fills_that_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = Downloads()
    monkeypatch.setattr(archives, "_dataset", downloads)
    shards.folder(Path("data") / "cifar10")
    sources.fetch("cifar10")
    assert downloads.roots == []  # it is on the search path
    sources.fetch("cifar10", tmp_path / "other")
    assert set(downloads.roots) == {tmp_path / "other"}


def test_a_failed_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_dataset", Downloads(OSError("no route to host")))
    with pytest.raises(MissingData, match=r"could not be downloaded into .*no route to host.*Check the network"):
        sources.fetch("cifar10", tmp_path)


def test_digits_need_no_fetching(tmp_path: Path) -> None:
    assert len(sources.fetch("digits", tmp_path).class_names) == 10
    assert list(tmp_path.glob("*.npy")) == []


# --- the real files ---------------------------------------------------------------------------------------------------


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_real_cifar(name: str) -> None:
    folders = [Path(text) for text in REAL.split(os.pathsep)]
    source = sources.load(name, folders)
    start = time.perf_counter()
    sources.load(name, folders)
    assert time.perf_counter() - start < 1.0
    count = len(source.class_names)
    assert source.train_images.shape == (50_000, 3, 32, 32)
    assert source.test_images.shape == (10_000, 3, 32, 32)
    assert torch.bincount(source.train_labels).tolist() == [50_000 // count] * count
    assert torch.bincount(source.test_labels).tolist() == [10_000 // count] * count
    mean = source.train_images.double().mean((0, 2, 3)) / 255
    published = {"cifar10": [0.4914, 0.4822, 0.4465], "cifar100": [0.5071, 0.4865, 0.4409]}[name]
    torch.testing.assert_close(mean, torch.tensor(published, dtype=torch.float64), atol=1e-4, rtol=0)


def test_the_coding_of_the_test_images_is_lossless() -> None:
    pixels = shards.pictures(1)[0]
    for coding in ("PNG", "WEBP", "BMP", "TIFF", "PPM"):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(shards.encode(pixels, coding)))), pixels)

"""Pictures as people have them: of unequal sizes, on their side, with a palette, transparent, in CMYK, and damaged."""

from __future__ import annotations

import logging
import mmap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from mwray.config import ConfigError
from mwray.data import cache, folder, pictures, sources
from mwray.data.own import statistics
from mwray.data.parquet import BrokenData
from mwray.data.settings import Data
from mwray.data.splits import split

SIZES = ((40, 30), (30, 40), (31, 77), (24, 24), (50, 51), (300, 25))


def noise(size: tuple[int, int], seed: int = 0, channels: int = 3) -> Image.Image:
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(np.uint8)
    return Image.fromarray(np.squeeze(pixels))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes; pictures of six sizes."""
    for part in ("train", "test"):
        for k, size in enumerate(SIZES):
            path = tmp_path / "own" / part / "ab"[k % 2] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise(size, k).save(path)
    return tmp_path / "own"


def test_unequal_sizes_name_the_setting_that_would_do(root: Path) -> None:
    with pytest.raises(
        BrokenData, match=r"^data\.source: .*a/2\.png is 31x77 pixels, and .*0\.png is 40x30; set data\.im"
    ):
        sources.load(f"folder:{root}")


@pytest.mark.parametrize("size", [24, 17, 60])
def test_the_shorter_side_is_resized_and_the_middle_kept(root: Path, size: int) -> None:
    source = sources.load(f"folder:{root}", image_size=size)
    wanted = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), transforms.PILToTensor()])
    assert source.train_images.shape == (6, 3, size, size)
    for row, file in enumerate(source.train_files or ()):
        with Image.open(root / file) as image:
            assert torch.equal(source.train_images[row], wanted(image.convert("RGB")))


def test_each_size_has_a_cache_of_its_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {size: sources.load(f"folder:{root}", image_size=size) for size in (20, 16)}
    assert {path.name for path in (root / ".mwray").glob("*.npy")} == {"folder-20.npy", "folder-16.npy"}
    monkeypatch.setattr(folder, "decode", lambda *arguments: pytest.fail("decoded again"))
    for size, source in first.items():
        assert torch.equal(sources.load(f"folder:{root}", image_size=size).train_images, source.train_images)
    data = Data(source=f"folder:{root}", image_size=16, num_meta=2)
    assert split(data, 0).shape == (3, 16, 16)
    assert sources.num_classes(f"folder:{root}") == 2  # without a size, which nobody has named


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_as_exif_says(tmp_path: Path, orientation: int) -> None:
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    image, exif = noise((9, 6)), Image.Exif()
    exif[pictures.ORIENTATION] = orientation
    image.save(tmp_path / "1.png", exif=exif)
    expected = np.asarray(image.transpose(turned[orientation]) if orientation > 1 else image)
    assert np.array_equal(pictures.pixels(tmp_path / "1.png", None, 3), expected)
    form = pictures.form_of([tmp_path / "1.png"], None)
    assert (form.height, form.width) == expected.shape[:2]


def _palette() -> Image.Image:
    return noise((8, 8)).quantize(16)


def _see_through() -> Image.Image:
    image = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    image.putpixel((0, 0), (10, 20, 30, 255))
    image.putpixel((1, 0), (0, 0, 0, 51))  # a fifth
    return image


@pytest.mark.parametrize(
    ("image", "ending", "pixels"),
    [
        (_see_through(), "png", {(0, 0): (10, 20, 30), (1, 0): (204, 204, 204), (5, 5): (255, 255, 255)}),
        (_see_through(), "webp", {(0, 0): (10, 20, 30), (5, 5): (255, 255, 255)}),
        (Image.new("LA", (8, 8), (7, 0)), "png", {(3, 3): (255, 255, 255)}),
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "jpg", {(3, 3): (254, 0, 0)}),
        (Image.new("1", (8, 8), 1), "bmp", {(3, 3): (255, 255, 255)}),
        (Image.new("RGB", (8, 8), (1, 2, 3)), "bmp", {(3, 3): (1, 2, 3)}),
    ],
)
def test_every_kind_of_picture(tmp_path: Path, image: Image.Image, ending: str, pixels: dict[Any, Any]) -> None:
    path = tmp_path / f"1.{ending}"
    image.save(path, **({"lossless": True} if ending == "webp" else {}))
    found = pictures.pixels(path, None, 3)
    assert found.shape == (8, 8, 3)
    for (x, y), value in pixels.items():
        assert np.abs(found[y, x].astype(int) - value).max() <= 2 * (ending == "jpg")


def test_a_palette_has_its_colours(tmp_path: Path) -> None:
    _palette().save(tmp_path / "1.png")
    _palette().save(tmp_path / "2.png", transparency=3)
    first, second = (pictures.pixels(tmp_path / f"{k}.png", None, 3) for k in (1, 2))
    assert np.array_equal(first, np.asarray(_palette().convert("RGB")))
    clear = np.asarray(_palette()) == 3
    assert clear.any() and np.array_equal(second[~clear], first[~clear]) and (second[clear] == 255).all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), r"a/0\.png does not decode"),
        (lambda path: path.write_bytes(b""), r"a/0\.png does not decode"),
        (lambda path: Image.new("I;16", (40, 30)).save(path), r"a/0\.png has more than 8 bits a pixel"),
    ],
)
def test_a_picture_that_cannot_be_used_leaves_nothing_behind(
    root: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    spoil(root / "train" / "a" / "0.png")
    with pytest.raises(BrokenData, match=r"^data\.source: .*" + message):
        sources.load(f"folder:{root}", image_size=16)
    assert {path.suffix for path in (root / ".mwray").iterdir()} <= {".lock"}


def test_many_are_decoded_by_several_threads_and_it_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names, plain = set(), pictures.pixels

    def watched(*arguments: Any) -> Any:
        names.add(threading.current_thread().name)
        time.sleep(0.01)
        return plain(*arguments)

    monkeypatch.setattr(pictures, "pixels", watched)
    monkeypatch.setattr(pictures, "BLOCK", 2)
    monkeypatch.setattr(pictures, "TOLD_EVERY", 0.0)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    with caplog.at_level(logging.INFO, "mwray"):
        sources.load(f"folder:{root}", image_size=16)
    assert len(names) == 4 and threading.current_thread().name not in names  # two for each part
    assert "Decoded 4 of 6 pictures, about 0 s left" in caplog.text


def test_words_for_what_is_left() -> None:
    assert [pictures._words(seconds) for seconds in (42, 240, 7200)] == ["42 s", "4 min", "2.0 h"]


def test_pictures_go_straight_into_the_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the size of all images is made in memory: what is filled is the file, and what is read is the file."""
    filled = []
    plain = folder.decode
    monkeypatch.setattr(folder, "decode", lambda *a: (filled.append(a[-1]), plain(*a)))
    monkeypatch.setattr(cache.Undecoded, "in_memory", lambda self: pytest.fail("decoded into memory"))
    data = folder.read(f"folder:{root}", 16)
    assert all(_is_mapped(part) for part in (*filled, data.train_images, data.test_images))


def _is_mapped(array: Any) -> bool:
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array.obj if isinstance(array, memoryview) else array, np.memmap | mmap.mmap)


def test_a_full_disk_is_met_before_decoding(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    source = sources.load(f"folder:{root}", image_size=16)  # into memory, with a warning
    assert source.train_images.shape == (6, 3, 16, 16)
    monkeypatch.setattr(np, "empty", lambda *a, **k: (_ for _ in ()).throw(MemoryError("no 9 GiB")))
    with pytest.raises(
        ConfigError, match=r"^data\.source: the pictures fit neither .* \(no 9 GiB\); .* data\.image_size"
    ):
        cache.Undecoded((3, 8, 8), np.zeros(2, np.int64), np.zeros(2, np.int64), lambda *a: None).in_memory()


def test_statistics_do_not_depend_on_how_many_are_counted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 9, 7)).astype(np.uint8)
    whole = statistics(images)
    monkeypatch.setattr("mwray.data.own.AT_ONCE", 200)
    assert statistics(images) == whole
    np.testing.assert_allclose(whole[1], (images / 255).std((0, 2, 3)))

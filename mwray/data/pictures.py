"""Picture files to pixels: their headers, then all of them side by side into an array that may exceed memory."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mwray.data.parquet import BrokenData

log = logging.getLogger(__name__)
T = TypeVar("T")

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
GREY = ("1", "L", "LA")
DEEP = ("I", "F")
"""Pillow's modes of more than 8 bits a pixel, by their beginning."""
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""EXIF's tag, and those of its values that exchange width and height."""
TOLD_EVERY = 10.0
"""Seconds between two words on how far it is."""
BLOCK = 1024
"""Pictures that are handed to the threads together: a mistake ends the work after so many, not after all."""


@dataclass(frozen=True)
class Form:
    """What all pictures have in common once they are decoded."""

    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class _Header:
    size: tuple[int, int]  # width and height as the picture is meant to be looked at
    mode: str


def form_of(files: Sequence[Path], image_size: int | None) -> Form:
    """The form of the pictures `files`, from their headers: one channel where all are grey, else three.

    Args:
        files: one at least.
        image_size: as `data.image_size`.

    Raises:
        BrokenData: a file cannot be read, has more than 8 bits a pixel, or another size without an `image_size`.
    """
    grey, first = True, None
    for path, header in zip(files, _side_by_side(_header, files, "Looked at"), strict=True):
        first = first or header
        if image_size is None and header.size != first.size:
            given, needed = (f"{width}x{height}" for width, height in (header.size, first.size))
            raise BrokenData(
                f"data.source: {path} is {given} pixels, and {files[0]} is {needed}; set data.image_size, which brings "
                "all pictures to one size (224 is what most pretrained networks want)"
            )
        if header.mode.startswith(DEEP):
            raise BrokenData(f"data.source: {path} has more than 8 bits a pixel (mode {header.mode}); save it with 8")
        grey = grey and header.mode in GREY
    assert first is not None
    width, height = first.size if image_size is None else (image_size, image_size)
    return Form(1 if grey else 3, height, width)


def decode(files: Sequence[Path], image_size: int | None, form: Form, into: NDArray[np.uint8]) -> None:
    """Write the pixels of `files` into `into`, uint8 [N, C, H, W], a picture at a time on every core.

    Raises:
        BrokenData: a file does not decode, or is not of that form.
    """

    def one(row: int) -> None:
        picture = pixels(files[row], image_size, form.channels)
        if picture.shape[:2] != (form.height, form.width):
            given, needed = f"{picture.shape[1]}x{picture.shape[0]}", f"{form.width}x{form.height}"
            raise BrokenData(f"data.source: {files[row]} is {given} pixels; {needed} is needed")
        into[row] = picture.reshape(form.height, form.width, form.channels).transpose(2, 0, 1)

    for _ in _side_by_side(one, range(len(files)), "Decoded"):
        pass


def pixels(path: Path, image_size: int | None, channels: int) -> NDArray[np.uint8]:
    """One picture, uint8 [H, W] or [H, W, 3], the way up that its EXIF orientation says.

    What is transparent is shown on white. With `image_size` the shorter side is resized to it by Pillow's bilinear
    filter, which averages over all pixels that become one, and the middle square is cut out: what torchvision's
    Resize and CenterCrop do.

    Raises:
        BrokenData: the file does not decode.
    """
    from PIL import Image, ImageOps  # here: built-in data never needs it

    try:
        with Image.open(path) as image:
            shown = ImageOps.exif_transpose(image)
            flat = _flat(shown, "L" if channels == 1 else "RGB")
            return np.asarray(flat if image_size is None else _middle(flat, image_size))
    except Exception as error:  # Pillow raises many kinds of errors on damaged files
        raise _broken(path, error) from error


def _header(path: Path) -> _Header:
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
            sideways = image.getexif().get(ORIENTATION) in SIDEWAYS
            return _Header((height, width) if sideways else (width, height), image.mode)
    except Exception as error:
        raise _broken(path, error) from error


def _flat(image: Any, mode: str) -> Any:
    """`image` in `mode`, on white where it is transparent."""
    from PIL import Image

    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _middle(image: Any, size: int) -> Any:
    """The middle square of `image`, its shorter side resized to `size`."""
    from PIL import Image

    width, height = image.size
    short = min(width, height)
    # As torchvision rounds: the longer side down, the offsets to the nearest.
    wide, high = (size if side == short else size * side // short for side in (width, height))
    if (wide, high) != (width, height):
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
    left, top = round((wide - size) / 2), round((high - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _broken(path: Path, error: Exception) -> BrokenData:
    why = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
    return BrokenData(f"data.source: {path} does not decode ({why}); save it again, or take it out")


def _side_by_side(work: Callable[[Any], T], items: Sequence[Any], done: str) -> Iterator[T]:
    """`work` of each item, in their order, in as many threads as there are cores; says how far it is now and then."""
    progress = Progress(done, len(items))
    threads = len(os.sched_getaffinity(0))  # Pillow lets go of the interpreter while it decodes and resizes
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(items), BLOCK):
            yield from pool.map(work, items[first : first + BLOCK])
            progress.reached(first + BLOCK)


class Progress:
    """Says now and then, in the log, how many of `total` pictures are `done` and how long the rest may take."""

    def __init__(self, done: str, total: int) -> None:
        self._done, self._total = done, total
        self._started = self._told = time.monotonic()

    def reached(self, count: int) -> None:
        """Say it, if it has not been said for `TOLD_EVERY` seconds and some are left."""
        now = time.monotonic()
        if now - self._told > TOLD_EVERY and count < self._total:
            self._told, left = now, (now - self._started) * (self._total - count) / count
            log.info("%s %d of %d pictures, about %s left", self._done, count, self._total, _words(left))


def _words(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )

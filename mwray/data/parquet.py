"""Images from a folder of Parquet shards as Hugging Face writes them, read with pyarrow and decoded with Pillow."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mwray.data.cache import Arrays
from mwray.errors import UserError

IMAGE_COLUMNS = ("img", "image")
REPAIR = "Delete it and fetch it again, or remove the folder from those searched."


class BrokenData(UserError, ValueError):
    """A data file that cannot be used: names the file, the row where there is one, and what would do."""


def shards(folder: Path, part: str) -> list[Path]:
    """The shards of `part` ("train" or "test") in `folder`, in order: told by a word of their names.

    Both layouts of the Hugging Face hub are known: "train-00000-of-00002.parquet" and "train/0000.parquet".
    """
    found = sorted([*folder.glob("*.parquet"), *(folder / part).glob("*.parquet")])
    word = re.compile(rf"(^|[^a-z]){part}([^a-z]|$)")
    return [path for path in found if word.search(path.relative_to(folder).as_posix().lower())]


def columns(path: Path) -> list[str]:
    """Names of the columns of a shard.

    Raises:
        BrokenData: not a Parquet file, or a truncated one.
    """
    import pyarrow.parquet  # here: half a second that digits never need

    try:
        return [str(name) for name in pyarrow.parquet.read_schema(path).names]
    except (OSError, pyarrow.ArrowException) as error:
        raise BrokenData(f"{path} is not a whole Parquet file ({_line(error)}). {REPAIR}") from error


def read(folder: Path, shape: tuple[int, int, int], num_classes: int, label_columns: Sequence[str]) -> Arrays:
    """Decode every image of the shards in `folder`.

    Args:
        folder: holds "train" and "test" shards, any number of each.
        shape: channels (1 or 3), height and width that every image must have after decoding.
        num_classes: labels must lie in 0 .. num_classes - 1, and the training shards must hold each of them.
        label_columns: names that the column of labels may have, the first one present is read.

    Raises:
        BrokenData: a shard is missing, truncated or lacks a column; an image or a label cannot be used.
    """
    parts = []
    for part in ("train", "test"):
        paths = shards(folder, part)
        _check_complete(folder, part, paths)
        pieces = [_read_shard(path, shape, num_classes, label_columns) for path in paths]
        parts += [np.concatenate([images for images, _ in pieces]), np.concatenate([labels for _, labels in pieces])]
    missing = sorted(set(range(num_classes)) - set(np.unique(parts[1]).tolist()))
    if missing:
        some = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise BrokenData(
            f"{folder}: the training shards hold {num_classes - len(missing)} of {num_classes} classes (none of "
            f"{some}). Put all shards of this data set there, and those of no other."
        )
    return Arrays(parts[0], parts[1], parts[2], parts[3])


def _check_complete(folder: Path, part: str, paths: Sequence[Path]) -> None:
    if not paths:
        raise BrokenData(
            f"{folder} holds no {part} shard. Put one there whose name contains the word {part!r}, for example "
            f"{part}-00000-of-00001.parquet."
        )
    counts = [int(match[1]) for path in paths if (match := re.search(r"-of-(\d+)", path.stem))]
    if counts and len(counts) < max(counts):
        raise BrokenData(
            f"{folder} holds {len(counts)} of {max(counts)} {part} shards, by their names. Fetch the others too."
        )


def _read_shard(
    path: Path, shape: tuple[int, int, int], num_classes: int, label_columns: Sequence[str]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    import pyarrow.parquet

    present = columns(path)
    wanted = [_column(path, present, IMAGE_COLUMNS), _column(path, present, label_columns)]
    try:
        table = pyarrow.parquet.read_table(path, columns=wanted)
    except (OSError, pyarrow.ArrowException) as error:
        raise BrokenData(f"{path} cannot be read to its end ({_line(error)}). {REPAIR}") from error
    labels = _labels(path, table.column(wanted[1]).to_pylist(), num_classes)
    images = np.empty((len(labels), *shape), np.uint8)
    for row, cell in enumerate(table.column(wanted[0])):
        images[row] = _decode(path, row, cell.as_py(), shape)
    return images, labels


def _column(path: Path, present: Sequence[str], names: Sequence[str]) -> str:
    for name in names:
        if name in present:
            return name
    raise BrokenData(
        f"{path} has no column {' or '.join(map(repr, names))}; it has {', '.join(present)}. "
        "Rename the column, or use the shards as the hub publishes them."
    )


def _labels(path: Path, labels: Sequence[Any], num_classes: int) -> NDArray[np.int64]:
    for row, label in enumerate(labels):
        if not isinstance(label, int) or not 0 <= label < num_classes:
            raise BrokenData(
                f"{path}, row {row}: label {label!r} is not a whole number in 0 .. {num_classes - 1}. "
                "Is this another data set? Its shards must lie in a folder of their own."
            )
    return np.array(labels, np.int64)


def _decode(path: Path, row: int, cell: Any, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Pixels [C, H, W] of one coded image: bytes, or a struct with a field "bytes"."""
    from PIL import Image

    coded = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(coded, bytes):
        raise BrokenData(
            f"{path}, row {row}: no coded image but {type(coded).__name__}. The column must hold the bytes of an image "
            "file, or a struct with a field 'bytes'."
        )
    channels, height, width = shape
    try:
        with Image.open(io.BytesIO(coded)) as image:
            pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    except Exception as error:  # Pillow's decoders raise many kinds of errors on damaged bytes
        raise BrokenData(f"{path}, row {row}: the image does not decode ({_line(error)}). {REPAIR}") from error
    if pixels.shape[:2] != (height, width):
        given = f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise BrokenData(f"{path}, row {row}: the image is {given} pixels and must be {width}x{height}. {REPAIR}")
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__

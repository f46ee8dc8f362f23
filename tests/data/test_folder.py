"""Folders of pictures: what is read, that the cache follows the files, and the one error for each mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mwray.config import ConfigError, read
from mwray.data import folder, sources
from mwray.data.archives import MissingData
from mwray.data.parquet import BrokenData
from mwray.data.settings import Data
from mwray.errors import UserError
from tests.data.own_sets import NAMES, own_data, save


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return save(tmp_path / "own", own_data())


def test_pictures_become_a_source(root: Path) -> None:
    source, given = sources.load(f"folder:{root}"), own_data()
    order = np.argsort(given.train_labels, kind="stable")  # by class, then by name
    assert np.array_equal(source.train_images.numpy(), given.train_images[order].transpose(0, 3, 1, 2))
    assert source.train_labels.tolist() == sorted(given.train_labels.tolist())
    assert source.test_labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert source.clean_images is not None and source.clean_labels is not None and given.clean_images is not None
    assert source.clean_labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert np.array_equal(source.clean_images[1].numpy(), given.clean_images[3].transpose(2, 0, 1))
    assert (source.class_names, source.augmentable, source.labels_right) == (NAMES, True, False)
    assert source.train_files is not None and source.train_files[0] == f"train/ash/{order[0]:03d}.png"


def test_the_second_start_decodes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sources.load(f"folder:{root}")
    monkeypatch.setattr(folder, "decode", lambda *arguments: pytest.fail("decoded again"))
    again = sources.load(f"folder:{root}")
    assert torch.equal(again.train_images, first.train_images) and torch.equal(again.test_images, first.test_images)
    assert again.clean_images is not None and first.clean_images is not None
    assert torch.equal(again.clean_images, first.clean_images)


def test_a_picture_that_moves_to_another_class_has_its_label(root: Path) -> None:
    for path in (root / "train" / "beech").iterdir():  # what moves comes first there: all pictures keep their order
        path.rename(path.with_name(f"z{path.name}"))
    before = sources.load(f"folder:{root}")
    last = sorted((root / "train" / "ash").iterdir())[-1]
    moved = last.rename(root / "train" / "beech" / last.name)
    after = sources.load(f"folder:{root}")
    assert int((after.train_labels == 0).sum()) == int((before.train_labels == 0).sum()) - 1
    assert after.train_files is not None
    row = after.train_files.index(moved.relative_to(root).as_posix())
    assert int(after.train_labels[row]) == 1
    with Image.open(moved) as image:
        assert np.array_equal(after.train_images[row].numpy(), np.asarray(image).transpose(2, 0, 1))


def test_grey_pictures_have_one_channel_unless_one_is_coloured(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in NAMES[:2]:
            path = tmp_path / part / name / "1.jpeg"
            path.parent.mkdir(parents=True)
            Image.new("L", (7, 5), 200).save(path)
    (tmp_path / "train" / ".DS_Store").write_bytes(b"what file managers leave")
    source = sources.load(f"folder:{tmp_path}")
    assert source.train_images.shape == (2, 1, 5, 7) and not source.augmentable
    assert source.clean_images is None
    Image.new("RGB", (7, 5), (200, 0, 0)).save(tmp_path / "test" / NAMES[0] / "1.jpeg")
    assert sources.load(f"folder:{tmp_path}").train_images.shape == (2, 3, 5, 7)


def _picture(size: tuple[int, int], mode: str = "RGB") -> Callable[[Path], None]:
    return lambda root: Image.new(mode, size).save(root / "train" / "ash" / "999.png")


def _remove(part: str) -> Callable[[Path], None]:
    def remove(root: Path) -> None:
        for path in (root / part).rglob("*.png"):
            path.unlink()

    return remove


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            _picture((9, 6)),
            r"train/ash/999\.png is 9x6 pixels, and .*train/ash/\d+\.png is 5x6; set data\.image_size, ",
        ),
        (_picture((5, 6), "I;16"), r"999\.png has more than 8 bits a pixel"),
        (lambda r: (r / "test/ash/x.png").write_bytes(b"no picture"), r"test/ash/x\.png does not decode"),
        (lambda r: (r / "train/ash/notes.txt").write_text("?"), r"notes\.txt is no \.png or \.jpg or \.jpeg or \.webp"),
        (lambda r: (r / "train/ash/more").mkdir(), r"train/ash/more is no \.png"),
        (lambda r: Image.new("L", (5, 6)).save(r / "train/x.png"), r"train/x\.png lies beside the folders of classes"),
        (lambda r: (r / "train/doom").mkdir(), r"train/doom is empty"),
        (lambda r: (r / "test").rename(r / "tset"), r"holds no folder 'test'; needed: test/CLASS/"),
        (lambda r: (r / "test/ash").rename(r / "test/Ash"), r"test/Ash is of no class in train, .* ash, beech, cedar"),
        (_remove("clean/ash"), r"clean/ash is empty"),
    ],
)
def test_what_cannot_be_used_is_named(root: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(root)
    with pytest.raises(BrokenData, match=r"^data\.source: .*" + message):
        sources.load(f"folder:{root}")


def test_a_truncated_picture_is_named(root: Path) -> None:
    path = root / "train" / "beech" / "001.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(BrokenData, match=r"^data\.source: .*beech/001\.png does not decode"):
        sources.load(f"folder:{root}")


def test_no_folder_and_a_class_without_a_checked_image(root: Path) -> None:
    with pytest.raises(MissingData, match=r"^data\.source: 'folder:/no/where' .* no such folder on this machine"):
        sources.load("folder:/no/where")
    _remove("clean/ash")(root)
    (root / "clean" / "ash").rmdir()
    with pytest.raises(UserError, match=r"clean_labels .* has no image of class 'ash'"):
        sources.load(f"folder:{root}")


def test_a_size_for_what_has_one_already_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^image_size resizes .* source is 'cifar10'; leave it out$"):
        read(Data, {"source": "cifar10", "image_size": 64})
    with pytest.raises(ConfigError, match=r"source is 'my:load'; leave it out, and resize in your function$"):
        read(Data, {"source": "my:load", "image_size": 64})

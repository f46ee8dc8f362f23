"""From folders of pictures of unequal sizes to predictions of pictures."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import mwray
from mwray.cli import main
from mwray.config import override
from mwray.recipes import recipe
from mwray.records import Run
from mwray.train.loop import train
from mwray.worker import LocalWorker
from tests.data.own_sets import NAMES

COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))


def save(root: Path, part: str, each: int, wrong: int = 0) -> None:
    """Pictures of a colour for each class, of all sizes; of each class the first `wrong` lie in the next's folder."""
    rng = np.random.default_rng(sum(map(ord, part)))
    for k, colour in enumerate(COLOURS):
        for number in range(each):
            height, width = rng.integers(40, 90, 2)
            pixels = np.clip(colour + rng.normal(0, 50, (height, width, 3)), 0, 255).astype(np.uint8)
            path = (
                root / part / NAMES[(k + (number < wrong)) % 3] / f"{k}-{number:02d}.{'png' if number % 2 else 'jpg'}"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    save(root, "train", 20, wrong=6)
    save(root, "test", 6)
    save(root, "clean", 4)
    return root


SMALL = {
    "data.image_size": 32,
    "data.num_meta": 6,
    "data.num_validation": 6,
    "optimizer.lr": 0.02,
    "optimizer.milestones": [],
    "batch_size": 20,
    "meta_batch_size": 6,
    "epochs": 2,
}


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    settings = override(recipe("own"), {**SMALL, "data.source": f"folder:{root}"})
    train(settings, folder, worker=LocalWorker("cpu"))
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def both(run: Path, root: Path, out: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Predictions of the run's test images, and of the same files by their folder."""
    assert main(["predict", str(run), "--test", "--out", str(out / "1.csv"), "--device", "cpu"]) == 0
    assert main(["predict", str(run), str(root / "test"), "--out", str(out / "2.csv"), "--device", "cpu"]) == 0
    return rows(out / "1.csv"), rows(out / "2.csv")


def test_files_are_decoded_as_the_runs_own_pictures(
    run: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tested, files = both(run, root, tmp_path)
    names = ("image", "predicted", "name", "probability")
    assert [[row[n] for n in names] for row in tested] == [[row[n] for n in names] for row in files]
    assert [row["file"].split("/")[0] for row in files] == [row["true_name"] for row in tested]
    one = next((root / "test" / "ash").iterdir())
    assert main(["predict", str(run), str(one), "--out", str(tmp_path / "3.csv"), "--device", "cpu"]) == 0
    assert f"1 image of {one}, classified" in capsys.readouterr().out
    (row,) = rows(tmp_path / "3.csv")
    assert row["file"] == one.name
    assert row["predicted"] == next(r["predicted"] for r in files if r["file"] == f"ash/{one.name}")


def test_pictures_that_cannot_be_classified_are_named(
    run: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {
        **SMALL,
        "data.source": "tests.data.own_sets:with_clean",
        "data.image_size": None,
        "epochs": 1,
        "data.num_validation": 3,
    }
    train(override(recipe("own"), own), tmp_path / "arrays", worker=LocalWorker("cpu"))
    (tmp_path / "empty" / ".thumbnails").mkdir(parents=True)
    for hidden in ("._x.png", ".thumbnails/x.png"):
        (tmp_path / "empty" / hidden).write_bytes(b"no picture")
    (tmp_path / "x.png").write_bytes(b"no picture")
    for folder, place, message in (
        (run, tmp_path / "empty", r"empty: no .png or .jpg or .jpeg or .webp or .bmp file is in it"),
        (run, tmp_path / "x.png", r"x.png does not decode (cannot identify image file"),
        (tmp_path / "arrays", root / "test", r"pixels; 5x6 is needed"),
    ):
        assert main(["predict", str(folder), str(place), "--device", "cpu"]) == 2
        said = capsys.readouterr().err
        assert message in said and len(said.splitlines()) == 1 and "data.source" not in said


@pytest.mark.slow
def test_a_resnet_is_fine_tuned_from_a_file(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    settings = {
        **SMALL,
        "data.source": f"folder:{root}",
        "data.image_size": 48,
        "model.name": "torchvision:resnet18",
        "model.weights": str(tmp_path / "resnet18.pth"),
        "epochs": 8,
        "meta_batch_size": 6,
    }
    arguments = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    run = tmp_path / "run"
    assert main(["train", "pictures", *arguments, "--folder", str(run), "--device", "cpu"]) == 0
    assert "the last layer, fc, starts fresh (3 classes, where there are 1000)" in caplog.text
    records = Run(run).records()
    assert records[-1]["test.accuracy"] > 0.8  # by chance: a third
    (tmp_path / "resnet18.pth").unlink()
    tested, files = both(run, root, tmp_path)
    assert [row["predicted"] for row in tested] == [row["predicted"] for row in files]
    right = sum(row["predicted"] == row["true"] for row in tested)
    assert right / len(tested) == records[-1]["test.accuracy"]
    assert mwray.load(run, "cpu").shape == (3, 48, 48)

"""What a run's classifier says of images or feature vectors, and whether it is right of those of the test: a file."""

from __future__ import annotations

import csv
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mwray.config import read
from mwray.data import pictures
from mwray.data.features import not_finite
from mwray.data.loader import at_once
from mwray.data.parquet import BrokenData
from mwray.data.splits import noun, split
from mwray.experiment import Experiment
from mwray.records import Run, write_atomically
from mwray.train.classifier import InputError, TrainedClassifier, load, run_in
from mwray.train.sinks.console import counted


@dataclass(frozen=True)
class Predictions:
    """Of N images or feature vectors, in their order."""

    predicted: NDArray[np.int64]  # [N] the class of the largest logit
    probability: NDArray[np.float32]  # [N] of that class, by the softmax of the logits
    classes: tuple[str, ...]
    true: NDArray[np.int64] | None = None  # [N], where it is known
    noun: str = "image"
    """What there is a row for: "image" or "vector"."""
    files: tuple[str, ...] | None = None
    """Where each is from, of picture files."""

    @property
    def accuracy(self) -> float | None:
        """Share of them whose predicted class is the true one, 0..1; None where that is not known."""
        if self.true is None or not len(self.true):
            return None
        return int((self.predicted == self.true).sum()) / len(self.true)


def write(folder: Path, images: Path | None, out: Path | None = None, *, device: str | None = None) -> str:
    """Write a row for each of `images` by the classifier of the run in `folder`; returns what came out, in words.

    Args:
        folder: of a run with a checkpoint, or of a search: its best trial.
        images: a file that numpy.save has written, uint8 [N, C, H, W], or features float32 [N, D] (float16, float64);
            a picture, or a folder of pictures; None: the run's own test images or features.
        out: the CSV file; default: `predictions.csv` in the run's folder.
        device: cpu, cuda; default: a GPU if there is one.

    Raises:
        RecordError: the folder holds no run, or no checkpoint of it.
        InputError: the file holds no such images, or features that are not finite.
        MissingData: the test images are not on this machine.
    """
    folder = run_in(folder)
    classifier, out = load(folder, device), out or folder / "predictions.csv"
    if images is not None:
        if not images.exists():
            raise InputError(f"{images}: there is no such file or folder")
        found = of_pictures(folder, classifier, images) if _pictured(images) else None
        found = found or predict(classifier, _read(images, classifier))
        said = [f"{counted(len(found.predicted), found.noun)} of {images}, classified after epoch {classifier.epoch}"]
    else:
        experiment = read(Experiment, Run(folder).experiment())
        test = split(experiment.data, experiment.seed).test
        if not len(test):
            raise InputError(f"--test: {experiment.data.source!r} has no test samples; give a file of some instead")
        found = predict(classifier, test.images.numpy(), test.observed.numpy())
        assert found.accuracy is not None
        accuracy, rows = f"{100 * found.accuracy:.2f} %", counted(len(test), found.noun)
        said = [f"{accuracy}  test accuracy, {rows}, after epoch {classifier.epoch}"]
        recorded = [r["test.accuracy"] for r in Run(folder).records() if r["epoch"] == classifier.epoch]
        if recorded and recorded[0] != found.accuracy:
            said.append(f"Its record says {100 * recorded[0]:.2f} %: another device or version rounds otherwise.")
    write_atomically(out, to_csv(found).encode())
    return "\n".join([*said, f"Predictions: {out}"])


def predict(classifier: TrainedClassifier, images: NDArray[Any], true: NDArray[np.int64] | None = None) -> Predictions:
    """Classify `images` uint8 [N, C, H, W], or features [N, D]; they may be memory-mapped, and go some at a time."""
    predicted, probability = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    size = at_once(classifier.shape)  # as the loop's own evaluations: the same sums, and the same last bits
    for start in range(0, len(images), size):
        logits = classifier(torch.from_numpy(np.array(images[start : start + size])))
        best, place = logits.float().softmax(1).max(1).values, logits.argmax(1)
        predicted.append(place.cpu().numpy())
        probability.append(best.cpu().numpy())
    found = np.concatenate(predicted), np.concatenate(probability)
    return Predictions(*found, classifier.classes, true, noun(classifier.shape))


def of_pictures(folder: Path, classifier: TrainedClassifier, place: Path) -> Predictions:
    """Classify the picture `place`, or all below that folder in the alphabet's order, decoded as the run's own are.

    What file managers hide there is left out, as in `data.source=folder:`.

    Raises:
        InputError: there is none, one does not decode, or has another size and the run no `data.image_size`.
    """
    if len(classifier.shape) == 1:
        raise InputError(f"{place}: pictures, and the run's data are feature vectors; it takes {classifier.takes}")
    files = [place] if place.is_file() else _below(place)
    if not files:
        raise InputError(f"{place}: no {' or '.join(pictures.ENDINGS)} file is in it")
    form, image_size = pictures.Form(*classifier.shape), read(Experiment, Run(folder).experiment()).data.image_size
    some = at_once(classifier.shape)
    block = some * max(1, 1000 // some)  # as many of them at a time as of the run's own test images
    progress, parts = pictures.Progress("Classified", len(files)), []
    for start in range(0, len(files), block):
        part = files[start : start + block]
        pixels = np.empty((len(part), *classifier.shape), np.uint8)
        try:
            pictures.decode(part, image_size, form, pixels)
        except BrokenData as error:
            raise InputError(str(error).removeprefix("data.source: ")) from error
        parts.append(predict(classifier, pixels))
        progress.reached(start + block)
    predicted, probability = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("predicted", "probability")
    )
    names = tuple((path.name if place.is_file() else path.relative_to(place).as_posix()) for path in files)
    return Predictions(predicted, probability, classifier.classes, files=names)


def _below(folder: Path) -> list[Path]:
    shown = (path for path in folder.rglob("*") if _pictured(path, False))
    return sorted(path for path in shown if not any(name.startswith(".") for name in path.relative_to(folder).parts))


def _pictured(place: Path, folder: bool = True) -> bool:
    return place.is_dir() if folder and place.is_dir() else place.suffix.lower() in pictures.ENDINGS and place.is_file()


def to_csv(found: Predictions) -> str:
    """One line per image or vector: its number from 0, predicted class, its name, its probability, the true class.

    Of picture files a last column names the file.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    known = found.true is not None
    more = (["true", "true_name"] if known else []) + (["file"] if found.files else [])
    writer.writerow([found.noun, "predicted", "name", "probability", *more])
    for number, (place, best) in enumerate(zip(found.predicted, found.probability, strict=True)):
        row = [number, place, found.classes[place], f"{best:.6f}"]
        row += [] if found.true is None else [found.true[number], found.classes[found.true[number]]]
        writer.writerow([*row, found.files[number]] if found.files else row)
    return text.getvalue()


def _read(path: Path, classifier: TrainedClassifier) -> NDArray[Any]:
    """The array in `path`, not read into memory yet; of features every number is looked at."""
    wanted = f"save one array by numpy.save, {classifier.takes}"
    try:
        images = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        why = getattr(error, "strerror", None) or "it holds no plain array"
        raise InputError(f"{path}: cannot be read ({why}); {wanted}") from None
    if not isinstance(images, np.ndarray):  # several, as numpy.savez writes them
        images.close()
        raise InputError(f"{path}: holds {len(images.files)} arrays with names; {wanted}")
    if images.ndim == 0:
        raise InputError(f"{path}: holds no array; {wanted}")
    place = not_finite(images) if images.dtype.kind == "f" and images.ndim == 2 else None
    if place is not None:
        found = f"holds {images[place]} in row {place[0]}, column {place[1]}"
        raise InputError(f"{path}: {found}; finite numbers are needed, that float32 can hold")
    return images

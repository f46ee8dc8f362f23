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
from mwray.data.features import not_finite
from mwray.data.loader import at_once
from mwray.data.splits import split
from mwray.experiment import Experiment
from mwray.records import Run, write_atomically
from mwray.train.classifier import InputError, TrainedClassifier, load, run_in


@dataclass(frozen=True)
class Predictions:
    """Of N images or feature vectors, in their order."""

    predicted: NDArray[np.int64]  # [N] the class of the largest logit
    probability: NDArray[np.float32]  # [N] of that class, by the softmax of the logits
    classes: tuple[str, ...]
    true: NDArray[np.int64] | None = None  # [N], where it is known
    noun: str = "image"
    """What there is a row for: "image" or "vector"."""

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
            None: the run's own test images or features.
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
        found = predict(classifier, _read(images, classifier))
        said = [f"{len(found.predicted)} {found.noun}s of {images}, classified after epoch {classifier.epoch}"]
    else:
        experiment = read(Experiment, Run(folder).experiment())
        test = split(experiment.data, experiment.seed).test
        if not len(test):
            raise InputError(f"--test: {experiment.data.source!r} has no test samples; give a file of some instead")
        found = predict(classifier, test.images.numpy(), test.observed.numpy())
        assert found.accuracy is not None
        accuracy, rows = f"{100 * found.accuracy:.2f} %", f"{len(test)} {found.noun}s"
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
    noun = "vector" if len(classifier.shape) == 1 else "image"
    return Predictions(np.concatenate(predicted), np.concatenate(probability), classifier.classes, true, noun)


def to_csv(found: Predictions) -> str:
    """One line per image or vector: its number from 0, predicted class, its name, its probability, the true class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    known = found.true is not None
    writer.writerow([found.noun, "predicted", "name", "probability", *(["true", "true_name"] if known else [])])
    for number, (place, best) in enumerate(zip(found.predicted, found.probability, strict=True)):
        row = [number, place, found.classes[place], f"{best:.6f}"]
        writer.writerow(row if found.true is None else [*row, found.true[number], found.classes[found.true[number]]])
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
        raise InputError(f"{path}: {found}; finite numbers are needed")
    return images

"""Made-up data of one's own: 6x5 images whose brightness tells their class, as arrays and as folders of pictures.

And vectors of 7 features, two of which tell it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mwray.data.own import OwnData, OwnFeatures

NAMES = ("ash", "beech", "cedar")


def images(labels: NDArray[np.int64], seed: int = 0, channels: int = 3) -> NDArray[np.uint8]:
    """One image [6, 5, channels] a label, no two alike."""
    noise = np.random.default_rng(seed).integers(0, 40, (len(labels), 6, 5, channels))
    return (labels[:, None, None, None] * 80 + noise).astype(np.uint8)


def own_data(clean: int = 9, each: int = 40) -> OwnData:
    """Three classes; every fifth training label is wrong."""
    true, test, checked = (np.arange(n) % 3 for n in (3 * each, 30, clean))
    observed = np.where(np.arange(len(true)) % 5 == 0, (true + 1) % 3, true)
    parts = (images(true, 0), observed, images(test, 1), test)
    return OwnData(*parts, images(checked, 2), checked, NAMES) if clean else OwnData(*parts, class_names=NAMES)


def with_clean() -> OwnData:
    """For `data.source=tests.data.own_sets:with_clean`."""
    return own_data()


def without_clean() -> OwnData:
    """For `data.source=tests.data.own_sets:without_clean`."""
    return own_data(clean=0)


def features(labels: NDArray[np.int64], seed: int = 0) -> NDArray[np.float32]:
    """One vector [7] a label: 0 and 1 tell the class, 2 is far from zero, 3 is tiny, 4 is the same everywhere."""
    values = np.random.default_rng(seed).normal(0, 0.3, (len(labels), 7))
    values[:, 0] += labels
    values[:, 1] -= labels
    values[:, 2] = 1e6 + values[:, 2]
    values[:, 3] *= 1e-6
    values[:, 4] = 0.1
    return values.astype(np.float32)


def own_features(clean: int = 9, each: int = 40) -> OwnFeatures:
    """The labels of `own_data`, of vectors."""
    images = own_data(max(clean, 3), each)
    true, checked = np.arange(3 * each) % 3, np.arange(clean) % 3
    parts = (features(true, 0), images.train_labels, features(images.test_labels, 1), images.test_labels)
    return (
        OwnFeatures(*parts, features(checked, 2), checked, NAMES) if clean else OwnFeatures(*parts, class_names=NAMES)
    )


def vectors() -> OwnFeatures:
    """For `data.source=tests.data.own_sets:vectors`."""
    return own_features()


def save(root: Path, data: OwnData, ending: str = "png") -> Path:
    """Write `data` as folders of pictures, numbered as they stand there."""
    for part in ("train", "test", "clean"):
        pixels, labels = getattr(data, f"{part}_images"), getattr(data, f"{part}_labels")
        for row in range(0 if pixels is None else len(pixels)):
            path = root / part / NAMES[labels[row]] / f"{row:03d}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.squeeze(pixels[row])).save(path)
    return root

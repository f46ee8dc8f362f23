"""Arrays as scikit-learn hands them to an estimator, and as this package's data of one's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d, validate_data

from mwray.config import ConfigError
from mwray.data.own import OwnData, OwnFeatures, checked

Pair = tuple[ArrayLike, ArrayLike]
"""Samples and their labels."""
NAME = "fit"
"""What the arrays are called in messages."""


def to_fit(estimator: BaseEstimator, samples: ArrayLike, labels: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Samples and labels [N] as arrays; `estimator` gets `n_features_in_`, and the names of a table's columns.

    Raises:
        ValueError: what scikit-learn refuses; images are left to `own_data`.
    """
    if labels is None:
        raise ValueError("Classifier requires y to be passed, but the target y is None")
    if _is_images(samples):
        array, given = np.asarray(samples), column_or_1d(labels)
        estimator.n_features_in_ = int(np.prod(array.shape[1:]))
    else:
        # What is not finite is told below, with its row and column.
        array, given = validate_data(estimator, samples, labels, dtype="numeric", ensure_all_finite=False)
        given = column_or_1d(given, warn=True)
    check_classification_targets(given)
    return array, given


def beside(
    estimator: BaseEstimator, name: str, pair: Pair | None, classes: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.int64]] | None:
    """Samples that `fit` takes beside X, in X's form, and their labels as numbers of `classes` [C].

    Raises:
        ConfigError: it is no pair, its columns are not X's or in another order, a label is none of y's; `name`s it.
    """
    if pair is None:
        return None
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ConfigError(f"{name}: give (samples, labels), two arrays; {type(pair).__name__} was given")
    try:
        samples = np.asarray(pair[0])
        if not _is_images(pair[0]):
            samples = validate_data(estimator, pair[0], dtype="numeric", reset=False, ensure_all_finite=False)
        labels = column_or_1d(pair[1]).tolist()
    except (TypeError, ValueError) as error:  # scikit-learn's, of X and y
        raise ConfigError(f"{name}: {error}") from error
    number = {label: k for k, label in enumerate(classes.tolist())}
    unknown = [label for label in labels if label not in number]
    if unknown:
        raise ConfigError(f"{name}: the label {unknown[0]!r} is none of y's: {', '.join(map(repr, number))}")
    return samples, np.array([number[label] for label in labels], np.int64)


def plain(value: Any) -> Any:
    """A setting as JSON has it: NumPy's numbers, as a grid of `np.arange` gives them, and paths too."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    return str(value) if isinstance(value, PurePath) else value


def to_predict(estimator: BaseEstimator, samples: ArrayLike) -> NDArray[Any]:
    """Samples as the network takes them: images with their channels first.

    Raises:
        ValueError: what scikit-learn refuses, such as a number that is not finite, also in float32.
    """
    if not _is_images(samples):
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            return validate_data(estimator, samples, dtype=np.float32, reset=False, ensure_min_samples=0)
    array = np.asarray(samples)
    if array.ndim == 3:
        array = array[..., None]
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array


def own_data(
    samples: NDArray[Any],
    codes: NDArray[np.int64],
    clean: tuple[ArrayLike, NDArray[np.int64]] | None,
    test: tuple[ArrayLike, NDArray[np.int64]] | None,
    classes: NDArray[Any],
) -> OwnData | OwnFeatures:
    """What `fit` was given as the package's own kinds of data, labels being numbers of `classes` [C].

    Raises:
        ConfigError: a part of it cannot be used: names it, what was given and what would do.
    """
    names = [str(name) for name in classes]
    clean_samples, clean_labels = clean or (None, None)
    test_samples, test_labels = test or (None, None)
    labels: dict[str, Any] = {
        "train_labels": codes,
        "test_labels": test_labels,
        "clean_labels": clean_labels,
        "class_names": names if len(set(names)) == len(names) else None,
    }
    others = [None if other is None else _array(other) for other in (test_samples, clean_samples)]
    if samples.ndim == 2:
        vectors = OwnFeatures(
            train_features=_array(samples), test_features=others[0], clean_features=others[1], **labels
        )
        return _checked(vectors)
    return _checked(OwnData(train_images=samples, test_images=others[0], clean_images=others[1], **labels))


def _checked(data: OwnData | OwnFeatures) -> OwnData | OwnFeatures:
    """As `checked`, its errors in the words of `fit`: X for train_features, clean for clean_labels."""
    try:
        return checked(data, NAME) if isinstance(data, OwnFeatures) else checked(data, NAME)
    except ConfigError as error:
        part = re.match(rf"data\.source: (train|clean|test)_(\w+) of {NAME!r} ", str(error))
        if part is None:
            raise
        beside_x = {"labels": "y"}.get(part[2], "X") if part[1] == "train" else f"{part[1]}: its {part[2]}"
        raise ConfigError(f"{beside_x} {str(error)[part.end() :]}") from None


def _is_images(samples: ArrayLike) -> bool:
    return not hasattr(samples, "toarray") and np.asarray(samples).ndim > 2


def _array(samples: ArrayLike) -> NDArray[Any]:
    """The samples; whole numbers of two dimensions are vectors too."""
    array = np.asarray(samples)
    return array.astype(np.float32) if array.ndim == 2 and array.dtype.kind in "iub" else array

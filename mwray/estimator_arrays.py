"""Arrays as scikit-learn hands them to an estimator, and as this package's data of one's own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d, validate_data

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


def to_predict(estimator: BaseEstimator, samples: ArrayLike) -> NDArray[Any]:
    """Samples as the network takes them: images with their channels first."""
    if not _is_images(samples):
        array = validate_data(estimator, samples, dtype="numeric", reset=False, ensure_min_samples=0)
        return np.asarray(array, np.float32)
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
        return checked(vectors, NAME)
    return checked(OwnData(train_images=samples, test_images=others[0], clean_images=others[1], **labels), NAME)


def _is_images(samples: ArrayLike) -> bool:
    return not hasattr(samples, "toarray") and np.asarray(samples).ndim > 2


def _array(samples: ArrayLike) -> NDArray[Any]:
    """The samples; whole numbers of two dimensions are vectors too."""
    array = np.asarray(samples)
    return array.astype(np.float64) if array.ndim == 2 and array.dtype.kind in "iub" else array

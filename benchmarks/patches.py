"""Feature vectors of small colour images without a network: responses to patches, after Coates, Lee and Ng.

"An Analysis of Single-Layer Networks in Unsupervised Feature Learning", AISTATS 2011: whitened 6x6 patches, k-means,
the triangle activation, sums over quadrants. No label is looked at.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor
from torch.nn import functional as F

SIDE = 6
CENTROIDS = 400
SAMPLE = 100_000
"""Patches that the whitening and the centroids are learned on."""


def features(images: NDArray[np.uint8], learned_on: int = 5000, seed: int = 0) -> NDArray[np.float32]:
    """Vectors [N, 4 * CENTROIDS] of images uint8 [N, 3, H, W]; patches are learned on the first `learned_on` images."""
    generator = torch.Generator().manual_seed(seed)
    some = torch.cat([_patches(images[start : start + 250]) for start in range(0, min(learned_on, len(images)), 250)])
    some = some[torch.randperm(len(some), generator=generator)[:SAMPLE]]
    mean = some.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(some.T))
    whiten = vectors @ torch.diag((values + 0.1).rsqrt()) @ vectors.T
    means = MiniBatchKMeans(CENTROIDS, n_init=1, batch_size=4096, random_state=seed).fit(
        ((some - mean) @ whiten).numpy()
    )
    centroids = torch.from_numpy(means.cluster_centers_).float()
    return torch.cat(
        [_responses(images[start : start + 50], mean, whiten, centroids) for start in range(0, len(images), 50)]
    ).numpy()


def _patches(images: NDArray[np.uint8]) -> Tensor:
    """Every patch of every image, [images * places, 3 * SIDE * SIDE], of brightness 0 and contrast 1."""
    patches = F.unfold(torch.from_numpy(images).float(), SIDE).transpose(1, 2).flatten(0, 1)
    patches = patches - patches.mean(1, keepdim=True)
    return patches / (patches.var(1, keepdim=True) + 10).sqrt()


def _responses(images: NDArray[np.uint8], mean: Tensor, whiten: Tensor, centroids: Tensor) -> Tensor:
    """The triangle activation, summed over the four quadrants of each image."""
    distance = torch.cdist((_patches(images) - mean) @ whiten, centroids)
    near = (distance.mean(1, keepdim=True) - distance).clamp_min(0)
    places = images.shape[2] - SIDE + 1
    grid = near.view(len(images), places, places, CENTROIDS)
    half = places // 2
    rows, columns = ((slice(None, half), slice(half, None)),) * 2
    return torch.cat([grid[:, row, column].sum((1, 2)) for row in rows for column in columns], 1)

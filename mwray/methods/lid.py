"""Local intrinsic dimension: in how many directions the neighbours of a point lie."""

from __future__ import annotations

import torch
from torch import Tensor


def local_intrinsic_dimension(points: Tensor, neighbours: int) -> Tensor:
    """Maximum-likelihood estimate [B] at each of `points` [B, d] from its nearest neighbours among the others.

    LID = -k / sum_i log(r_i / r_k), r_1 <= ... <= r_k the distances (Amsaleg et al., KDD 2015, Eq. 1; Ma et al.,
    ICML 2018, Eq. 3). In d dimensions its mean is d k / (k - 2) where the density is even. The 1e-8 that keeps copies
    of a point from log 0 is that of the authors' code (mle_batch). Not finite where all k distances are equal.

    Raises:
        ValueError: there are not more points than neighbours.
    """
    if len(points) <= neighbours:
        raise ValueError(f"{neighbours} neighbours need at least {neighbours + 1} points, and there are {len(points)}")
    # The matrix form of cdist loses what separates near neighbours to cancellation.
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    nearest = distances.topk(neighbours, largest=False, sorted=True).values  # [B, k]
    return -neighbours / (nearest / nearest[:, -1:] + 1e-8).log().sum(1)

"""Transition matrices T, T_ij the probability of observed class j given true class i: their loss and their error."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-12
"""Stands for a probability of zero, whose logarithm would be minus infinity: float32 goes down to about 1e-38."""


def corrected_losses(logits: Tensor, observed: Tensor, transition: Tensor) -> Tensor:
    """Forward-corrected loss [B]: -log (T^T p)_y with p = softmax(logits) (Patrini et al., CVPR 2017, Eq. 6).

    Args:
        logits: [B, C] of the true class.
        observed: int64 [B].
        transition: [C, C], rows sum to one.
    """
    log_transition = transition.to(logits.dtype).clamp_min(TINY).log()
    return -torch.logsumexp(F.log_softmax(logits, 1) + log_transition.T[observed], 1)


def transition_findings(estimated: Tensor, true: Tensor) -> tuple[dict[str, float], dict[str, Tensor]]:
    """What a method reports of its estimate: both matrices, and the error.

    The error is the mean over true classes of the total variation distance between the rows, half the sum of absolute
    differences: 0 is right, 1 is the worst. The true matrix is the one that the labels were drawn from.
    """
    estimated = estimated.detach().double().cpu()
    error = 0.5 * (estimated - true.double()).abs().sum(1).mean()
    return {"transition_error": float(error)}, {"transition_estimated": estimated, "transition_true": true}

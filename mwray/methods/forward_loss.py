"""The loss of a classifier whose labels went through a known transition, and what a method reports of its estimate."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from mwray.data.splits import Splits
from mwray.methods.transition import empirical, error

TINY = 1e-12
"""Stands for a probability of zero, whose logarithm would be minus infinity: float32 goes down to about 1e-38."""


def corrected_losses(logits: Tensor, observed: Tensor, transition: Tensor) -> Tensor:
    """Forward-corrected loss [B]: -log (T^T p)_y with p = softmax(logits) (Patrini et al., CVPR 2017, Theorem 2).

    Args:
        logits: [B, C] of the true class.
        observed: int64 [B].
        transition: [C, C], T_ij the probability of observed class j given true class i; rows sum to one.
    """
    logs = transition.to(logits.dtype).clamp_min(TINY).log()
    return -(F.log_softmax(logits, 1) + logs.T[observed]).logsumexp(1)


def transition_findings(estimated: Tensor, splits: Splits) -> tuple[dict[str, float], dict[str, Tensor]]:
    """What a method reports of its estimate [C, C]: it, the one that the training labels show, and the error.

    The estimate alone where nobody knows the true labels.
    """
    true = empirical(splits.train, splits.num_classes)
    if true is None:
        return {}, {"transition_estimated": estimated.detach()}
    arrays = {"transition_estimated": estimated.detach(), "transition_true": true}
    return {"transition_error": error(estimated, true)}, arrays

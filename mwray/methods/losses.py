"""Losses per sample that are not plain cross-entropy."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mwray.meta.gradient import cross_entropy
from mwray.methods.classifier import Classifier
from mwray.methods.head import last_linear


def softmax_focal(logits: Tensor, y: Tensor, gamma: float) -> Tensor:
    """Focal loss [B] -(1 - p_y)^gamma log p_y with one softmax over the classes.

    Lin et al., "Focal loss for dense object detection", ICCV 2017, Eq. 4, carried from two classes to many. The
    gradient flows through both factors. With gamma 0 it is cross-entropy.
    """
    losses = cross_entropy(logits, y)
    return focal_weight(losses, gamma) * losses


def focal_weight(losses: Tensor, gamma: float) -> Tensor:
    """The factor (1 - p_y)^gamma of cross-entropy losses [B] = -log p_y, from 0 at loss 0 up to 1.

    1 - p is taken as -expm1(-loss): exact near p = 1. It is held above the smallest normal number, below which the
    slope of a power under one would be infinite.
    """
    rest = -torch.expm1(-losses)
    return rest.clamp_min(torch.finfo(losses.dtype).tiny) ** gamma


def sigmoid_focal(logits: Tensor, y: Tensor, gamma: float) -> Tensor:
    """Focal loss [B] summed over C binary losses: class y against the rest (Cui et al., CVPR 2019, Eq. 13).

    With gamma 0 it is the sigmoid cross-entropy of their Eq. 12. No alpha: theirs is the class weight.
    """
    wide = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    target = torch.zeros_like(wide).scatter_(1, y[:, None], 1.0)  # F.one_hot looks at its argument, on some devices
    losses = F.binary_cross_entropy_with_logits(wide, target, reduction="none")
    return (focal_weight(losses, gamma) * losses).sum(1)


def hard_guess(logits: Tensor) -> Tensor:
    """Cross-entropy [B] against the likeliest class of logits [B, C]."""
    return cross_entropy(logits, logits.detach().argmax(1))


def entropy(logits: Tensor) -> Tensor:
    """Entropy [B] of the predicted distribution, in nats."""
    wide = logits if logits.element_size() >= 4 else logits.float()
    return -(wide.softmax(1) * wide.log_softmax(1)).sum(1)


def prepare_for_sigmoid(classifier: Classifier, num_classes: int) -> None:
    """Start the last layer's bias at -log(C - 1), so that every class begins at probability 1 / C, and never decay it.

    As in the code of Cui et al. (cifar_model.py): otherwise the C - 1 negatives of each sample swamp the first steps.
    So the network starts from other bits than under a softmax loss, in this one bias.

    Raises:
        ConfigError: the network does not end in a linear layer.
    """
    bias = dict(last_linear(classifier.network, num_classes).named_parameters()).get("bias")
    if bias is None:
        return
    nn.init.constant_(bias, -math.log(num_classes - 1))
    group = classifier.optimizer.param_groups[0]
    group["params"] = [parameter for parameter in group["params"] if parameter is not bias]
    classifier.optimizer.add_param_group({"params": [bias], "weight_decay": 0.0})

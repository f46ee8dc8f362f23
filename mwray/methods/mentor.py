"""Mentors: what looks at a sample's loss and says how much the sample should count (Jiang et al., ICML 2018).

Each gives weights [B] in 0..1 from losses [B], their distances to the moving percentile [B], and progress 0..1.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mwray.seeding import key

STEPS = 400
BATCH = 1024
LR = 0.02
"""Ours: the authors' recurrent mentor takes 30,000 steps of Adam at 0.1, falling by 0.9 every 1,000. This one has three
inputs, and its loss stands still after some hundred steps (seen on digits)."""


@final
class Predefined:
    """The fixed curriculum of the authors' code ("PD"): first everything, then the easy part, then nearly everything.

    Weight 1 up to 18 % of the run; then 1 where the loss is below the percentile, else 0; in the last tenth falling
    linearly over `gamma` nats above it. The authors train a net to imitate this rule; here it is the rule itself.
    """

    def __init__(self, burn_in: float, gamma: float) -> None:
        self.burn_in, self.gamma = burn_in, gamma

    def __call__(self, losses: Tensor, distances: Tensor, progress: float) -> Tensor:
        """Weights [B]."""
        if progress <= self.burn_in:
            return torch.ones_like(losses)
        if progress < 0.9:
            return (distances <= 0).to(losses.dtype)
        return (1 - distances / self.gamma).clamp(0, 1)


class MentorNetwork(nn.Module):
    """A perceptron of (loss, distance, progress) with 20 tanh units: the data-driven mentor ("DD").

    The authors' has a recurrent layer over one step of (loss, distance) and embeddings of label (fed as 0 on CIFAR)
    and progress before those 20 units; with a single step and no label a perceptron sees the same.
    """

    def __init__(self, burn_in: float = 0.0) -> None:
        super().__init__()
        self.burn_in = burn_in
        self.layers = nn.Sequential(nn.Linear(3, 20), nn.Tanh(), nn.Linear(20, 1))

    def forward(self, losses: Tensor, distances: Tensor, progress: float | Tensor) -> Tensor:
        """Logits [B] of "the label is right"; progress is a number or [B]."""
        inputs = torch.stack([losses, distances, torch.zeros_like(losses) + progress], 1)
        logits: Tensor = self.layers(inputs.float()).squeeze(1)
        return logits

    @torch.no_grad()
    def weights(self, losses: Tensor, distances: Tensor, progress: float) -> Tensor:
        """Weights [B]: 1 in the burn-in; later the probability that the label is right, as judged at its end."""
        if progress < self.burn_in:
            return torch.ones_like(losses)
        # The authors' fixed_epoch_after_burn_in: the mentor is not told how late it is.
        return self(losses, distances, min(progress, self.burn_in)).sigmoid().to(losses.dtype)


def fit(mentor: MentorNetwork, samples: Tensor, right: Tensor, seed: int) -> float:
    """Teach `mentor` which samples have right labels, by binary cross-entropy; returns the share that it gets right.

    Args:
        mentor: its parameters are drawn anew.
        samples: [S, 3] loss, distance to the percentile, progress.
        right: [S] 1.0 where the label is right, else 0.0.
        seed: of the first parameters and of the order.
    """
    generator = torch.Generator().manual_seed(key(seed, "mentor"))
    with torch.no_grad():
        for parameter in mentor.parameters():
            parameter.copy_(torch.empty(parameter.shape).uniform_(-0.5, 0.5, generator=generator))
    optimizer = torch.optim.Adam(mentor.parameters(), lr=LR)
    parameters = list(mentor.parameters())
    for _ in range(STEPS):
        chosen = torch.randint(len(samples), (min(BATCH, len(samples)),), generator=generator).to(samples.device)
        logits = mentor(*samples[chosen].unbind(1))
        loss = F.binary_cross_entropy_with_logits(logits, right[chosen])
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
    with torch.no_grad():
        return float(((mentor(*samples.unbind(1)) > 0) == (right > 0.5)).float().mean())

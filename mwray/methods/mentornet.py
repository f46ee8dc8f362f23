"""MentorNet (Jiang, Zhou, Leung, Li and Fei-Fei, ICML 2018): a frozen mentor sets each sample's weight by its loss."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, final

import torch
from torch import Tensor

from mwray.config import ConfigError
from mwray.data.loader import Batch
from mwray.meta.gradient import cross_entropy
from mwray.methods.base import Method, Setup, Step
from mwray.methods.classifier import Classifier
from mwray.methods.exchange import gather, total
from mwray.methods.mentor import MentorNetwork, Predefined, fit
from mwray.methods.phases import Phases
from mwray.methods.settings import MentorNetSettings
from mwray.methods.steps import both_forward, union_mean
from mwray.methods.wrong_labels import wrong_labels
from mwray.optim import rate_of
from mwray.seeding import rng

DEFAULT_SHARE = 0.5
DEFAULT_PERCENTILE = {"predefined": 0.75, "data-driven": 0.6}


@final
class MentorNet(Method):
    """The student descends mean_i v_i L_i, v from a mentor that sees the loss, its distance to a moving percentile of
    the batch's losses, and how far the run is (their section 3 and released code).

    "predefined": the mentor is a fixed rule. "data-driven": phase one trains a student without weights on the biased
    images and on the clean ones, part of which got a wrong label on purpose; the mentor learns from what it saw of
    the latter which losses are those of wrong labels; it is then frozen, and phase two trains again from the first
    weights, on the biased images alone.

    Where we differ from the authors' code: their student weight decay shrinks with the mean weight, ours does not;
    their mentor learned on another run and 5,000 to 7,000 images, ours on the meta set within the run; what it sees is
    the whole first phase, told by progress, which both phases count from 0 to 1.

    Raises:
        ConfigError: the data-driven mentor has no clean images, or a phase no epoch.
    """

    needs_meta = False

    def __init__(self, settings: MentorNetSettings, setup: Setup) -> None:
        self.settings, self.setup = settings, setup
        self.driven = settings.curriculum == "data-driven"
        self.percentile = settings.percentile or DEFAULT_PERCENTILE[settings.curriculum]
        device = setup.worker.device
        self.classifier = Classifier(setup)
        self.mentor = MentorNetwork(settings.burn_in).to(device)
        self.rule = Predefined(settings.burn_in, settings.gamma)
        self.threshold = torch.full((), torch.nan, device=device)
        self.phases: Phases | None = None
        self.mentor_accuracy = 0.0
        if self.driven:
            self._prepare_first_phase()
        self.teaching = not self.driven
        self.progress = 0.0
        self.dropped = torch.zeros(len(setup.splits.train), dtype=torch.bool, device=device)

    def epoch_start(self, epoch: int) -> None:
        """Set the learning rate and the dropout; at the change of phase, teach the mentor and start again."""
        setup = self.setup
        if self.phases is None:
            self.progress = epoch / setup.epochs
            self.classifier.start_epoch(epoch)
        else:
            if epoch == self.phases.first:
                self._teach_mentor()
                self.classifier = Classifier(setup)
                self.threshold.fill_(torch.nan)
            self.teaching = self.phases.second(epoch)
            self.needs_meta = not self.teaching
            self.progress = self.phases.progress(epoch)
            self.classifier.start_epoch(self.phases.schedule_epoch(epoch))
        if not self.teaching:
            self.watched.zero_()
        draws = torch.rand(len(setup.splits.train), generator=rng(setup.seed, "mentornet dropout", epoch))
        early = self._told_progress() < self.settings.dropout_until
        rate = self.settings.dropout if early else self.settings.late_dropout
        self.dropped.copy_(draws < rate)

    def update(self, batch: Batch, meta: Batch | None) -> Step:
        """A step along the weighted losses, or, in the first phase, along those of both sets."""
        if not self.teaching:
            assert meta is not None
            return self._watched_step(batch, meta)
        logits = self.classifier.forward(batch.x)
        losses = cross_entropy(logits, batch.y)
        distances = self._distances(losses.detach())
        weights = self._mentor_weights(losses.detach(), distances) * ~self.dropped[batch.index]
        self.classifier.descend((weights * losses).mean())
        weighted = (weights * losses).detach().mean()
        return Step(logits.detach(), losses.detach(), weights, {"weighted_loss": weighted})

    def capture_key(self) -> Hashable:
        """The mentor's regime: which of its cases applies in this epoch."""
        return self.teaching, self._regime()

    def epoch_end(self, epoch: int) -> None:
        """Agree on running statistics and on what was seen of the clean images."""
        self.classifier.agree()
        if not self.teaching:
            self.seen[epoch] = total(self.watched, self.setup.worker)

    def predict(self, x: Tensor) -> Tensor:
        """Logits [B, C]."""
        return self.classifier.predict(x)

    def curve(self) -> Callable[[Tensor], Tensor] | None:
        """The mentor's weight of a loss, at the present percentile and progress; none before there is a mentor."""
        if not self.teaching:
            return None
        return lambda losses: self._mentor_weights(losses, losses - self.threshold)

    def findings(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Percentile of the losses; phase, learning rate, and how well the mentor knows the clean images' labels."""
        rate = rate_of(self.classifier.optimizer)
        numbers = {"threshold": float(self.threshold), "lr": rate}
        if self.driven:
            numbers["phase"] = 1.0 + self.teaching
        if self.driven and self.teaching:
            numbers["mentor_accuracy"] = self.mentor_accuracy
        return numbers, {}

    def state(self) -> dict[str, Any]:
        """Network, optimiser, mentor, percentile, and in a data-driven run what was seen of the clean images."""
        return {
            "classifier": self.classifier.state(),
            "mentor": self.mentor.state_dict(),
            "mentor_accuracy": self.mentor_accuracy,
            "threshold": self.threshold,
            "seen": self.seen if self.driven and not self.teaching else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.classifier.restore(state["classifier"])
        self.mentor.load_state_dict(state["mentor"])
        self.mentor_accuracy = state["mentor_accuracy"]
        self.threshold.copy_(state["threshold"])
        if state["seen"] is not None:
            self.seen = state["seen"]

    def _prepare_first_phase(self) -> None:
        setup, settings = self.setup, self.settings
        if len(setup.splits.meta) < 2:
            raise ConfigError(
                f"data.num_meta: the data-driven mentor learns from clean images and {len(setup.splits.meta)} are held "
                "out; set it above 1, or method.curriculum=predefined"
            )
        self.needs_meta = True
        self.phases = Phases.of(settings.first_epochs, DEFAULT_SHARE, setup.epochs)
        labels = wrong_labels(setup.splits, settings.wrong_share, settings.wrong_labels, setup.seed)
        self.labels = labels.to(setup.worker.device)
        self.right = (labels == setup.splits.meta.observed).float().to(setup.worker.device)
        # Of each clean image in each epoch: sums of its losses and distances, and how often it was met.
        self.seen = torch.zeros(self.phases.first, len(labels), 3, device=setup.worker.device)
        self.watched = torch.zeros_like(self.seen[0])  # the same, of the present epoch

    def _watched_step(self, batch: Batch, meta: Batch) -> Step:
        logits, clean_logits = both_forward(self.classifier, batch, meta)
        losses = cross_entropy(logits, batch.y)
        clean_losses = cross_entropy(clean_logits, self.labels[meta.index])
        self._distances(losses.detach())
        seen = clean_losses.detach()
        self.watched[meta.index] += torch.stack([seen, seen - self.threshold, torch.ones_like(seen)], 1)
        self.classifier.descend(union_mean(self.setup, losses, clean_losses))
        return Step(logits.detach(), losses.detach(), None, {"meta_loss": seen.mean()})

    def _distances(self, losses: Tensor) -> Tensor:
        """Losses [B] less the moving average of their percentile over the batches of all workers."""
        fresh = gather(losses, self.setup.worker).quantile(self.percentile)
        decay = self.settings.decay
        # The authors' average starts from 0; from the first batch on ours is one of losses.
        averaged = decay * self.threshold + (1 - decay) * fresh
        self.threshold.copy_(torch.where(self.threshold.isnan(), fresh, averaged))
        return losses - self.threshold

    def _mentor_weights(self, losses: Tensor, distances: Tensor) -> Tensor:
        mentor = self.mentor.weights if self.driven else self.rule
        return mentor(losses, distances, self.progress)

    def _regime(self) -> int:
        """Progress enters the mentors' weights by these comparisons alone."""
        return (
            (self.progress < self.settings.burn_in) + (self.progress <= self.settings.burn_in) + (self.progress < 0.9)
        )

    def _told_progress(self) -> float:
        """Progress as the dropout's schedule sees it: capped with a data-driven mentor, as in the authors' code."""
        return min(self.progress, self.settings.burn_in) if self.driven else self.progress

    def _teach_mentor(self) -> None:
        assert self.phases is not None
        progress = torch.tensor([self.phases.progress(e) for e in range(self.phases.first)], device=self.seen.device)
        sums, count = self.seen[:, :, :2], self.seen[:, :, 2:]
        samples = torch.cat([sums / count, progress[:, None, None].expand_as(count)], 2).flatten(0, 1)
        right = self.right.repeat(self.phases.first)
        met = count.flatten() > 0
        if bool(met.any()):  # else this run is only looked at, and has its mentor from a checkpoint next
            self.mentor_accuracy = fit(self.mentor, samples[met], right[met], self.setup.seed)

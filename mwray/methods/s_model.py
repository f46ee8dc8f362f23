"""S-Model: a layer after the softmax that learns how labels go wrong (Goldberger and Ben-Reuven, ICLR 2017)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from mwray import optim
from mwray.data.loader import Batch, at_once
from mwray.meta.gradient import cross_entropy
from mwray.methods import transition
from mwray.methods.base import Method, Setup, Step
from mwray.methods.classifier import Classifier
from mwray.methods.exchange import total
from mwray.methods.forward_loss import transition_findings
from mwray.methods.head import features_of, last_linear
from mwray.methods.held_out import HeldOut
from mwray.methods.images import training_batches
from mwray.methods.noise_layer import NoiseLayer
from mwray.methods.phases import Phases
from mwray.methods.settings import SModelSettings

LONGEST = 0.5
"""Share of the run after which the layer is put on in any case."""


@final
class SModel(Method):
    """Plain training first; then the noise layer is put on, and both learn the noisy labels together.

    The layer starts from the log of the first phase's confusion (rows: predicted class, columns: observed label),
    as in the authors' code: from a random start the network may settle on permuted classes. The network goes on from
    where it stands. It is tested without the layer. The layer has the network's learning rate and no weight decay,
    which would pull it towards "every label is equally likely".

    As in their code the first phase holds a tenth of the training images out and ends once the loss on their observed
    labels has not fallen for some epochs: stopped too early, the confusion shows the network's own errors; too late,
    labels learned by heart and no noise. Where we differ: the network goes back to the lowest loss (theirs goes on from
    the last epoch); half of the run is the most; the second phase, which they stop likewise, trains on all images to
    the end of the run, as every other method. The schedule of learning rates runs once through both phases.

    Raises:
        ConfigError: the first phase is as long as the run or longer.
    """

    def __init__(self, settings: SModelSettings, setup: Setup) -> None:
        self.settings, self.setup = settings, setup
        self.phases = Phases.of(settings.first_epochs, LONGEST, setup.epochs)
        self.held_out = HeldOut(setup, settings.patience) if settings.first_epochs is None else None
        self.classifier = Classifier(setup)
        num_classes = setup.splits.num_classes
        self.last = last_linear(self.classifier.network, num_classes) if settings.form == "complex" else None
        self.layer = NoiseLayer(num_classes, self.last.in_features if self.last else 0).to(setup.worker.device)
        self.optimizer = setup.make_optimizer(self.layer.parameters())
        self.adapting = False
        self.transition_sum = torch.zeros_like(self.layer.bias)
        self.steps = 0

    def epoch_start(self, epoch: int) -> None:
        """At the change of phase, start the layer from the confusion so far; set the learning rates."""
        if not self.adapting and (self.phases.second(epoch) or (self.held_out is not None and self.held_out.over)):
            self._put_on()
        self.classifier.start_epoch(epoch)  # last: going back brings the old rate with it
        for group in self.optimizer.param_groups:
            group["weight_decay"] = 0.0
        optim.set_rate(self.optimizer, self.setup.learning_rate(epoch))
        self.transition_sum.zero_()
        self.steps = 0

    def update(self, batch: Batch, meta: Batch | None) -> Step:
        """Step on -log p(label), p being the network's prediction sent through the layer (their Eq. 3 and 4)."""
        if not self.adapting:
            return self._first_step(batch)
        logits, log_q = self._forward(batch.x)
        losses = adapted_loss(logits, log_q, batch.y)
        self._descend(losses.mean())
        self.transition_sum += log_q.detach().exp().mean(0)
        self.steps += 1
        return Step(logits.detach(), losses.detach())

    def capture_key(self) -> Hashable:
        """One step for each phase."""
        return self.adapting

    def replayed(self) -> None:
        """Count the step."""
        self.steps += self.adapting

    def epoch_end(self, epoch: int) -> None:
        """Agree on running statistics; in the first phase, look at what is held out."""
        self.classifier.agree()
        if self.held_out is not None and not self.adapting:
            self.held_out.look(self.classifier)

    def predict(self, x: Tensor) -> Tensor:
        """Logits [B, C] of the network without the layer."""
        return self.classifier.predict(x)

    def findings(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The layer's transition (the complex form's: mean over the epoch's samples) beside the labels' own."""
        if not self.adapting:
            return {"phase": 1.0, **({"held_out_loss": self.held_out.losses[-1]} if self.held_out else {})}, {}
        estimated = self.setup.worker.average([self.transition_sum / self.steps])[0]
        numbers, arrays = transition_findings(estimated, self.setup.splits)
        return {"phase": 2.0, **numbers}, arrays

    def state(self) -> dict[str, Any]:
        """Network, layer and both optimisers; the phase, and what the first one knows of the images held out."""
        held_out = self.held_out
        return {
            "adapting": self.adapting,
            "held_out": None if held_out is None else {"losses": list(held_out.losses), "best": held_out.best},
            "classifier": self.classifier.state(),
            "layer": self.layer.state_dict(),
            "layer_optimizer": self.optimizer.state_dict(),
        }

    def moving(self) -> Any:
        """Network, layer and both optimisers: what the first phase keeps of its best epoch takes no part."""
        return [self.classifier.state(), self.layer.state_dict(), self.optimizer.state_dict()]

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.adapting = state["adapting"]
        if self.held_out is not None:
            self.held_out.losses, self.held_out.best = list(state["held_out"]["losses"]), state["held_out"]["best"]
        self.classifier.restore(state["classifier"])
        self.layer.load_state_dict(state["layer"])
        optim.restore(self.optimizer, state["layer_optimizer"])

    def _first_step(self, batch: Batch) -> Step:
        logits = self.classifier.forward(batch.x)
        losses = cross_entropy(logits, batch.y)
        mean = losses.mean() if self.held_out is None else self.held_out.mean_of_others(losses, batch)
        self.classifier.descend(mean)
        return Step(logits.detach(), losses.detach())

    def _put_on(self) -> None:
        """Begin the second phase."""
        if self.held_out is not None and self.held_out.best is not None:
            self.classifier.restore(self.held_out.best)
            self.held_out.best = None
        self.layer.start_from(transition.normalised(self._confusion()))
        self.adapting = True

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, C] and the layer's log transition, [B, C, C] or [1, C, C]."""
        if self.last is None:
            return self.classifier.forward(x), self.layer(None)
        with features_of(self.last) as features:
            logits = self.classifier.forward(x)
        return logits, self.layer(features[0].float())

    def _descend(self, loss: Tensor) -> None:
        """One step of network and layer along the gradient of `loss` [], averaged over workers."""
        parameters = [p for p in (*self.classifier.network.parameters(), *self.layer.parameters()) if p.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        optim.set_gradients(parameters, self.setup.worker.average(gradients))
        self.classifier.optimizer.step()
        self.optimizer.step()

    def _confusion(self) -> Tensor:
        """Counts float64 [C, C] of predicted class (row) and observed label (column) over the training set."""
        worker, num_classes = self.setup.worker, self.setup.splits.num_classes
        counts = torch.zeros(num_classes, num_classes, dtype=torch.float64, device=worker.device)
        mine = torch.arange(worker.rank, len(self.setup.splits.train), worker.size)
        for batch in training_batches(self.setup, mine, at_once(self.setup.splits.shape)):
            guess = self.classifier.predict(batch.x).double().softmax(1)
            if self.settings.counts == "hard":
                guess = F.one_hot(guess.argmax(1), num_classes).double()
            counts += guess.T @ F.one_hot(batch.y, num_classes).double()
        return total(counts, worker)


def adapted_loss(logits: Tensor, log_q: Tensor, y: Tensor) -> Tensor:
    """-log sum_i p(i | x) Q_iy, [B], from logits [B, C], log Q [B or 1, C, C] and observed labels [B]."""
    log_q = log_q.expand(len(y), -1, -1)
    column = log_q.gather(2, y[:, None, None].expand(-1, log_q.shape[1], 1)).squeeze(2)  # [B, C]
    return -(logits.log_softmax(1) + column).logsumexp(1)

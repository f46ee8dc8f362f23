"""Learning to reweight examples for robust deep learning (L2RW; Ren, Zeng, Yang and Urtasun, ICML 2018)."""

from __future__ import annotations

from typing import final

from torch import Tensor

from mwray.data.loader import Batch
from mwray.meta import recompute
from mwray.meta.gradient import copies, cross_entropy, inner_products, meta_gradient
from mwray.meta.tangent import record
from mwray.meta.weights import Multipliers, weigh
from mwray.methods.base import Setup, Step
from mwray.methods.one_network import OneNetwork
from mwray.methods.settings import L2RWSettings
from mwray.worker import Worker


@final
class L2RW(OneNetwork):
    """Weights without a memory: each batch's are the clipped alignments of its gradients with that of a meta batch.

    Their Algorithm 1 takes a virtual step with weights eps = 0, differentiates the meta loss by eps, clips at zero and
    divides by the sum. At eps = 0 the virtual step leads nowhere, so

        -d L_meta / d eps_i = alpha <grad L_i, grad L_meta>, both at the present parameters (their section 3.3),

    and alpha cancels in the division. The inner products are one tangent pass; there is no graph of a graph, and the
    numbers are those of their double backward.

    Batch norm uses each batch's own statistics in both forwards, as in their code. Where no sample agrees with the
    clean ones all weights are zero, and the optimiser follows its momentum and weight decay alone, as there.
    """

    needs_meta = True

    def __init__(self, settings: L2RWSettings, setup: Setup) -> None:
        super().__init__(setup)
        self.worker = setup.worker

    def update(self, batch: Batch, meta: Batch | None) -> Step:
        """One forward for alignments and step, one for the meta gradient."""
        assert meta is not None
        network = self.classifier.network.train()
        recording = record(network, batch.x, recompute.chosen())
        losses = cross_entropy(recording.outputs, batch.y)
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        clean = (meta.x, meta.y)
        with recording.set_aside() as reading:
            still = copies(network, recording, trained)
            meta_loss, slopes = meta_gradient(network, trained, clean, cross_entropy, self.worker, still, reading)
        alignment = inner_products(recording, losses, dict(zip(trained, slopes, strict=True)))
        weights = clipped(alignment, self.worker)
        weighted = (weights.eta * losses).sum()
        self.classifier.descend(weighted)
        scalars = {"meta_loss": meta_loss, "weighted_loss": weighted.detach()}
        scalars["method.share_zero"] = (weights.eta == 0).float().mean()
        return Step(recording.outputs.detach(), losses.detach(), weights.eta * len(losses), scalars)


def clipped(alignment: Tensor, worker: Worker) -> Multipliers:
    """Weights max(u_i, 0) / sum_k max(u_k, 0) of alignments u [n]; all zero where none is positive.

    The sum runs over the batches of all workers.
    """
    return weigh(alignment.clamp_min(0), "normalized", 1.0, worker)

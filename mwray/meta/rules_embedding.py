"""Tangent rules of table look-ups.

Reverse mode is the definition, and in two places it is not the table's derivative: the row of `padding_idx` gets no
gradient, and with `scale_grad_by_freq` a row's gradient is divided by its number of uses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mwray.meta.rules import Call, Push, Results, Tangents, Unsupported, rule, total

aten = torch.ops.aten
MAXIMUM = 2
"""The third of `_embedding_bag`'s modes: sum, mean, max."""


@rule("embedding")
def embedding(call: Call) -> Push:
    """The same rows of the tangent."""
    (indices,) = call.read("indices")
    padding, by_use = call.arguments["padding_idx"], call.arguments["scale_grad_by_freq"]

    def push(tangents: Tangents) -> Results:
        rows: Tensor = aten.embedding(_by_use(tangents["weight"], indices, by_use), indices)
        return rows if padding < 0 else rows.masked_fill_((indices == padding).unsqueeze(-1), 0)

    return push


@rule("_embedding_bag")
def embedding_bag(call: Call) -> Push:
    """Sums and means are linear in the table, sums also in the samples' weights; a maximum takes the rows it took."""
    if call.arguments["scale_grad_by_freq"]:  # PyTorch's own gradient of it differs between versions
        raise Unsupported(f"{call.func} has no tangent with scale_grad_by_freq")
    if call.arguments["mode"] == MAXIMUM:
        taken, sizes = call.keep(call.results[3]), call.keep(call.results[2])
        return lambda tangents: _taken(tangents["weight"], taken, sizes)
    again = call.without("weight", "per_sample_weights")
    weights = call.read("per_sample_weights")[0] if "weight" in call.active else None
    table = call.read("weight")[0] if "per_sample_weights" in call.active else None

    def push(tangents: Tangents) -> Results:
        dtable, dweights = tangents.get("weight"), tangents.get("per_sample_weights")
        parts = []
        if dtable is not None:
            parts.append(again(weight=dtable, per_sample_weights=weights)[0])
        if dweights is not None:
            parts.append(again(weight=table, per_sample_weights=dweights)[0])
        return [total(parts)]

    return push


def _by_use(table: Tensor, indices: Tensor, wanted: bool) -> Tensor:
    """Each row divided by how often `indices` name it."""
    if not wanted:
        return table
    uses = torch.zeros(len(table), device=table.device)  # float32: bfloat16 counts to 256
    uses.index_add_(0, indices.flatten(), torch.ones_like(indices.flatten(), dtype=uses.dtype))
    return (table / uses.clamp_min_(1).unsqueeze(1)).to(table.dtype)


def _taken(table: Tensor, rows: Tensor, sizes: Tensor) -> list[Tensor | None]:
    """Of each bag and column the row that was the largest; an empty bag has none."""
    return [table.gather(0, rows.clamp_min(0)).masked_fill_((sizes == 0).unsqueeze(1), 0)]

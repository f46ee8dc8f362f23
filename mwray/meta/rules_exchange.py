"""The tangent rule of batch norm over all workers: the same two sums per channel, exchanged in the tangent pass too."""

from __future__ import annotations

from mwray.meta.rules import Call, Push, Results, Tangents, rule
from mwray.models.sync_batch_norm import centred


@rule("mwray::sync_batch_norm")
def sync_batch_norm(call: Call) -> Push:
    """gamma rstd (x' - mean(x') - xh mean(xh x')) + gamma' xh + beta', means over the batches of all workers.

    Whether x' is zero is the same on every worker, so that all of them exchange or none does.
    """
    x, weight = call.read("x", "weight")
    team = call.arguments["team"]
    mean, rstd = call.keep(call.results[1]), call.keep(call.results[2])
    across = [1, -1] + [1] * (x.dim() - 2)

    def push(tangents: Tangents) -> Results:
        t, dweight, dbias = (tangents.get(name) for name in ("x", "weight", "bias"))
        shift = x.new_zeros(x.shape[1], dtype=mean.dtype) if dbias is None else dbias.to(mean.dtype)
        scale = None if dweight is None else dweight * rstd
        if scale is not None:
            shift = shift - mean * scale
        if t is None:
            result = shift.view(across).expand(x.shape).clone()
        else:
            result = centred(t, x, mean, rstd, team)[0].mul_((weight * rstd).view(across)).add_(shift.view(across))
        if scale is not None:
            result.addcmul_(x.to(mean.dtype), scale.view(across))
        return [result.to(x.dtype), None, None]

    return push

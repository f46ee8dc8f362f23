"""Tangent rules of layers: convolution, normalisation, pooling by maximum, dropout, attention.

The Jacobian of a normalisation by its own mean and deviation is symmetric (rstd (I - 11'/m - xh xh'/m) in each
group), so autograd's fused backward kernels also compute the forward derivative.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mwray.meta.rules import Call, Push, Results, Tangents, Unsupported, rule, total

aten = torch.ops.aten


@rule("convolution", "_convolution")
def convolution(call: Call) -> Push:
    """conv(x', W) + conv(x, W') + b': two forwards, one where the input is the data itself.

    The same for transposed convolutions: the operation is linear in each of its arguments.
    """
    x = call.read("input")[0] if "weight" in call.active else None
    weight = call.read("weight")[0] if "input" in call.active else None
    constants = list(call.arguments.values())[3:]
    func, shape = call.func, call.results[0].shape
    out_dtype = call.results[0].dtype

    def push(tangents: Tangents) -> Results:
        dx, dw, db = (tangents.get(name) for name in ("input", "weight", "bias"))
        if dx is None and dw is None:
            assert db is not None
            return db.view(-1, *[1] * (len(shape) - 2)).to(out_dtype).expand(shape)
        return total(
            [
                None if dw is None else func(x, dw, db, *constants),
                None if dx is None else func(dx, weight, db if dw is None else None, *constants),
            ]
        )

    return push


@rule(
    *["native_batch_norm", "_native_batch_norm_legit", "_batch_norm_with_update", "cudnn_batch_norm"],
    "miopen_batch_norm",
)
def batch_norm(call: Call) -> Push:
    """Batch norm, by batch statistics (training) or by running ones (evaluation).

    Training: gamma J x' + gamma' xh + beta' with the saved mean and inverse deviation; J x' by the backward kernel.
    """
    arguments = call.arguments
    x, gamma = call.read("input", "weight")
    eps = arguments.get("eps", arguments.get("epsilon"))
    training = arguments.get("training", True)  # `_batch_norm_with_update` does not say: it always trains
    if training:
        mean, rstd = call.keep(call.results[1]), call.keep(call.results[2])
    else:
        mean = arguments["running_mean"].clone()
        rstd = (arguments["running_var"] + eps).rsqrt()
    across = [1, -1] + [1] * (x.dim() - 2)
    mask = [True, False, False]
    # On a GPU the fused kernel's few launches count for more than its passes; in half precision its rounding does.
    by_channel = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)

    def push(tangents: Tangents) -> Results:
        t, dgamma, dbeta = (tangents.get(name) for name in ("input", "weight", "bias"))
        if t is not None and training and by_channel:
            return _batch_norm_by_channel(t, x, gamma, mean, rstd, dgamma, dbeta)
        result: Tensor | None = None
        if t is not None and training:
            result = aten.native_batch_norm_backward(t, x, gamma, None, None, mean, rstd, True, eps, mask)[0]
        elif t is not None:
            result = t * _scaled(rstd, gamma).view(across).to(t.dtype)
        if dgamma is None and dbeta is None:
            return _present(result)
        scale = None if dgamma is None else dgamma * rstd
        # gamma' xh + beta' as scale * x + shift: the shift is a number per channel, one pass over memory for both.
        shift = total([None if scale is None else -mean * scale, dbeta]).view(across).to(x.dtype)
        if result is None:
            return shift.expand_as(x) if scale is None else torch.addcmul(shift, x, scale.view(across).to(x.dtype))
        if scale is not None:
            result.addcmul_(x, scale.view(across).to(x.dtype))
        return result.add_(shift)

    return push


def _batch_norm_by_channel(
    t: Tensor, x: Tensor, gamma: Any, mean: Tensor, rstd: Tensor, dgamma: Any, dbeta: Any
) -> Tensor:
    """The tangent is a t + b x + c with numbers a, b, c per channel: three passes over memory in all.

    gamma J t = gamma rstd (t - mean(t) - xh mean(xh t)). The backward kernel gives the two sums, the kernel of
    evaluation b x + c.
    """
    sums = aten.native_batch_norm_backward(t, x, None, None, None, mean, rstd, True, 0.0, [False, True, True])
    share = mean.numel() / x.numel()
    a = _scaled(rstd, gamma)
    b = -a * rstd * sums[1] * share
    c = -a * sums[2] * share
    if dgamma is not None:
        b = b + dgamma * rstd
    c = c - b * mean
    if dbeta is not None:
        c = c + dbeta
    result = aten.native_batch_norm(x, b, c, torch.zeros_like(mean), torch.ones_like(mean), False, 0.0, 0.0)[0]
    return result.addcmul_(t, a.view(1, -1, *[1] * (x.dim() - 2)))


def _present(tangent: Tensor | None) -> Tensor:
    assert tangent is not None
    return tangent


def _scaled(rstd: Tensor, gamma: Tensor | None) -> Tensor:
    return rstd if gamma is None else rstd * gamma


@rule("native_layer_norm")
def layer_norm(call: Call) -> Push:
    """gamma * (J x') + gamma' xh + beta'."""
    x, gamma = call.read("input", "weight")
    shape = call.arguments["normalized_shape"]
    mean, rstd = call.keep(call.results[1]), call.keep(call.results[2])
    mask = [True, False, False]
    # The CPU's kernel takes float32 statistics beside bfloat16 images only where there is a float32 weight as well.
    mixed = x.device.type == "cpu" and x.dtype != mean.dtype

    def push(tangents: Tangents) -> Results:
        t, dgamma, dbeta = (tangents.get(name) for name in ("input", "weight", "bias"))
        parts: list[Tensor | None] = []
        if t is not None:
            ones = torch.ones(shape, dtype=mean.dtype) if mixed else None
            jt = aten.native_layer_norm_backward(t, x, shape, mean, rstd, ones, None, mask)[0]
            parts.append(jt if gamma is None else jt * gamma)
        if dgamma is not None:
            parts.append((x - mean) * rstd * dgamma)
        if dbeta is not None:
            parts.append(dbeta.expand_as(x) if not parts else dbeta)
        return [total(parts), None, None]

    return push


@rule("native_group_norm")
def group_norm(call: Call) -> Push:
    """As layer norm, over each sample's groups of channels; gamma and beta are per channel."""
    x, gamma = call.read("input", "weight")
    n, c, hxw, groups = (call.arguments[name] for name in ("N", "C", "HxW", "group"))
    mean, rstd = call.keep(call.results[1]), call.keep(call.results[2])
    across = [1, -1] + [1] * (x.dim() - 2)

    def push(tangents: Tangents) -> Results:
        t, dgamma, dbeta = (tangents.get(name) for name in ("input", "weight", "bias"))
        parts: list[Tensor | None] = []
        if t is not None:
            mask = [True, False, False]
            t = _laid_out_as(x, t)  # PyTorch 2.11 reads it as if it were, without a word
            jt = aten.native_group_norm_backward(t, x, mean, rstd, None, n, c, hxw, groups, mask)[0]
            parts.append(jt if gamma is None else jt * gamma.view(across))
        if dgamma is not None:
            grouped = x.reshape(n, groups, -1)
            normal = ((grouped - mean.view(n, groups, 1)) * rstd.view(n, groups, 1)).view(x.shape)
            parts.append(normal * dgamma.view(across))
        if dbeta is not None:
            parts.append(dbeta.view(across).expand_as(x) if not parts else dbeta.view(across))
        return [total(parts), None, None]

    return push


def _laid_out_as(x: Tensor, t: Tensor) -> Tensor:
    return t if t.stride() == x.stride() else torch.empty_like(x, dtype=t.dtype).copy_(t)


@rule("max_pool2d_with_indices", "adaptive_max_pool2d", "max_pool3d_with_indices", "adaptive_max_pool3d")
def max_pool(call: Call) -> Push:
    """The tangent at the places where the maxima were found."""
    indices = call.keep(call.results[1])
    spatial = -3 if "3d" in call.func.overloadpacket.__name__ else -2

    def push(tangents: Tangents) -> Results:
        flat = tangents["self"].flatten(spatial)
        return [flat.gather(-1, indices.flatten(spatial)).view(indices.shape), None]

    return push


@rule("native_dropout")
def dropout(call: Call) -> Push:
    """The drawn mask again; CPU draws its masks by bernoulli_ and multiplies, which needs no rule of its own."""
    probability, train = call.arguments["p"], call.arguments["train"]
    if not train or probability in (0, 1):
        raise Unsupported(f"{call.func} with p={probability}, train={train}")
    mask = call.keep(call.results[1])
    return lambda tangents: [aten.native_dropout_backward(tangents["input"], mask, 1 / (1 - probability)), None]


@rule(
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)
def attention(call: Call) -> Push:
    """softmax(scale q k' + mask) v, by its maths form; the probabilities are formed again, as in its backward.

    Fused kernels draw dropout masks that cannot be had again: then the call is refused.
    """
    arguments = call.arguments
    if arguments["dropout_p"] > 0:
        raise Unsupported(f"{call.func} draws its dropout mask inside the kernel; use the MATH backend of attention")
    q, k, v = call.read("query", "key", "value")
    groups = q.shape[-3] // k.shape[-3]  # grouped queries: several heads of q share one of k and v
    bias = arguments.get("attn_mask", arguments.get("attn_bias"))
    scale = arguments.get("scale") or q.shape[-1] ** -0.5
    causal = arguments["is_causal"]

    def push(tangents: Tangents) -> Results:
        dq, dk, dv = (tangents.get(name) for name in ("query", "key", "value"))
        dk, dv = (None if a is None else _every_head(a, groups) for a in (dk, dv))
        keys, values = _every_head(k, groups), _every_head(v, groups)
        probability = _probabilities(q, keys, bias, scale, causal)
        parts = [None if dv is None else probability @ dv]
        scores = [
            None if dq is None else (dq @ keys.mT).mul_(scale),
            None if dk is None else (q @ dk.mT).mul_(scale),
            tangents.get("attn_bias"),
        ]
        if any(score is not None for score in scores):
            change = aten._softmax_backward_data(total(scores), probability, -1, probability.dtype)
            parts.append(change @ values)
        return total(parts)

    return push


def _every_head(a: Tensor, groups: int) -> Tensor:
    return a if groups == 1 else a.repeat_interleave(groups, -3)


def _probabilities(q: Tensor, k: Tensor, bias: Any, scale: float, causal: bool) -> Tensor:
    scores = (q @ k.mT).mul_(scale)
    if bias is not None:
        scores = scores + bias
    if causal:
        ones = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill_(ones.triu(1), float("-inf"))
    # A row in which everything is masked weighs nothing, as in PyTorch's own forward; the plain softmax makes it NaN.
    weights: Tensor = scores.softmax(-1) if bias is None else aten._safe_softmax(scores, -1)
    return weights

"""Tangent rules of operations that are linear, elementwise or products: views, sums, activations, matrix products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mwray.meta.rules import Call, Push, Results, Tangents, Unsupported, dual_numbers, rule, total

aten = torch.ops.aten


@rule(
    *["t", "transpose", "permute", "unsqueeze", "squeeze", "expand", "slice", "select", "split", "split_with_sizes"],
    *["unbind", "diagonal", "unfold", "alias", "clone", "_to_copy", "sum", "mean", "neg", "flip", "roll", "repeat"],
    *["avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "cumsum", "index_select", "gather"],
    *["reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d", "upsample_nearest2d"],
    *["upsample_bilinear2d", "upsample_bicubic2d", "tril", "triu", "index", "rot90", "lift_fresh", "expand_as"],
    *["im2col", "col2im", "channel_shuffle", "pixel_shuffle"],
)
def linear(call: Call) -> Push:
    """Linear in its first argument, the others being constants: the same operation on the tangent."""
    first = next(iter(call.arguments))
    if call.active != {first}:
        return dual_numbers(call)
    again = call.without(first)
    return lambda tangents: again(**{first: tangents[first]})


@rule("view", "_unsafe_view", "_reshape_alias")
def reshape(call: Call) -> Push:
    """A view of the primal; the tangent may lie differently in memory, so it is reshaped."""
    shape = call.results[0].shape
    return lambda tangents: tangents["self"].reshape(shape)


@rule("constant_pad_nd")
def constant_pad(call: Call) -> Push:
    """Padding with a constant pads the tangent with zeros."""
    pad = call.arguments["pad"]
    return lambda tangents: aten.constant_pad_nd(tangents["self"], pad, 0)


@rule("cat", "stack")
def joined(call: Call) -> Push:
    """Concatenation; members without a tangent bring zeros."""
    again = call.without("tensors")
    shapes = [tensor.shape for tensor in call.arguments["tensors"]]

    def push(tangents: Tangents) -> Results:
        given = tangents["tensors"]
        like = next(t for t in given if t is not None)
        return again(tensors=[like.new_zeros(s) if t is None else t for s, t in zip(shapes, given, strict=True)])

    return push


@rule("add", "sub", "rsub", overwrite_safe=True)
def added(call: Call) -> Push:
    """self + alpha * other, self - alpha * other, and other - alpha * self."""
    name = call.func.overloadpacket.__name__
    alpha, shape = call.arguments["alpha"], call.results[0].shape
    a, b = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[name]

    def push(tangents: Tangents) -> Results:
        x, y = tangents.get("self"), tangents.get("other")
        if x is not None and y is not None:
            return torch.add(x, y, alpha=b) if a == 1 else torch.add(y, x, alpha=a)
        one, factor = (x, a) if y is None else (y, b)
        assert one is not None
        return (one if factor == 1 else one * factor).expand(shape)

    return push


@rule("copy", overwrite_safe=True)
def copied(call: Call) -> Push:
    """Overwriting with `src`: the tangent of the old value is gone."""
    shape = call.results[0].shape

    def push(tangents: Tangents) -> Results:
        source = tangents.get("src")
        return [None] if source is None else source.expand(shape)

    return push


@rule("mul", "mm", "bmm", "mv", "dot")
def product(call: Call) -> Push:
    """Bilinear: op(x', y) + op(x, y'). A factor is kept only if the other one can have a tangent."""
    names = ("self", next(n for n in ("other", "mat2", "vec", "tensor") if n in call.arguments))
    factors = [call.read(n)[0] if o in call.active else None for n, o in zip(names, reversed(names), strict=True)]
    func, shape = call.func, call.results[0].shape

    def push(tangents: Tangents) -> Results:
        x, y = (tangents.get(name) for name in names)
        left = None if x is None else func(x, factors[1])
        right = None if y is None else func(factors[0], y) if isinstance(y, Tensor) else None
        if left is not None and right is not None:
            return left + right if left.shape != shape else left.add_(right)
        return left if left is not None else right  # type: ignore[return-value]

    return push


@rule("addmm", "baddbmm")
def affine_product(call: Call) -> Push:
    """beta * self + alpha * first @ second."""
    names = [n for n in call.arguments if n not in ("self", "alpha", "beta")]
    first, second = (call.read(n)[0] if o in call.active else None for n, o in zip(names, reversed(names), strict=True))
    multiply: Any = aten.mm if call.func.overloadpacket.__name__ == "addmm" else aten.bmm
    alpha, beta, shape = call.arguments["alpha"], call.arguments["beta"], call.results[0].shape

    def push(tangents: Tangents) -> Results:
        a, b, bias = (tangents.get(n) for n in (*names, "self"))
        if a is None and b is None:
            assert bias is not None
            return (bias * beta).expand(shape)
        result = total([None if a is None else multiply(a, second), None if b is None else multiply(first, b)])
        result = result if alpha == 1 else result.mul_(alpha)
        return result if bias is None else result.add_(bias, alpha=beta)

    return push


@rule("div")
def quotient(call: Call) -> Push:
    """x / y: (x' - out * y') / y."""
    if call.arguments.get("rounding_mode") is not None:
        return dual_numbers(call)
    (y,) = call.read("other")
    out = call.out if "other" in call.active else None
    shape = call.results[0].shape

    def push(tangents: Tangents) -> Results:
        dx, dy = tangents.get("self"), tangents.get("other")
        if dy is None:
            assert dx is not None
            return (dx / y).expand(shape)
        change = out * dy
        return (change.neg_() if dx is None else dx - change) / y

    return push


def _by_result(call: Call, backward: Any, *constants: Any) -> Push:
    """An elementwise function has a diagonal Jacobian, its own transpose: autograd's backward kernel serves."""
    out = call.out
    return lambda tangents: backward(tangents["self"], out, *constants)


def _by_input(call: Call, backward: Any, *constants: Any) -> Push:
    (x,) = call.read("self")
    return lambda tangents: backward(tangents["self"], x, *constants)


@rule("relu", overwrite_safe=True)
def relu(call: Call) -> Push:
    """The mask is where the result is positive."""
    return _by_result(call, aten.threshold_backward, 0)


@rule("sigmoid", overwrite_safe=True)
def sigmoid(call: Call) -> Push:
    """y (1 - y)."""
    return _by_result(call, aten.sigmoid_backward)


@rule("tanh", overwrite_safe=True)
def tanh(call: Call) -> Push:
    """1 - y^2."""
    return _by_result(call, aten.tanh_backward)


@rule("hardtanh", "leaky_relu", "threshold", "silu", "mish", "softplus", "gelu", "hardswish", "hardsigmoid")
def from_input(call: Call) -> Push:
    """Activations whose backward kernel reads the input: the arguments after it are those of the forward."""
    backward = getattr(aten, f"{call.func.overloadpacket.__name__}_backward")
    extra = [value for name, value in call.arguments.items() if name not in ("self", "approximate", "value")]
    if "approximate" in call.arguments:
        (x,) = call.read("self")
        approximate = call.arguments["approximate"]
        return lambda tangents: backward(tangents["self"], x, approximate=approximate)
    if call.func.overloadpacket.__name__ == "leaky_relu":
        extra.append(False)
    return _by_input(call, backward, *extra)


@rule("elu")
def elu(call: Call) -> Push:
    """ELU, SELU and CELU."""
    (x,) = call.read("self")
    slopes = [call.arguments[name] for name in ("alpha", "scale", "input_scale")]
    return lambda tangents: aten.elu_backward(tangents["self"], *slopes, False, x)


@rule("_softmax", "_safe_softmax")
def softmax(call: Call) -> Push:
    """y (t - sum y t): the Jacobian is symmetric, so that this is the backward kernel too."""
    out, dim = call.out, call.arguments["dim"]
    return lambda tangents: aten._softmax_backward_data(tangents["self"].to(out.dtype), out, dim, out.dtype)


@rule("_log_softmax")
def log_softmax(call: Call) -> Push:
    """t - sum softmax(x) t."""
    out, dim = call.out, call.arguments["dim"]
    return lambda tangents: tangents["self"] - (out.exp() * tangents["self"]).sum(dim, keepdim=True)


@rule("where")
def where(call: Call) -> Push:
    """Each place takes the tangent of the side it took its value from."""
    if not isinstance(call.arguments.get("self"), Tensor):
        raise Unsupported(f"{call.func} without both sides")
    (condition,) = call.read("condition")
    shape = call.results[0].shape

    def push(tangents: Tangents) -> Results:
        x, y = tangents.get("self"), tangents.get("other")
        return torch.where(condition, 0.0 if x is None else x, 0.0 if y is None else y).expand(shape)

    return push


@rule("masked_fill", overwrite_safe=True)
def masked_fill(call: Call) -> Push:
    """A filled place no longer depends on anything."""
    if call.active != {"self"}:
        return dual_numbers(call)
    (mask,) = call.read("mask")
    return lambda tangents: tangents["self"].masked_fill(mask, 0)

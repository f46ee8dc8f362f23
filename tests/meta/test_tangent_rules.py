"""Each operation's tangent rule against central differences, for every subset of its arguments that can move."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mwray.meta import tangent as tangent_module
from mwray.meta.rules import RULES, Call, Unsupported
from mwray.meta.tangent import Linearized

aten = torch.ops.aten
Function = Callable[..., Tensor]


class Applied(nn.Module):
    """A function of parameters alone; they reach it through a product, so that it may work in place."""

    def __init__(self, function: Function, shapes: list[tuple[int, ...]]) -> None:
        super().__init__()
        self.function = function
        self.inputs = nn.ParameterList(nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(*[parameter * x for parameter in self.inputs])


MASK = torch.tensor([[True, False, True, False], [False, False, True, True], [True, True, True, False]])
ROWS = torch.tensor([[0, 2, 2], [1, 0, 2]])
IMAGE, MATRIX, TOKENS = (2, 4, 6, 6), (3, 4), (2, 2, 5, 4)

ELEMENTWISE: dict[str, Function] = {
    "relu": F.relu,
    "relu_": lambda a: a.relu_(),
    "leaky relu": lambda a: F.leaky_relu(a, 0.2),
    "leaky relu_": lambda a: F.leaky_relu(a, 0.2, inplace=True),
    "gelu": F.gelu,
    "gelu tanh": lambda a: F.gelu(a, approximate="tanh"),
    "silu": F.silu,
    "silu_": lambda a: F.silu(a, inplace=True),
    "elu": lambda a: F.elu(a, 0.7),
    "elu_": lambda a: F.elu_(a, 0.7),
    "selu": F.selu,
    "celu": lambda a: F.celu(a, 0.6),
    "tanh": torch.tanh,
    "tanh_": lambda a: a.tanh_(),
    "sigmoid": torch.sigmoid,
    "hardtanh": lambda a: F.hardtanh(a, -0.5, 0.8),
    "hardtanh_": lambda a: F.hardtanh_(a, -0.5, 0.8),
    "relu6": F.relu6,
    "threshold": lambda a: F.threshold(a, 0.1, -3.0),
    "softplus": lambda a: F.softplus(a, 2.0, 3.0),
    "mish": F.mish,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "logsigmoid": F.logsigmoid,
    "exp": torch.exp,
    "power": lambda a: a.abs().pow(1.7),
    "clamp": lambda a: a.clamp(-0.3, 0.9),
    "softmax": lambda a: a.softmax(-1),
    "log softmax": lambda a: a.log_softmax(0),
    "logsumexp": lambda a: a.logsumexp(1),
    "norm": lambda a: a.norm(dim=1),
    "variance": lambda a: a.var(1) + a.std(1),
    "normalize": lambda a: F.normalize(a, dim=1),
    "rounded quotient": lambda a: torch.div(a, 0.3, rounding_mode="floor") + a,
    "masked fill": lambda a: a.masked_fill(MASK, 2.0),
    "masked fill_": lambda a: a.masked_fill_(MASK, 2.0).sin(),
    "numbers": lambda a: (3 - 2 * a) / 4 + 1 - (a - 1).neg(),
    "number on top": lambda a: 2 / (3 + a * a),
    "rsub": lambda a: torch.rsub(a, 1.5, alpha=2),
}

SHAPES: dict[str, Function] = {
    "view": lambda a: a.view(4, 3),
    "view of what is transposed": lambda a: a.t().contiguous().view(-1),
    "reshape": lambda a: a.t().reshape(2, 6),
    "flatten": lambda a: torch.flatten(a[None], 1),
    "permute": lambda a: a[None].permute(2, 0, 1),
    "squeeze": lambda a: a[:, None].squeeze(1).unsqueeze(0).squeeze(),
    "slice": lambda a: a[1:, ::2],
    "select": lambda a: a[:, 1],
    "negative index": lambda a: a[-1, ...],
    "fancy index": lambda a: a[torch.tensor([0, 2, 2])],
    "gather": lambda a: a.gather(1, torch.tensor([[0, 1], [3, 3], [2, 0]])),
    "chunk": lambda a: torch.chunk(a, 2, 1)[1] * torch.chunk(a, 2, 1)[0],
    "split": lambda a: a.split([1, 3], 1)[1],
    "unbind": lambda a: a.unbind(0)[2] * a.unbind(0)[0],
    "expand": lambda a: a[:, None].expand(3, 2, 4),
    "repeat": lambda a: a.repeat(2, 1),
    "pad": lambda a: F.pad(a, (1, 2), value=3.0),
    "pad, reflected": lambda a: F.pad(a[None], (1, 2), mode="reflect"),
    "mean": lambda a: a.mean(0, keepdim=True),
    "sum": lambda a: a.sum(),
    "maximum": lambda a: a.amax(1) + a.max(0).values.sum(),
    "cumsum": lambda a: a.cumsum(1),
    "flip": lambda a: a.flip(1).roll(1, 0),
    "double": lambda a: a.float().double() * a,
    "einsum": lambda a: torch.einsum("ij,kj->ik", a, a.sin()),
    "as strided": lambda a: a.as_strided((2, 2), (4, 1)).sin(),
    "transposed in place": lambda a: a.transpose_(0, 1).sin() @ a.t(),
    "views in place": lambda a: a.t_().unsqueeze_(1).squeeze_(1).unsqueeze_(0).squeeze_() * a,
    "as strided in place": lambda a: a.as_strided_((2, 2), (4, 1)).sin(),
    "one of two views changed in place": lambda a: a[1:].t_().sin() @ a[1:],
    "slice written to": lambda a: torch.zeros(3, 6, dtype=a.dtype).index_copy(1, torch.tensor([1, 2, 4, 5]), a),
}

POOLS: dict[str, Function] = {
    "max 2d": lambda a: F.max_pool2d(a, 3, 2, 1),
    "max 1d": lambda a: F.max_pool1d(a[0], 2),
    "max 3d": lambda a: F.max_pool3d(a[None], 2),
    "adaptive max": lambda a: F.adaptive_max_pool2d(a, 2),
    "adaptive max 1d": lambda a: F.adaptive_max_pool1d(a[0], 2),
    "average 2d": lambda a: F.avg_pool2d(a, 3, 2, 1, count_include_pad=False),
    "average 1d": lambda a: F.avg_pool1d(a[0], 2),
    "adaptive average": lambda a: F.adaptive_avg_pool2d(a, (2, 4)),
    "global average": lambda a: F.adaptive_avg_pool2d(a, 1),
    "adaptive average 1d": lambda a: F.adaptive_avg_pool1d(a[0], 2),
    "upsampled": lambda a: F.interpolate(a, scale_factor=2),
    "upsampled smoothly": lambda a: F.interpolate(a, scale_factor=2, mode="bilinear"),
    "pixel shuffle": lambda a: F.pixel_shuffle(a, 2),
    "local response": lambda a: F.local_response_norm(a, 3),
}

SEVERAL: dict[str, tuple[Function, list[tuple[int, ...]]]] = {
    "add": (lambda a, b: a + 2 * b, [MATRIX, (4,)]),
    "add, alpha": (lambda a, b: torch.add(a, b, alpha=3), [MATRIX, (3, 1)]),
    "add_": (lambda a, b: a.add_(b, alpha=0.5), [MATRIX, MATRIX]),
    "sub": (lambda a, b: torch.sub(a, b, alpha=2), [(4,), MATRIX]),
    "sub_": (lambda a, b: a.sub_(b), [MATRIX, (4,)]),
    "mul": (lambda a, b: a * b, [MATRIX, (3, 1)]),
    "mul_": (lambda a, b: a.mul_(b), [MATRIX, (3, 1)]),
    "div": (lambda a, b: a / (b + 5), [(4,), MATRIX]),
    "div_": (lambda a, b: a.div_(b + 5), [MATRIX, (4,)]),
    "maximum": (torch.maximum, [MATRIX, MATRIX]),
    "where": (lambda a, b: torch.where(MASK, a, b), [MATRIX, (4,)]),
    "copy_": (lambda a, b: a.copy_(b).sin(), [MATRIX, (4,)]),
    "cat": (lambda a, b: torch.cat([a, torch.ones(1, 4).double(), b]), [MATRIX, (2, 4)]),
    "stack": (lambda a, b: torch.stack([a, b], 1), [MATRIX, MATRIX]),
    "matmul": (lambda a, b: a @ b, [MATRIX, (4, 2)]),
    "matrix and vector": (lambda a, b: a @ b, [MATRIX, (4,)]),
    "dot": (lambda a, b: a @ b, [(4,), (4,)]),
    "bmm": (lambda a, b: a @ b, [(2, 2, 3, 4), (2, 4, 5)]),
    "baddbmm": (lambda a, b, c: torch.baddbmm(a, b, c, beta=0.5, alpha=2), [(2, 3, 2), (2, 3, 4), (2, 4, 2)]),
    "addmm": (lambda a, b, c: torch.addmm(a, b, c, beta=0.5, alpha=2), [(2,), (3, 4), (4, 2)]),
    "bilinear": (lambda a, b: F.bilinear(a, a.sin(), b), [MATRIX, (2, 4, 4)]),
    "linear": (F.linear, [(2, 3, 4), (5, 4), (5,)]),
    "linear without bias": (F.linear, [(3, 4), (5, 4)]),
    "conv 2d": (lambda a, w, b: F.conv2d(a, w, b, 2, 1), [IMAGE, (3, 4, 3, 3), (3,)]),
    "conv 2d, grouped": (lambda a, w, b: F.conv2d(a, w, b, 1, 2, 2, 2), [IMAGE, (6, 2, 3, 3), (6,)]),
    "conv 2d, same": (lambda a, w: F.conv2d(a, w, padding="same"), [IMAGE, (3, 4, 2, 2)]),
    "conv 1d": (lambda a, w, b: F.conv1d(a, w, b, 2, 1), [(2, 4, 7), (3, 4, 3), (3,)]),
    "conv 3d": (lambda a, w: F.conv3d(a[None], w), [(2, 4, 5, 5), (3, 2, 2, 2, 2)]),
    "conv transposed": (
        lambda a, w, b: F.conv_transpose2d(a, w, b, 2, 1, 1, 2),
        [IMAGE, (4, 3, 3, 3), (6,)],
    ),
    "conv transposed, dilated": (
        lambda a, w, b: F.conv_transpose2d(a, w, b, 2, 1, 1, 2, dilation=2),
        [IMAGE, (4, 3, 3, 3), (6,)],
    ),
    "conv transposed 1d": (
        lambda a, w, b: F.conv_transpose1d(a, w, b, 2, 1, 1),
        [(2, 4, 7), (4, 3, 3), (3,)],
    ),
    "conv transposed 1d, grouped and dilated": (
        lambda a, w, b: F.conv_transpose1d(a, w, b, 2, 1, 0, 2, 3),
        [(2, 4, 7), (4, 3, 3), (6,)],
    ),
    "conv transposed 3d": (
        lambda a, w, b: F.conv_transpose3d(a[None], w, b, 2, 1, 1, 2, 2),
        [(4, 3, 3, 3), (4, 2, 2, 2, 2), (4,)],
    ),
    "layer norm": (lambda a, w, b: F.layer_norm(a, (6, 6), w, b), [IMAGE, (6, 6), (6, 6)]),
    "layer norm, bare": (lambda a: F.layer_norm(a, (6,)), [IMAGE]),
    "group norm": (lambda a, w, b: F.group_norm(a, 2, w, b), [IMAGE, (4,), (4,)]),
    "group norm, bare": (lambda a: F.group_norm(a, 2), [IMAGE]),
    "group norm, channels last": (
        lambda a, w, b: F.group_norm(a.contiguous(memory_format=torch.channels_last), 2, w, b),
        [IMAGE, (4,), (4,)],
    ),
    "rms norm": (lambda a, w: F.rms_norm(a, (6,), w), [IMAGE, (6,)]),
    "batch norm": (lambda a, w, b: F.batch_norm(a, None, None, w, b, True), [IMAGE, (4,), (4,)]),
    "batch norm, bare": (lambda a: F.batch_norm(a, None, None, training=True), [IMAGE]),
    "batch norm, scale only": (lambda a, w: F.batch_norm(a, None, None, w, None, True), [IMAGE, (4,)]),
    "batch norm 1d": (lambda a, w, b: F.batch_norm(a, None, None, w, b, True), [(5, 3), (3,), (3,)]),
    "batch norm, evaluation": (
        lambda a, w, b: F.batch_norm(a, torch.ones(4).double(), torch.full((4,), 2.0).double(), w, b),
        [IMAGE, (4,), (4,)],
    ),
    "instance norm": (lambda a, w, b: F.instance_norm(a, weight=w, bias=b), [IMAGE, (4,), (4,)]),
    "embedding": (lambda w: F.embedding(torch.tensor([[0, 2], [2, 1]]), w), [MATRIX]),
    "embedding, padded": (lambda w: F.embedding(torch.tensor([[0, 2], [2, 0]]), w, padding_idx=1), [MATRIX]),
    "bags, summed": (lambda w: F.embedding_bag(ROWS, w, mode="sum"), [MATRIX]),
    "bags, averaged": (lambda w: F.embedding_bag(ROWS.flatten(), w, torch.tensor([0, 1, 1]), padding_idx=1), [MATRIX]),
    "bags, largest": (lambda w: F.embedding_bag(ROWS.flatten(), w, torch.tensor([0, 1, 1]), mode="max"), [MATRIX]),
    "bags, weighted": (
        lambda w, each: F.embedding_bag(ROWS, w, mode="sum", per_sample_weights=each),
        [MATRIX, (2, 3)],
    ),
    "weight norm": (lambda v, g: torch._weight_norm(v, g), [MATRIX, (3, 1)]),
    "prelu": (F.prelu, [IMAGE, (4,)]),
    "cosine": (lambda a, b: F.cosine_similarity(a, b), [MATRIX, MATRIX]),
    "attention": (F.scaled_dot_product_attention, [TOKENS, (2, 2, 3, 4), (2, 2, 3, 4)]),
    "attention, causal": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3),
        [TOKENS, TOKENS, TOKENS],
    ),
    "attention, mask": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=torch.eye(5).double() * 3),
        [TOKENS, TOKENS, TOKENS],
    ),
    "attention, boolean mask": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=torch.eye(5) < 1),
        [TOKENS, TOKENS, TOKENS],
    ),
    "attention, learned bias": (
        lambda q, k, v, bias: F.scaled_dot_product_attention(q, k, v, attn_mask=bias),
        [TOKENS, TOKENS, TOKENS, (2, 2, 5, 5)],
    ),
    "attention, grouped queries": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        [TOKENS, (2, 1, 5, 4), (2, 1, 5, 4)],
    ),
    "attention, one sequence": (F.scaled_dot_product_attention, [(5, 4), (5, 4), (5, 4)]),
}

CASES = {
    **{name: (function, [MATRIX]) for name, function in (ELEMENTWISE | SHAPES).items()},
    **{f"pool, {name}": (function, [IMAGE]) for name, function in POOLS.items()},
    **{f"several, {name}": case for name, case in SEVERAL.items()},
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    tangent_module._warned.clear()
    tangent_module._failures.clear()


def difference(model: Applied, x: Tensor, direction: dict[str, Tensor], eps: float) -> Tensor:
    def at(step: float) -> Tensor:
        moved = {name: p.detach() + step * direction.get(name, 0) for name, p in model.named_parameters()}
        return torch.func.functional_call(model, moved, (x,))

    return (at(eps) - at(-eps)) / (2 * eps)


@pytest.mark.parametrize("name", CASES)
def test_rule_against_differences(name, caplog):
    function, shapes = CASES[name]
    model, x = Applied(function, shapes), torch.tensor(1.3, dtype=torch.float64)
    recording = Linearized(model, x)
    names = [key for key, _ in model.named_parameters()]
    values = {key: torch.randn_like(p) for key, p in model.named_parameters()}
    for count in range(1, len(names) + 1):
        for some in itertools.combinations(names, count):
            direction = {key: values[key] for key in some}
            # Half of "double" goes through single precision: its differences need a long step.
            eps, tolerance = (1e-2, 1e-4) if name == "double" else (1e-6, 1e-7)
            got, expected = recording.tangent(direction), difference(model, x, direction, eps)
            assert (got - expected).norm() <= tolerance * (1 + expected.norm()), some
    assert not caplog.records, "fell back to dual numbers"


TABLES: dict[str, dict[str, int | bool | str]] = {
    "padding": {"padding_idx": 2},
    "by frequency": {"scale_grad_by_freq": True},
    "both": {"padding_idx": 2, "scale_grad_by_freq": True},
    "bags": {"mode": "sum", "padding_idx": 2},
    "means": {"mode": "mean", "padding_idx": 2},
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_what_reverse_mode_says(name):
    """<u, J v> = <J' u, v>, where the gradient of a table is not its derivative."""
    options = TABLES[name]
    look_up = F.embedding_bag if "mode" in options else F.embedding
    model = Applied(lambda w: look_up(ROWS, w, **options), [MATRIX])
    recording = Linearized(model, torch.tensor(1.3).double())
    direction = {"inputs.0": torch.randn(MATRIX).double()}
    u = torch.randn_like(recording.outputs)
    (pulled,) = torch.autograd.grad(recording.outputs, model.inputs[0], u, retain_graph=True)
    expected = (pulled * direction["inputs.0"]).sum()
    assert abs((recording.tangent(direction) * u).sum() - expected) < 1e-12 * abs(expected)


def test_frozen_arguments_are_not_kept():
    """The factor of an argument without a gradient stays out of memory, as in autograd."""
    weight, x = nn.Parameter(torch.randn(5, 4)), torch.randn(3, 4)
    body = nn.Linear(4, 4)

    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.weight = body, weight

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.body(x), self.weight)

    weight.requires_grad_(False)
    recording = Linearized(Frozen(), x)
    kept = [tensor for entry in recording._tape._entries for tensor in entry.kept]
    assert {tuple(tensor.shape) for tensor in kept} == {(3, 4), (4, 5)}  # x, for body.weight; and weight'


def test_what_is_drawn_inside_a_fused_kernel_is_refused():
    """CUDA's fused attention draws its dropout mask where nobody can read it; its rule must say so."""
    call_arguments = {"dropout_p": 0.1, "query": None, "key": None, "value": None}
    call = Call(aten._scaled_dot_product_flash_attention.default, call_arguments, {"query"})
    with pytest.raises(Unsupported, match="MATH backend"):
        RULES["_scaled_dot_product_flash_attention"](call)


def test_cuda_dropout_rule():
    """CUDA's dropout returns its mask; the same operation exists on CPU, so its rule can be held here."""
    model = Applied(lambda a: aten.native_dropout(a, 0.4, True)[0], [(50, 4)])
    recording = Linearized(model, torch.tensor(1.3).double())
    direction = {"inputs.0": torch.randn(50, 4).double()}
    mask = (recording.outputs != 0).double()
    assert 0 < mask.mean() < 1
    assert torch.allclose(recording.tangent(direction), direction["inputs.0"] * 1.3 * mask / 0.6, rtol=1e-6)

"""Small networks that between them do everything a tangent pass must follow, and what tests compare it with."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mwray.models.registry import MODELS


class Block(nn.Module):
    """A residual block with batch norm, an in-place activation and an in-place add."""

    def __init__(self, width: int, norm: Callable[[int], nn.Module], activation: nn.Module) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), norm(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, groups=2), norm(width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.activation(self.norm1(self.conv1(x)))))
        y += x
        return self.activation(y)


def residual_net(norm=nn.BatchNorm2d, activation: nn.Module | None = None, drop: float = 0.0) -> nn.Module:
    activation = activation or nn.ReLU(inplace=True)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        norm(8),
        activation,
        Block(8, norm, activation),
        nn.Dropout(drop),
        nn.MaxPool2d(2),
        Block(8, norm, activation),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


class Transformer(nn.Module):
    """Patches of an image, one PyTorch encoder layer, mean over tokens."""

    def __init__(self, drop: float, activation: str = "gelu", norm_first: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.position = nn.Parameter(torch.randn(1, 16, 16) * 0.1)
        self.layer = nn.TransformerEncoderLayer(
            16, 2, 24, dropout=drop, activation=activation, batch_first=True, norm_first=norm_first
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.layer(tokens).mean(1))


class SmallViT(nn.Module):
    """A vision transformer: class token, pre-norm blocks, heads by scaled dot products, read at the class token."""

    def __init__(self, width: int = 16, heads: int = 2, depth: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.1)
        self.position = nn.Parameter(torch.randn(1, 17, width) * 0.1)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(width),
                    "qkv": nn.Linear(width, 3 * width),
                    "out": nn.Linear(width, width),
                    "norm2": nn.LayerNorm(width),
                    "mlp": nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)),
                }
            )
            for _ in range(depth)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        for block in self.blocks:
            q, k, v = block["qkv"](block["norm1"](x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            x = x + block["out"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            x = x + block["mlp"](block["norm2"](x))
        return self.head(self.norm(x[:, 0]))


class Shared(nn.Module):
    """One batch norm and one convolution used twice, and a weight tied between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(self.norm(self.conv(self.stem(x))).relu())).tanh()
        return self.second(F.gelu(self.first(x.mean((2, 3)))))


def hooked() -> nn.Module:
    net = residual_net()
    net[1].register_forward_hook(lambda module, inputs, output: output * 1.5)
    net[3].register_forward_pre_hook(lambda module, inputs: (inputs[0].sigmoid(),))
    return net


def weight_normed() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(768, 6)), nn.SiLU(), nn.Linear(6, 5)
    )


NETS: dict[str, Callable[[], nn.Module]] = {
    "residual": residual_net,
    "dropout": lambda: residual_net(drop=0.4),
    "group norm": lambda: residual_net(lambda width: nn.GroupNorm(2, width), nn.SiLU(inplace=True)),
    "instance norm": lambda: residual_net(lambda width: nn.InstanceNorm2d(width, affine=True), nn.GELU()),
    "plain batch norm": lambda: residual_net(
        lambda width: nn.BatchNorm2d(width, affine=False), nn.LeakyReLU(inplace=True)
    ),
    "no running": lambda: residual_net(
        lambda width: nn.BatchNorm2d(width, track_running_stats=False), nn.ReLU6(inplace=True)
    ),
    "cumulative": lambda: residual_net(lambda width: nn.BatchNorm2d(width, momentum=None), nn.ELU(inplace=True)),
    "no norm": lambda: residual_net(nn.Identity, nn.Hardswish(inplace=True)),
    "evaluation": lambda: residual_net().eval(),
    "transformer": lambda: Transformer(0.0),
    "transformer, dropout": lambda: Transformer(0.3, "relu", norm_first=True),
    "transformer, evaluation": lambda: Transformer(0.3).eval(),
    "vit": SmallViT,
    "shared": Shared,
    "hooks": hooked,
    "weight norm": weight_normed,
    "resnet8": lambda: MODELS["resnet8"](5, (3, 16, 16)),
    "wide": lambda: MODELS["wrn10-1"](5, (3, 16, 16)),
    "mlp": lambda: MODELS["mlp"](5, (3, 16, 16)),
    "small": lambda: MODELS["small"](5, (3, 16, 16)),
}

WITHOUT_DUAL_NUMBERS = {"weight norm"}  # PyTorch has no forward derivative of its fused kernel


def images(n: int = 6, size: int = 16, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, 3, size, size, dtype=dtype)


def random_direction(model: nn.Module) -> dict[str, Tensor]:
    return {name: torch.randn_like(p) for name, p in model.named_parameters()}


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def seeded_record(kind, model: nn.Module, x: Tensor):
    torch.manual_seed(7)
    return kind(model, x)


def differences(model: nn.Module, x: Tensor, direction: dict[str, Tensor], eps: float = 1e-6) -> Tensor:
    """Central difference of the outputs, random numbers as in `seeded_record`; buffers of a copy move."""

    def at(step: float) -> Tensor:
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in moved.named_parameters():
                parameter += step * direction[name]
        torch.manual_seed(7)
        return moved(x).detach()

    return (at(eps) - at(-eps)) / (2 * eps)


def random_direction_at(model: nn.Module) -> dict[str, Tensor]:
    """A direction that draws nothing from the global generator."""
    generator = torch.Generator().manual_seed(1)
    return {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in model.named_parameters()}

"""A network whose images are cast to its parameters' type: the loop's images are float32."""

from __future__ import annotations

from torch import Tensor, nn

from mwray.models.small import SmallConvNet


class AnyPrecision(nn.Module):
    def __init__(self, num_classes: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.net = SmallConvNet(num_classes, shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.to(self.net.linear.weight.dtype))

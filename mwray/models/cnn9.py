"""The nine-layer convolutional network of Co-teaching (Han et al., NeurIPS 2018, Table 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mwray.config import ConfigError

SMALLEST = 28  # two poolings by 2, then three convolutions without padding: 28 / 4 - 6 = 1 pixel is left


class CNN9(nn.Module):
    """3x3 convolutions of 128 (3), 256 (3), 512, 256 and 128 channels, each with batch norm and leaky ReLU (0.01).

    Max-pooling by 2 and dropout of whole channels (0.25) follow the third and the sixth; the last three have no
    padding; global average pooling, one linear layer. Convolutions have biases, as in the authors' code. 4,434,570
    parameters for 10 classes of colour images.
    """

    def __init__(self, num_classes: int, shape: tuple[int, int, int]) -> None:
        """Build for images of `shape` (channels, height, width).

        Raises:
            ValueError: images smaller than 28x28.
        """
        super().__init__()
        if min(shape[1:]) < SMALLEST:
            raise ConfigError(
                f"model.name: 'cnn9' needs images of at least {SMALLEST}x{SMALLEST} pixels, and these have "
                f"{shape[1]}x{shape[2]}; use 'small' or a ResNet"
            )
        self.features = nn.Sequential(
            *_layer(shape[0], 128),
            *_layer(128, 128),
            *_layer(128, 128),
            nn.MaxPool2d(2),
            nn.Dropout2d(0.25),
            *_layer(128, 256),
            *_layer(256, 256),
            *_layer(256, 256),
            nn.MaxPool2d(2),
            nn.Dropout2d(0.25),
            *_layer(256, 512, padding=0),
            *_layer(512, 256, padding=0),
            *_layer(256, 128, padding=0),
            nn.AdaptiveAvgPool2d(1),
        )
        self.linear = nn.Linear(128, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, C, H, W]."""
        return self.linear(torch.flatten(self.features(x), 1))


def _layer(in_channels: int, channels: int, padding: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(in_channels, channels, 3, 1, padding), nn.BatchNorm2d(channels), nn.LeakyReLU(0.01)
